"""Tables of clicks: every value arrives, queries stay whole, every kind of bad cell is named."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.data.table_files import (
    SCHEMA,
    in_order,
    make_rows,
    open_file,
    write_csv,
    write_parquet,
)

from tailrank.core.errors import DataError, RequestError
from tailrank.data import table_codes, table_file
from tailrank.data.dataset import SPLITS
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.data.schema import FeatureColumn, LabelColumn, Schema
from tailrank.data.table import TableDataset
from tailrank.data.table_codes import hash_code
from tailrank.features import SIDES, FeatureBatch, Labels
from tailrank.training.evaluation import evaluate


def known_ids(values: list[Any], min_count: int) -> dict[Any, int]:
    """A plain statement of the vocabulary; of equally frequent texts the smaller comes first."""
    counts = Counter(str(value) for value in values if value is not None)
    known = [v for v, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])) if n >= min_count]
    return {value: place for place, value in enumerate(known, start=2)}


def all_batches(dataset: TableDataset, size: int, **order: Any) -> list[tuple]:
    return list(dataset.batches(SPLITS, size, **order))


def same(one: tuple[FeatureBatch, Labels], other: tuple[FeatureBatch, Labels]) -> bool:
    sides = [(getattr(one[0], side), getattr(other[0], side)) for side in SIDES]
    pairs = [(a.dense_RN, b.dense_RN) for a, b in sides]
    pairs += [(a.values_L, b.values_L) for a, b in sides]
    pairs += [(a.offsets, b.offsets) for a, b in sides]
    pairs += [(one[0].item_to_user_B, other[0].item_to_user_B)]
    pairs += [(one[1].values_BT, other[1].values_BT)]
    if one[1].group_B is not None and other[1].group_B is not None:
        pairs += [(one[1].group_B, other[1].group_B)]
    return all(torch.equal(a, b) for a, b in pairs)


def bag(side: Any, num_features: int, row: int, feature: int) -> list[int]:
    first, end = side.offsets[row * num_features + feature :][:2].tolist()
    return side.values_L[first:end].tolist()


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_every_value_arrives_in_order(tmp_path: Path, write) -> None:
    rows = make_rows()
    dataset = open_file(write(tmp_path / write.__name__.replace("write_", "t."), rows))
    ordered = in_order(rows)
    num_train = dataset.num_rows(("train",))
    train = [row for query in ordered for row in query][:num_train]
    users = known_ids([row["user"] for row in train], 2)
    seen = [item for row in train for item in (row["seen"] or [])[-3:]]
    items = known_ids(seen + [row["item"] for row in train], 2)
    ages = [row["age"] for row in train if row["age"] is not None]
    query = iter(enumerate(ordered))
    for batch, labels in all_batches(dataset, 10_000):
        batch.check(dataset.spec)
        for user in range(batch.num_users):
            number, members = next(query)
            places = torch.nonzero(batch.item_to_user_B == user).flatten().tolist()
            assert len(places) == len(members), "a query is never split over two parts"
            row = members[0]
            expected = 1 if row["user"] is None else users.get(str(row["user"]), 0)
            assert bag(batch.user, 2, user, 0) == [expected]
            history = [items.get(item, 0) for item in (row["seen"] or [])[-3:]]
            assert bag(batch.user, 2, user, 1) == history
            age = 0.0 if row["age"] is None else (row["age"] - np.mean(ages)) / np.std(ages)
            assert batch.user.dense_RN[user].tolist() == pytest.approx([age], abs=1e-6)
            for place, row in zip(places, members, strict=True):
                assert labels.values_BT[place, 0] == row["clicked"]
                assert labels.group_B[place] == number
                expected = 1 if row["item"] is None else items.get(row["item"], 0)
                assert bag(batch.item, 3, place, 0) == [expected]
                assert bag(batch.item, 3, place, 1) == [hash_code(row["tag"], 50)]
                assert bag(batch.item, 3, place, 2) == [row["hour"] + 2]
                price = 0.0 if row["price"] is None else math.log1p(row["price"])
                dense = batch.item.dense_RN[place].tolist()
                assert dense == pytest.approx([price, row["rank"]], abs=1e-6)
    assert next(query, None) is None
    assert dataset.spec.table("hour").num_embeddings == 26
    assert dataset.spec.table("item").num_embeddings == len(items) + 2
    factor = next(f.pooling_factor for f in dataset.spec.features if f.name == "history")
    assert factor == pytest.approx(len(seen) / num_train, abs=0.01)


def test_splits_are_five_one_and_one_sevenths_in_time(tmp_path: Path) -> None:
    rows = make_rows(300)
    dataset = open_file(write_parquet(tmp_path / "t.parquet", rows))
    shares = [dataset.num_rows((split,)) / len(rows) for split in SPLITS]
    assert shares == pytest.approx([5 / 7, 1 / 7, 1 / 7], abs=0.01)
    assert dataset.num_rows(SPLITS) == len(rows)


@pytest.mark.parametrize("form", ["queries", "rows by time", "rows"])
def test_batches_are_a_function_of_their_arguments(tmp_path: Path, monkeypatch, form) -> None:
    schema = SCHEMA if form == "queries" else replace(SCHEMA, query_id=None)
    schema = replace(schema, time=None) if form == "rows" else schema
    path = write_csv(tmp_path / "t.csv", make_rows())
    dataset = open_file(path, schema)
    whole = all_batches(dataset, 16, shuffle_seed=5)
    assert {batch.num_items for batch, _ in whole[:-1]} == {16}
    assert sum(batch.num_items for batch, _ in whole) == dataset.num_rows(SPLITS)
    rest = all_batches(dataset, 16, shuffle_seed=5, first_batch=3)
    assert all(map(same, whole[3:], rest))
    assert len(rest) == len(whole) - 3
    assert not same(whole[0], all_batches(dataset, 16, shuffle_seed=6)[0])
    for batch, labels in whole:
        batch.check(dataset.spec)
        assert (labels.group_B is None) == (form != "queries")
        shared = batch.num_users < batch.num_items
        assert shared == (form == "queries")
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", 500)
    again = open_file(path, schema)
    assert again.fingerprint == dataset.fingerprint
    assert again.spec == dataset.spec
    assert all(map(same, all_batches(again, 16, shuffle_seed=5), whole))


def test_without_user_features_a_batch_has_one_user_row(tmp_path: Path) -> None:
    items = tuple(feature for feature in SCHEMA.features if feature.side == "item")
    dataset = open_file(write_csv(tmp_path / "t.csv", make_rows()), replace(SCHEMA, features=items))
    batch, labels = all_batches(dataset, 16)[1]
    batch.check(dataset.spec)
    assert batch.num_users == 1
    assert len(set(labels.group_B.tolist())) > 1


cells = st.one_of(st.none(), st.text(max_size=4), st.sampled_from(["a", 'b"', "c,d", "e\nf"]))
numbers = st.one_of(
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.integers(-9, 9).map(float),
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 5), cells, st.integers(-3, 3) | st.none(), numbers,
            st.none() | st.lists(st.sampled_from(["x", "y", "", "\u00e9\u4e2d"]), min_size=2),
        ),
        max_size=60,
    ),
    block=st.integers(1, 99),
    in_queries=st.booleans(),
)  # fmt: skip
def test_csv_and_parquet_of_a_table_give_the_same_batches(
    tmp_path: Path, monkeypatch, rows, block, in_queries
) -> None:
    kinds = {
        "y": pl.Boolean,
        "q": pl.Int64,
        "text": pl.String,
        "whole": pl.Int16,
        "number": pl.Float64,
        "many": pl.List(pl.String),
    }
    # A line break of CSV is one of the reader's, and no text may hold what UTF-8 cannot.
    rows += [(True, query, "a", 1, 1.0, ["x", "y"]) for query in range(6, 18)]
    rows = [
        tuple(cell.replace("\r", "") if isinstance(cell, str) else cell for cell in row)
        for row in rows
    ]
    frame = pl.DataFrame(rows, schema=kinds, orient="row")
    frame.write_parquet(tmp_path / "t.parquet")
    frame.with_columns(pl.col("many").list.join("|")).write_csv(tmp_path / "t.csv")
    schema = Schema(
        label=LabelColumn(column="y"),
        query_id="q" if in_queries else None,
        features=(
            FeatureColumn(name="text", min_count=1),
            FeatureColumn(name="whole", min_count=1),
            FeatureColumn(name="number", kind="dense"),
            FeatureColumn(name="many", separator="|", encode="hash", buckets=9),
        ),
    )
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", block)
    monkeypatch.setattr(table_file, "_BLOCK_ROWS", 1 + block // 4)
    csv, parquet = (open_file(tmp_path / name, schema) for name in ("t.csv", "t.parquet"))
    assert csv.spec == parquet.spec
    assert csv.fitted_fingerprint == parquet.fitted_fingerprint
    pairs = zip(all_batches(csv, 5), all_batches(parquet, 5), strict=True)
    assert all(same(one, other) for one, other in pairs)


def test_what_was_fitted_reads_other_rows_alike(tmp_path: Path) -> None:
    rows = make_rows(200)
    trained = open_file(write_parquet(tmp_path / "t.parquet", rows), embedding_dim=4)
    model = tmp_path / "model"
    model.mkdir()
    trained.save_fitted(model)
    settings_ = DataSettings(embedding_dim=4)
    same_rows = open_dataset(f"table:{tmp_path}/t.parquet", settings_, fitted=model)
    assert same_rows.fingerprint == trained.fingerprint
    assert all(map(same, all_batches(same_rows, 32), all_batches(trained, 32)))
    others = write_csv(tmp_path / "o.csv", [row | {"item": "new"} for row in make_rows(50, seed=3)])
    dataset = open_dataset(f"table:{others}", settings_, fitted=model)
    assert dataset.spec == trained.spec
    assert dataset.fitted_fingerprint == trained.fitted_fingerprint
    assert dataset.rows_fingerprint != trained.rows_fingerprint
    for batch, _ in all_batches(dataset, 64):
        batch.check(dataset.spec)
        assert set(batch.item.values_L.view(-1, 3)[:, 0].tolist()) == {0}, "new items are unknown"
    schema = tmp_path / "other.toml"
    schema.write_text(replace(SCHEMA, time=None).to_toml())
    with pytest.raises(RequestError, match=r"--schema: .* another one than the model has in"):
        open_dataset(f"table:{others}", settings_, fitted=model, schema=schema)
    fitted = model / "vocabulary.safetensors"
    fitted.write_bytes(fitted.read_bytes()[:50])
    with pytest.raises(DataError, match="damaged vocabulary"):
        open_dataset(f"table:{others}", settings_, fitted=model)
    fitted.unlink()
    with pytest.raises(DataError, match="no vocabulary here"):
        open_dataset(f"table:{others}", settings_, fitted=model)


def test_a_later_log_of_any_length_can_be_read_as_a_whole(tmp_path: Path) -> None:
    trained = open_file(write_parquet(tmp_path / "t.parquet", make_rows(60)))
    trained.save_fitted(tmp_path)
    rows = in_order(make_rows(60))[0][:1]
    later = open_dataset(f"table:{write_csv(tmp_path / 'later.csv', rows)}", fitted=tmp_path)
    assert later.num_rows(SPLITS) == 1
    ((batch, _),) = later.batches(SPLITS, 64)
    batch.check(later.spec)
    with pytest.raises(RequestError, match="no train rows: 1 rows are too few to cut into three"):
        evaluate(torch.nn.Identity(), later, ("train",))


def test_texts_are_refused_where_the_model_learned_from_lists(tmp_path: Path) -> None:
    no_separator = [replace(f, separator=None) for f in SCHEMA.features]
    schema = replace(SCHEMA, features=tuple(no_separator))
    trained = open_file(write_parquet(tmp_path / "t.parquet", make_rows(60)), schema)
    trained.save_fitted(tmp_path)
    joined = write_csv(tmp_path / "joined.csv", make_rows(60))
    with pytest.raises(DataError, match=r"column 'seen': single values; .* trained on lists"):
        open_dataset(f"table:{joined}", fitted=tmp_path)


def test_a_refit_fits_on_validation_too(tmp_path: Path) -> None:
    rows = [row | {"user": f"late{row['at'] % 3}"} if row["at"] > 1_700_002_200 else row
            for row in make_rows(300)]  # fmt: skip
    rows = [row | {"user": str(row["user"])} for row in rows]
    schema = replace(SCHEMA, query_id=None)
    dataset = open_file(write_csv(tmp_path / "t.csv", rows), schema)
    refit = dataset.for_refit()
    late = {"late0", "late1", "late2"}
    assert not late & set(dataset.fitted.known["user"])
    assert late <= set(refit.fitted.known["user"])
    assert refit.rows_fingerprint == dataset.rows_fingerprint
    assert refit.fingerprint != dataset.fingerprint
    assert all_batches(refit, 64)[-1][0].item.values_L.max() > 0


def test_a_hash_is_the_same_everywhere_and_forgets_nothing_that_matters(
    tmp_path: Path, monkeypatch
) -> None:
    assert [hash_code(text, 1000) for text in ("a", "caf\u00e9", "7")] == HASHES
    path = write_csv(tmp_path / "t.csv", make_rows())
    whole = all_batches(open_file(path), 16)
    monkeypatch.setattr(table_codes, "_REMEMBERED_MAX", 3)
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", 200)
    assert all(map(same, all_batches(open_file(path), 16), whole))


HASHES = [930, 521, 257]


def test_labels_can_be_cut_from_a_number_and_lists_be_of_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "rating": [1, 2, 3, 4, 5] * 4,
            "vector": [[1, 2], [3], [], None, [2, 2]] * 4,
            "when": pl.datetime_range(
                pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 20), "1d", eager=True
            ).reverse(),
            "kind": pl.Series(["a", "b", None, "a", "c"] * 4, dtype=pl.Categorical),
            "code": [1.0, 2.0, None, 1.0, 3.0] * 4,
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    frame.with_columns(
        pl.col("vector").cast(pl.List(pl.String)).list.join(" "),
        pl.col("code").cast(pl.Int64),
    ).write_csv(tmp_path / "t.tsv", separator="\t")
    schema = Schema(
        label=LabelColumn(column="rating", at_least=4),
        time="when",
        features=(
            FeatureColumn(name="vector", min_count=1, separator=" "),
            FeatureColumn(name="kind", min_count=1),
            FeatureColumn(name="code", min_count=1),
        ),
    )
    for name in ("t.parquet", "t.tsv"):
        ((batch, labels),) = all_batches(open_file(tmp_path / name, schema), 20)
        assert labels.values_BT.flatten().tolist() == [1.0, 1.0, 0.0, 0.0, 0.0] * 4
        assert batch.item.offsets.diff().tolist()[::3] == [2, 0, 0, 1, 2] * 4
        kinds = batch.item.values_L[batch.item.offsets[1:-1:3]].tolist()
        codes = batch.item.values_L[batch.item.offsets[2:-1:3]].tolist()
        assert kinds == codes
        assert kinds[2] == 1


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    path = write_csv(tmp_path / "t.csv", make_rows())
    schema = tmp_path / "schema.toml"
    schema.write_text(SCHEMA.to_toml())
    dataset = open_dataset(
        f"table:{path}",
        schema=schema,
        progress=lambda *now: told.append(now),
        scratch=tmp_path / "s",
    )
    assert told[-1][0] == 1.0
    assert told[-1][1].endswith(" rows/s")
    assert list((tmp_path / "s").iterdir()) == [], "its files have no names, whoever is killed"
    assert dataset.num_rows(SPLITS) == len(make_rows())


def test_a_column_that_is_constant_in_training_is_not_blown_up(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    price = [0.1] * 69 + [0.2]
    pl.DataFrame({"y": [0, 1] * 35, "a": ["x"] * 70, "price": price}).write_parquet(path)
    dense = FeatureColumn(name="price", kind="dense", transform="standardise")
    schema = Schema(label=LabelColumn(column="y"), features=(FeatureColumn(name="a"), dense))
    batch, _ = next(open_file(path, schema).batches(("test",), 70))
    assert batch.item.dense_RN.abs().max() == pytest.approx(0.1, abs=1e-6)
