"""Random queries for whatever model a server describes, of which a load test's requests are made.

The values of some users and of many candidates are drawn beforehand, the same from one seed
whatever is spoken; a query is one of the users and a stretch of the candidates. Knows no format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.random import Generator

from tailrank.core.errors import DataError, RequestError
from tailrank.data.table_file import open_table, require_columns
from tailrank.features import Side
from tailrank.serving.openapi import CATEGORIES

_USER_ROWS = 512
# As many rows of candidates as this, but for large ones: what all queries are cut from should be
# larger than a cache. A pool always holds the largest query twice.
_ITEM_ROWS = 8192
_POOL_BYTES = 64 << 20
_SAMPLE_ROWS = 16
# Ids are short, and the rows that they stand for lie in the server: more of them.
_ID_ROWS = 1 << 18
_STREAM = 0xB0D1
# Whole numbers for columns of which nothing more is known.
_NUMBERS, _CATEGORIES = 100, 1_000_000
Schema = Mapping[str, Any]
Ids = Mapping[Side, Sequence[object]]
"""Ids of known users and items, of the sides that requests name by id."""
_ID_COLUMNS: dict[Side, str] = {"user": "user_id", "item": "item_ids"}


class Rows(NamedTuple):
    """Values of one side.

    Args:
        columns: by name, all of one length.
        num_rows: that length.
        by_id: whether they are ids, in a single column, in place of features.
    """

    columns: Mapping[str, Sequence[object]]
    num_rows: int
    by_id: bool


class QueryPool:
    """Users and candidates that queries are made of.

    Args:
        document: the server's `/openapi.json`.
        items_max: candidates of the largest query.
        seed: of all values.
        ids: to ask by; a side without them is asked by features.

    Attributes:
        user: one for each user.
        item: one for each candidate.

    Raises:
        RequestError: the document describes no such server, or one that knows no ids.
    """

    def __init__(self, document: Schema, items_max: int, seed: int, ids: Ids | None = None) -> None:
        body, described, _ = _described(document)
        rng = np.random.default_rng([_STREAM, seed])
        ids = ids or {}
        if "user" in ids:
            self.user = _drawn_ids("user", ids["user"], _ITEM_ROWS, body, rng)
        else:
            self.user = _drawn(described["user"], _USER_ROWS, rng)
        if "item" in ids:
            self.item = _drawn_ids("item", ids["item"], max(2 * items_max, _ID_ROWS), body, rng)
        else:
            self.item = _drawn(described["item"], _num_rows(described["item"], items_max, rng), rng)

    def choose(self, choice: int, num_items: int) -> tuple[int, int]:
        """The row of a user, and the first row of candidates.

        Args:
            choice: any number from 0; a random one gives a random user and random candidates.
            num_items: candidates, at most `items_max`.
        """
        first, user = divmod(choice, self.user.num_rows)
        return user, first % (self.item.num_rows - num_items + 1)


def items_limit(document: Schema) -> int:
    """The most candidates that the server takes in one query.

    Raises:
        RequestError: the document does not describe such a server.
    """
    return _described(document)[2]


def read_ids(path: Path, side: Side, column: str | None = None) -> Sequence[object]:
    """The ids of a file of features, as `tailrank serve` takes it.

    Args:
        path: Parquet.
        side: whose.
        column: that holds them; None: the first.

    Raises:
        DataError: it is missing or damaged, or holds no ids.
    """
    file = open_table(path)
    column = next(iter(file.columns)) if column is None else column
    require_columns(file, [column])
    found: list[object] = []
    for block in file.blocks([column]):
        found += block.frame[column].to_list()
    if not found or any(type(one) not in (int, str) for one in found):
        raise DataError(path, f"holds no {side} ids: whole numbers or texts", column=column)
    return found


def _described(document: Schema) -> tuple[Schema, dict[Side, dict[str, Schema]], int]:
    """Keys of a body, columns of a user and of an item, and the most items."""
    try:
        operation = document["paths"]["/v1/rank"]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        rows = body["items"]["oneOf"][0]
        user, item = body["user"]["properties"], rows["items"]["properties"]
        limit = rows["maxItems"]
    except (KeyError, IndexError, TypeError):
        raise RequestError("--url", "its /openapi.json describes no POST /v1/rank") from None
    if not item:
        raise RequestError("--url", "its model has no feature of candidates to send")
    return body, {"user": user, "item": item}, limit


def _num_rows(item: Mapping[str, Schema], items_max: int, rng: Generator) -> int:
    """Rows of the pool: bounded in bytes."""
    sample = [_values(schema, _SAMPLE_ROWS, rng) for schema in item.values()]
    row_bytes = len(orjson.dumps(sample)) / _SAMPLE_ROWS
    return max(2 * items_max, min(_ITEM_ROWS, math.floor(_POOL_BYTES / row_bytes)))


def _drawn(columns: Mapping[str, Schema], num_rows: int, rng: Generator) -> Rows:
    drawn = {name: _values(schema, num_rows, rng) for name, schema in columns.items()}
    return Rows(drawn, num_rows, by_id=False)


def _drawn_ids(
    side: Side, ids: Sequence[object], num_rows: int, body: Schema, rng: Generator
) -> Rows:
    # `unknown_ids` is there where any side has a table, `user_id` where users have one.
    name = _ID_COLUMNS[side]
    if "unknown_ids" not in body or name not in body:
        raise RequestError(f"--{side}-features", f"the server has no feature table of {side}s")
    places = rng.integers(0, len(ids), num_rows).tolist()
    return Rows({name: [ids[place] for place in places]}, num_rows, by_id=True)


def _values(schema: Schema, count: int, rng: Generator) -> Sequence[object]:
    """Random values that a column takes."""
    categories = schema.get(CATEGORIES)
    if categories is not None:
        return _categories(categories, count, rng)
    if schema.get("type") == "array":
        numbers: list[object] = rng.standard_normal((count, schema["minItems"])).round(4).tolist()
        return numbers
    # Whole ones, for some columns are read as a category as well.
    whole: list[object] = rng.integers(0, _NUMBERS, count).tolist()
    return whole


def _categories(described: Schema, count: int, rng: Generator) -> Sequence[object]:
    mean, examples = described["mean_length"], described["examples"]
    whole, is_list = math.floor(mean), described["is_list"] or mean != 1.0
    lengths = whole + (rng.random(count) < mean - whole)
    below = described["whole_numbers_below"] or len(examples) or _CATEGORIES
    drawn: list[object] = rng.integers(0, below, int(lengths.sum())).tolist()
    if examples:
        drawn = [examples[place] for place in drawn]
    if not is_list:
        return drawn
    ends = np.cumsum(lengths).tolist()
    return [drawn[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
