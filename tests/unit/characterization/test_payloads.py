"""Payloads: whatever the specification, a part of a query is the same slice of the same query."""

import pytest
import torch

from tailrank.characterization.payloads import QueryPool, batch_runner
from tailrank.core.errors import ConfigError
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.features import Feature, FeatureBatch, FeatureSpec, TableSpec
from tailrank.inference.eager import EagerRanker
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.workload.index_traces import parse_index_trace

SPEC = FeatureSpec(
    features=(
        Feature(name="profile", side="user", kind="dense", width=2),
        Feature(name="history", side="user", kind="bag", table="items", pooling_factor=3.5),
        Feature(name="item", side="item", kind="bag", table="items"),
        Feature(name="tags", side="item", kind="bag", table="tags", pooling_factor=0.5),
    ),
    tables=(
        TableSpec(name="items", num_embeddings=100, embedding_dim=4),
        TableSpec(name="tags", num_embeddings=3, embedding_dim=4),
    ),
)


@pytest.fixture(scope="module")
def pool() -> QueryPool:
    return QueryPool.random(SPEC, seed=1)


def make_query(pool: QueryPool, num_items: int, choice: int) -> Query:
    return Query(0, "m", 0, None, num_items, 0, pool.payload(choice, num_items))


def test_features_fit_the_specification_and_the_pooling_factors(pool: QueryPool) -> None:
    features = pool.features(BatchPart(make_query(pool, 2000, 7), 0, 2000))
    features.check(SPEC)
    lengths = features.item.offsets.diff().view(2000, 2).float().mean(0)
    assert lengths[0] == 1.0
    assert 0.45 < lengths[1] < 0.55
    assert int(features.item.values_L.max()) == 99


def test_parts_of_a_query_join_to_the_whole(pool: QueryPool) -> None:
    query = make_query(pool, 50, 12345)
    whole = pool.features(BatchPart(query, 0, 50))
    parts = [BatchPart(query, 0, 20), BatchPart(query, 20, 1), BatchPart(query, 21, 29)]
    joined = FeatureBatch.concat([pool.features(part) for part in parts])
    joined.check(SPEC)
    assert torch.equal(joined.item.values_L, whole.item.values_L)
    assert torch.equal(joined.item.offsets, whole.item.offsets)


def test_the_runner_answers_each_part_with_its_own_scores(pool: QueryPool) -> None:
    model = build_model(DLRMConfig(spec=SPEC, bottom_mlp=(4,), top_mlp=(3, 1)), seed=0)
    run = batch_runner(EagerRanker(model), pool)
    first, second = make_query(pool, 5, 1), make_query(pool, 9, 999)
    alone = [run(Batch(0, 0, (BatchPart(q, 0, q.num_items),)))[0] for q in (first, second)]
    together = run(Batch(1, 0, (BatchPart(first, 0, 5), BatchPart(second, 0, 9))))
    for scores, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(scores, expected)


def test_a_query_larger_than_the_pool_is_refused(pool: QueryPool) -> None:
    with pytest.raises(ConfigError, match="num_items"):
        pool.payload(0, pool.num_items_max + 1)


def test_sequences_of_one_user_are_of_one_length() -> None:
    names, tables = ("clicks", "shops"), SPEC.tables[:1]
    sequences = tuple(
        Feature(name=name, side="user", kind="sequence", table="items", pooling_factor=2.5)
        for name in names
    )
    spec = FeatureSpec(features=(*sequences, SPEC.features[2]), tables=tables)
    query = QueryPool.random(spec, seed=2)
    lengths = [query.features(BatchPart(make_query(query, 1, n), 0, 1)).user for n in range(40)]
    seen = {tuple(user.offsets.diff().tolist()) for user in lengths}
    assert seen == {(2, 2), (3, 3)}


def test_popular_ids_are_those_of_the_table_on_both_sides() -> None:
    pool = QueryPool.random(SPEC, 1, parse_index_trace("zipf:1.5"))
    features = pool.features(BatchPart(make_query(pool, 2000, 7), 0, 2000))
    features.check(SPEC)
    item_ids, row = features.item.values_L, features.item.offsets[:-1].view(2000, 2)[:, 0]
    user_ids = torch.cat(
        [pool.features(BatchPart(make_query(pool, 1, n), 0, 1)).user.values_L for n in range(500)]
    )
    items, users = (torch.bincount(ids, minlength=100) for ids in (item_ids[row], user_ids))
    # zeta(1.5) over 100 rows: the most popular has 41 % of the reads.
    assert 0.35 < int(items.max()) / int(items.sum()) < 0.48
    assert items.argmax() == users.argmax()


def test_uniform_ids_are_the_default_and_stay_what_they_were() -> None:
    """Results are compared across releases by their seed."""
    item = QueryPool.random(SPEC, 1)._item
    assert item.values_L[:6].tolist() == [89, 36, 1, 61, 0, 37]
    assert torch.equal(
        item.values_L, QueryPool.random(SPEC, 1, parse_index_trace("uniform"))._item.values_L
    )
