"""Requests are encoded as training files are: same values, same features, for all kinds of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.data.adult_files import people, write_adult
from tests.unit.data.movielens_files import write_movielens
from tests.unit.data.table_files import in_order, make_rows, open_file, write_csv, write_parquet
from tests.unit.data.test_criteo import make_lines, write
from tests.unit.data.test_movielens import open_folder

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.adult_file import COLUMNS
from tailrank.data.criteo import CriteoConfig, CriteoDataset
from tailrank.data.dataset import SPLITS, Dataset
from tailrank.data.fitted_encoder import open_encoder
from tailrank.data.registry import open_dataset
from tailrank.data.row_encoder import RowEncoder, Rows
from tailrank.data.schema import FeatureColumn, LabelColumn, Schema
from tailrank.data.selection import select_features
from tailrank.features import SIDES, FeatureBatch, Side

LISTS = {True: lambda cell: cell, False: lambda cell: "|".join(cell) if cell else cell}


def rows_of(encoder: RowEncoder, side: Side, rows: list[dict[str, Any]]) -> Rows:
    names = encoder.columns[side]
    return Rows(side, {name: [row[name] for row in rows] for name in names}, len(rows))


def encoder_of(dataset: Dataset, folder: Path) -> RowEncoder:
    folder.mkdir(exist_ok=True)
    dataset.save_fitted(folder)
    training = {"data": dataset.name, "fitted_fingerprint": dataset.fitted_fingerprint}
    return open_encoder(folder, dataset.spec, training)


def everything(dataset: Dataset, splits=SPLITS) -> FeatureBatch:
    ((batch, _),) = dataset.batches(splits, 1 << 20)
    return batch


def assert_same(one: FeatureBatch, other: FeatureBatch) -> None:
    for side in SIDES:
        a, b = getattr(one, side), getattr(other, side)
        assert torch.equal(a.values_L, b.values_L)
        assert torch.equal(a.offsets, b.offsets)
        assert torch.equal(a.dense_RN, b.dense_RN)
        assert (a.weights_L is None) == (b.weights_L is None)
        if a.weights_L is not None:
            assert torch.equal(a.weights_L, b.weights_L)
    assert torch.equal(one.item_to_user_B, other.item_to_user_B)


@pytest.mark.parametrize("as_lists", [True, False], ids=["lists", "separated texts"])
@pytest.mark.parametrize("names", [None, ("user", "history", "item", "price")])
def test_a_table(tmp_path: Path, as_lists: bool, names: tuple[str, ...] | None) -> None:
    rows = make_rows()
    dataset: Dataset = open_file(write_parquet(tmp_path / "t.parquet", rows))
    if names is not None:
        dataset = select_features(dataset, names)
    encoder = encoder_of(dataset, tmp_path / "model")
    queries = [
        [row | {"seen": LISTS[as_lists](row["seen"])} for row in query] for query in in_order(rows)
    ]
    batches = [
        encoder.features(rows_of(encoder, "user", query[:1]), rows_of(encoder, "item", query))
        for query in queries
    ]
    assert len(batches) > 50
    assert_same(FeatureBatch.concat(batches), everything(dataset))


def test_lists_that_hold_one_on_average_are_still_lists(tmp_path: Path) -> None:
    """An absent one is empty, as in training, and no missing category."""
    cells = ["a|b" if row % 2 else None for row in range(140)]
    rows = [{"y": row // 2 % 2, "tags": cell} for row, cell in enumerate(cells)]
    tags = FeatureColumn(name="tags", separator="|")
    schema = Schema(label=LabelColumn(column="y"), features=(tags,))
    dataset = open_file(write_csv(tmp_path / "t.csv", rows), schema)
    assert [feature.pooling_factor for feature in dataset.spec.sparse("item")] == [1.0]
    encoder = encoder_of(dataset, tmp_path / "model")
    trained = everything(dataset).item
    for absent in (None, "", []):
        asked = [{"tags": absent if row["tags"] is None else row["tags"]} for row in rows]
        found = encoder.side(rows_of(encoder, "item", asked))
        assert torch.equal(found.values_L, trained.values_L)
        assert torch.equal(found.offsets, trained.offsets)


def test_a_category_is_a_text_whatever_it_comes_as(tmp_path: Path) -> None:
    rows = [row | {"item": rank % 5} for rank, row in enumerate(make_rows())]
    dataset = open_file(write_parquet(tmp_path / "t.parquet", rows))
    encoder = encoder_of(dataset, tmp_path / "model")
    row = {"item": 3, "price": 1.0, "rank": 2, "tag": "t1", "hour": 4}
    values = [3, "3", 3.0, "", None, "never seen", True]
    rows = [row | {"item": value} for value in values]
    user = Rows("user", {"user": [1], "age": [None], "seen": [[]]}, 1)
    item = encoder.features(user, rows_of(encoder, "item", rows)).item
    known, missing, unknown = item.values_L.view(len(values), -1)[[0, 3, 5], 0].tolist()
    assert known >= 2
    assert (missing, unknown) == (1, 0)
    found = item.values_L.view(len(values), -1)[:, 0].tolist()
    assert found == [known, known, known, missing, missing, unknown, unknown]


def test_of_whom_nothing_is_known_is_what_training_makes_of_the_unknown(tmp_path: Path) -> None:
    dataset = open_file(write_parquet(tmp_path / "t.parquet", make_rows()))
    encoder = encoder_of(dataset, tmp_path / "model")
    # No hash and no whole number is unknown: these are missing.
    new = {"item": "never seen", "price": None, "rank": None, "tag": None, "hour": None}
    nobody = {"user": "never seen", "age": None, "seen": []}
    for side, row in (("item", new), ("user", nobody)):
        assert encoder.without_unknown(side) == ()
        found, wanted = encoder.unknown(side), encoder.side(rows_of(encoder, side, [row]))
        assert found is not None
        assert torch.equal(found.values_L, wanted.values_L)
        assert torch.equal(found.offsets, wanted.offsets)
        assert torch.equal(found.dense_RN, wanted.dense_RN)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("price", "1.5", r"items.price\[1\]: got '1.5'; allowed: a finite number, or null"),
        ("price", 10**400, r"items.price\[1\]: got 10+; allowed: a finite number"),
        ("price", 1e39, r"items.price\[1\]"),
        ("price", float("nan"), r"items.price\[1\]: got nan"),
        ("price", [1.0], r"items.price\[1\]"),
        ("hour", 24, r"items.hour\[1\]: got 24; allowed: whole numbers 0 to 23"),
        ("hour", -1, r"items.hour\[1\]"),
        ("hour", "noon", r"items.hour\[1\]"),
        ("hour", 1 << 70, r"items.hour\[1\]"),
        ("hour", True, r"items.hour\[1\]"),
        ("tag", 1.5, r"items.tag\[1\]: got 1.5; allowed: a text or a whole number"),
        ("tag", {"a": 1}, r"items.tag\[1\]"),
        ("item", [["nested"]], r"items.item\[1\]"),
        ("item", {"a": 1}, r"items.item\[1\]"),
    ],
)
def test_a_value_that_no_file_could_hold_is_named(
    tmp_path: Path, column: str, value: object, message: str
) -> None:
    dataset = open_file(write_parquet(tmp_path / "t.parquet", make_rows()))
    encoder = encoder_of(dataset, tmp_path / "model")
    row = {"item": "i3", "price": 1.0, "rank": 2, "tag": "t1", "hour": 4}
    user = Rows("user", {"user": [1], "age": [20], "seen": [["i1"]]}, 1)
    with pytest.raises(ConfigError, match=message):
        encoder.features(user, rows_of(encoder, "item", [row, row | {column: value}, row]))


def test_the_click_log_of_criteo(tmp_path: Path) -> None:
    lines = make_lines()
    config = CriteoConfig(path=write(tmp_path / "log.tsv", lines), integer_buckets=True)
    dataset = CriteoDataset(config)
    encoder = encoder_of(dataset, tmp_path / "model")
    names = [f"integer_{n}" for n in range(1, 14)] + [f"category_{n}" for n in range(1, 27)]
    rows = [
        dict(zip(names, [int(v) if v else None for v in line[1:14]] + line[14:], strict=True))
        for line in lines
    ]
    nobody = Rows("user", {}, 1)
    assert_same(
        encoder.features(nobody, rows_of(encoder, "item", rows)),
        everything(dataset),
    )
    short = rows[0] | {"category_1": "1eef", "category_2": "00001EEF"}  # 7919
    ids = encoder.features(nobody, rows_of(encoder, "item", [short, short])).item.values_L
    assert ids.min() >= 0
    for column, value in [("category_1", "xyz"), ("category_1", "0x1f"), ("category_1", 5)]:
        with pytest.raises(ConfigError, match=rf"{column}\[0\].*hexadecimal"):
            encoder.features(nobody, rows_of(encoder, "item", [rows[0] | {column: value}]))
    with pytest.raises(ConfigError, match=r"integer_3.*whole number"):
        encoder.features(nobody, rows_of(encoder, "item", [rows[0] | {"integer_3": 1.5}]))


def test_the_census(tmp_path: Path) -> None:
    folder = write_adult(tmp_path / "adult", people(70), people(30, "."))
    dataset = open_dataset(f"adult:{folder}")
    encoder = encoder_of(dataset, tmp_path / "model")
    rows = []
    for line in people(30):
        row: dict[str, Any] = dict(zip(COLUMNS, line.split(", "), strict=True))
        rows.append({k: int(v) if v.isdigit() else v for k, v in row.items()})
    assert_same(
        encoder.features(Rows("user", {}, 1), rows_of(encoder, "item", rows)),
        everything(dataset, ("test",)),
    )


def test_movielens_weighs_the_ids_of_a_user(tmp_path: Path) -> None:
    write_movielens(tmp_path)
    dataset = open_folder(tmp_path)
    encoder = encoder_of(dataset, tmp_path / "model")
    batch = everything(dataset).items(0, 4)
    batch = FeatureBatch(
        user=batch.user.rows(0, 1), item=batch.item, item_to_user_B=batch.item_to_user_B * 0
    )
    columns: dict[Side, dict[str, list]] = {"user": {}, "item": {}}
    for side in SIDES:
        rows, sparse = getattr(batch, side), dataset.spec.sparse(side)
        for index, feature in enumerate(sparse):
            bags = rows.offsets.tolist()
            columns[side][feature.name] = [
                rows.values_L[bags[place] : bags[place + 1]].tolist()
                for place in range(index, rows.num_rows * len(sparse), len(sparse))
            ]
    sides = [Rows(side, columns[side], n) for side, n in (("user", 1), ("item", 4))]
    assert_same(encoder.features(*sides), batch)


def test_another_models_vocabulary_is_refused(tmp_path: Path) -> None:
    dataset = open_file(write_parquet(tmp_path / "t.parquet", make_rows()))
    other = open_file(write_parquet(tmp_path / "u.parquet", make_rows(seed=9)))
    other.save_fitted(tmp_path)
    training = {"data": "table", "fitted_fingerprint": dataset.fitted_fingerprint}
    with pytest.raises(DataError, match="not this model's"):
        open_encoder(tmp_path, dataset.spec, training)
