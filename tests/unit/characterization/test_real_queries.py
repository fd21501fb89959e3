"""Queries from a data set: real users with their own candidates, and what they are recorded as."""

from pathlib import Path

import pytest
import torch
from tests.unit.data.movielens_files import write_movielens

from tailrank.characterization import payloads
from tailrank.characterization.payloads import QueryPool
from tailrank.characterization.target import TargetConfig, open_target
from tailrank.core.errors import ConfigError, RequestError
from tailrank.core.query import BatchPart, Query
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.data.selection import select_features
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import FeatureBatch
from tailrank.inference.artifact import save_artifact
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig

DATASET = SyntheticDataset(SyntheticConfig(rows=7 * 8 * 60, embedding_dim=4))


def draw(pool: QueryPool, choice: int, num_items: int) -> FeatureBatch:
    query = Query(0, "m", 0, None, num_items, 0, pool.payload(choice, num_items))
    return pool.features(BatchPart(query, 0, num_items))


def rows(batch: FeatureBatch) -> list[tuple]:
    """Floats and ids of every item with those of its user."""
    user = batch.user.rows(0, 1)
    mine = (user.dense_RN.flatten().tolist(), user.values_L.tolist())
    items = [batch.item.rows(index, 1) for index in range(batch.num_items)]
    return [(*mine, i.dense_RN.flatten().tolist(), i.values_L.tolist()) for i in items]


def test_a_query_begins_with_a_users_own_candidates() -> None:
    known = []
    for batch, _ in DATASET.batches(("validation", "test"), 8):  # one user each
        assert batch.num_users == 1
        known.append(rows(batch))
    pool = QueryPool.from_dataset(DATASET, seed=0)
    assert pool.num_items_max == DATASET.num_rows(("validation", "test"))
    users = set()
    for choice in range(1000, 1000 + len(known)):
        batch = draw(pool, choice, 8)
        batch.check(DATASET.spec)
        users.add(known.index(rows(batch)))
    assert len(users) == len(known)


def test_a_query_may_be_larger_than_any_of_the_data_but_not_than_the_pool() -> None:
    pool = QueryPool.from_dataset(DATASET, seed=0)
    whole = pool.num_items_max
    for num_items in (1, 100, whole):
        draw(pool, 12345, num_items).check(DATASET.spec)
    with pytest.raises(ConfigError, match="num_items"):
        pool.payload(0, whole + 1)


def test_the_seed_chooses_the_order_and_bytes_bound_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, again, other = (QueryPool.from_dataset(DATASET, seed) for seed in (1, 1, 2))
    assert rows(draw(one, 3, 50)) == rows(draw(again, 3, 50)) != rows(draw(other, 3, 50))
    monkeypatch.setattr(payloads, "_POOL_BYTES", 1)
    monkeypatch.setattr(payloads, "_READ_ITEMS", 64)
    assert QueryPool.from_dataset(DATASET, 1).num_items_max == 64


def test_data_without_users_gives_runs_of_rows_from_anywhere() -> None:
    items = [f.name for f in DATASET.spec.features if f.side == "item"]
    pool = QueryPool.from_dataset(select_features(DATASET, items), seed=0)
    firsts = {pool.payload(choice, 30)[1] for choice in range(5000)}
    assert firsts == set(range(pool.num_items_max - 29))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of an untrained model, and the ratings it is for."""
    folder = tmp_path_factory.mktemp("movielens")
    write_movielens(folder / "ratings")
    dataset = open_dataset(f"movielens:{folder / 'ratings'}", DataSettings(embedding_dim=4))
    config = DLRMConfig.for_spec(dataset.spec, top_mlp=(4,))
    (folder / "model").mkdir()
    save_artifact(folder / "model", build_model(config, 0), training={"data": "movielens"})
    return folder


def test_a_profile_of_random_queries_is_none_of_real_ones(folder: Path) -> None:
    name = f"movielens:{folder / 'ratings'}"
    dataset = open_dataset(name, DataSettings(embedding_dim=4))
    model = str(folder / "model")
    random = open_target(TargetConfig(target=model), lambda _: None)
    real = open_target(TargetConfig(target=model, data=name), lambda _: None, dataset)
    assert random.describe()["queries"] == "random"
    assert real.describe()["queries"] == name
    assert real.profile_label.startswith(random.profile_label)
    assert real.profile_label != random.profile_label
    scores = real.ranker.rank(draw(real.pool, 5, 20))
    assert scores.shape == (20,)
    assert torch.isfinite(scores).all()


def test_a_preset_has_no_data() -> None:
    with pytest.raises(RequestError, match="--data"):
        TargetConfig(target="preset:dlrm-rmc1", data="movielens:x")
