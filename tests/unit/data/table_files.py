"""A small table of clicks in queries, as Parquet and CSV, that a model can learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tailrank.data.schema import FeatureColumn, LabelColumn, Schema
from tailrank.data.table import TableConfig, TableDataset

SCHEMA = Schema(
    label=LabelColumn(column="clicked"),
    query_id="session",
    time="at",
    features=(
        FeatureColumn(name="user", side="user"),
        FeatureColumn(name="age", side="user", kind="dense", transform="standardise"),
        FeatureColumn(
            name="history",
            column="seen",
            side="user",
            kind="sequence",
            table="item",
            separator="|",
            max_length=3,
        ),
        FeatureColumn(name="item"),
        FeatureColumn(name="price", kind="dense", transform="log1p"),
        FeatureColumn(name="rank", kind="dense"),
        FeatureColumn(name="tag", encode="hash", buckets=50),
        FeatureColumn(name="hour", encode="id", buckets=24),
    ),
)


def make_rows(num_queries: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose label follows user, item, price; sessions interleave, some cells are missing."""
    rng = np.random.default_rng(seed)
    taste, appeal = rng.standard_normal(12) * 2, rng.standard_normal(20) * 2
    rows = []
    for query in range(num_queries):
        user = int(rng.integers(12))
        shared = {
            "session": f"s{query * 7 % num_queries}",
            "user": user if user else None,
            "age": 18 + 3 * user if user % 5 else None,
            "seen": [f"i{item}" for item in rng.integers(20, size=rng.integers(6))] or None,
        }
        for rank in range(int(rng.integers(1, 9))):
            item, price = int(rng.integers(20)), round(float(rng.lognormal()), 3)
            score = taste[user] + appeal[item] - price / 4
            rows.append(
                {
                    "clicked": int(rng.random() < 1 / (1 + np.exp(-score))),
                    "at": 1_700_000_000 + 10 * query + rank * 3,
                    **shared,
                    "item": f"i{item}" if item else None,
                    "price": price if rank else None,
                    "rank": rank,
                    "tag": f"t{rng.integers(30)}",
                    "hour": int(rng.integers(24)),
                }
            )
    order = np.argsort(rng.random(len(rows)))
    return [rows[index] for index in order]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Lists as lists, missing values as nulls."""
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Lists joined by `|`, missing values as nothing."""
    pl.DataFrame(
        [
            {key: "|".join(cell) if isinstance(cell, list) else cell for key, cell in row.items()}
            for row in rows
        ],
        infer_schema_length=None,
    ).write_csv(path)
    return path


def open_file(path: Path, schema: Schema = SCHEMA, **others: Any) -> TableDataset:
    return TableDataset(TableConfig(path=path, schema=schema, **others))


def in_order(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """A plain statement of the order: queries by earliest row, their rows by time."""
    by_query: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["at"]):
        by_query.setdefault(row["session"], []).append(row)
    return list(by_query.values())
