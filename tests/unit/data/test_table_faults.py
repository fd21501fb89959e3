"""Tables of clicks that cannot be used: every kind of bad cell is named with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.unit.data.table_files import (
    SCHEMA,
    in_order,
    make_rows,
    open_file,
    write_csv,
    write_parquet,
)

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.data import table_file
from tailrank.data.registry import open_dataset
from tailrank.data.schema import FeatureColumn
from tailrank.data.table import TableConfig


def _text(cell: Any) -> str | None:
    return None if cell is None else str(cell)


BAD_CELLS = [
    ("clicked", 2, "expected 0 or 1"),
    ("clicked", None, "expected 0 or 1"),
    ("clicked", "maybe", "expected a number"),
    ("age", "old", "expected a number"),
    ("price", "inf", "expected a finite number"),
    ("price", "nan", "expected a finite number"),
    ("price", 1e300, "expected a finite number"),
    ("hour", 24, "expected ids from 0 to 23"),
    ("hour", -1, "expected ids from 0 to 23"),
    ("hour", 1.5, "expected"),
    ("at", None, "expected a number, or a time such as"),
    ("at", "noon", "expected a number"),
    ("session", None, "expected the id of a query"),
]


@pytest.mark.parametrize(
    ("form", "column", "value", "reason"),
    [("csv", *cell) for cell in BAD_CELLS]
    # A column of Parquet holds one type, but its floats may be neither finite nor whole.
    + [("parquet", *cell) for cell in BAD_CELLS if not isinstance(cell[1], str)]
    + [("parquet", "price", float(value), "a finite number") for value in ("inf", "nan")],
)
def test_a_bad_cell_is_named(tmp_path: Path, monkeypatch, form, column, value, reason) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(table_file, "_BLOCK_ROWS", 20)
    rows = make_rows()
    if form == "csv":
        rows = [
            {name: cell if isinstance(cell, list) else _text(cell) for name, cell in row.items()}
            for row in rows
        ]
        rows[100][column] = _text(value)
        place, path = ":102: column", write_csv(tmp_path / "t.csv", rows)
    else:
        rows[100][column] = value
        place, path = ": row 101: column", write_parquet(tmp_path / "t.parquet", rows)
    with pytest.raises(DataError, match=reason) as caught:
        open_file(path)
    assert f"{path}{place} '{column}'" in str(caught.value)
    if value is not None:
        assert f"value {caught.value.value!a}" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "cells", "expected"),
    [
        ("age", [[1]], r"column 'age': holds List\(Int64\); expected numbers"),
        ("item", [{"a": 1}], r"column 'item': holds Struct.*; expected texts, whole numbers"),
        ("item", [1.5], r"row 1: column 'item', value 1\.5: expected a text or a whole number"),
        ("seen", [[[1]]], r"column 'seen': holds List\(List\(Int64\)\)|expected texts"),
        ("at", [[1]], "column 'at': holds List.*; expected numbers, dates or times"),
        ("session", [["s"]], "column 'session': holds List.*; expected texts or whole"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path: Path, column, cells, expected) -> None:
    frame = pl.DataFrame(make_rows(), infer_schema_length=None)
    frame = frame.with_columns(pl.Series(column, cells * frame.height, strict=False))
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=expected):
        open_file(tmp_path / "t.parquet")


@pytest.mark.parametrize("column", ["user", "age", "seen"])
@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_user_feature_that_differs_inside_a_query_is_named(tmp_path, column, write) -> None:
    rows = make_rows()
    query = next(query for query in in_order(rows) if len(query) > 2)
    place, other = rows.index(query[1]), rows.index(query[0])
    query[1][column] = ["i1", "i2"] if column == "seen" else 77
    path = write(tmp_path / write.__name__.replace("write_", "t."), rows)
    with pytest.raises(DataError) as caught:
        open_file(path)
    text, is_csv = str(caught.value), write is write_csv
    assert f"{path}:{place + 2}:" if is_csv else f"{path}: row {place + 1}:" in text
    assert f"column '{column}', value" in text
    assert f"in {f'line {other + 2}' if is_csv else f'row {other + 1}'} of the same query" in text


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", make_rows())
    with pytest.raises(RequestError, match=r"--schema: missing; .*tailrank schema .*t\.csv"):
        open_dataset(f"table:{path}")
    with pytest.raises(RequestError, match="--schema: synthetic needs none; leave it out"):
        open_dataset("synthetic", schema=path)
    with pytest.raises(ConfigError, match="--data"):
        open_dataset("table:")
    with pytest.raises(DataError, match="column 'items': no such column; did you mean 'item'"):
        open_file(path, replace(SCHEMA, features=(FeatureColumn(name="items"),)))
    with pytest.raises(DataError, match="1 queries; too few for train, validation and test"):
        open_file(write_csv(tmp_path / "one.csv", make_rows(1)))
    with pytest.raises(ConfigError, match="embedding_dim"):
        TableConfig(path=path, schema=SCHEMA, embedding_dim=0)
