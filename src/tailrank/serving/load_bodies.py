"""Requests that a load test sends: random queries for whatever model the server describes.

Values are drawn and written as JSON beforehand; a query's body is put together of slices of them,
so that sending costs little more than copying. Knows no socket and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.random import Generator

from tailrank.core.errors import RequestError
from tailrank.serving.openapi import CATEGORIES

_USER_ROWS = 512
# As many rows of candidates as this, but for large ones: what all queries are cut from should be
# larger than a cache. A pool always holds the largest query twice.
_ITEM_ROWS = 8192
_POOL_BYTES = 64 << 20
_SAMPLE_ROWS = 16
_STREAM = 0xB0D1
# Whole numbers for columns of which nothing more is known.
_NUMBERS, _CATEGORIES = 100, 1_000_000
Schema = Mapping[str, Any]


class _Column(NamedTuple):
    """The values of a column, one after another, with a comma behind each.

    Args:
        before: what stands before its list in a body.
        text: the values.
        starts: where each begins, and where the last one ends.
    """

    before: bytes
    text: memoryview
    starts: Sequence[int]


class BodyPool:
    """Bodies of `POST /v1/rank`.

    Args:
        document: the server's `/openapi.json`.
        items_max: candidates of the largest query.
        seed: of all values.

    Raises:
        RequestError: the document does not describe such a server.
    """

    def __init__(self, document: Schema, items_max: int, seed: int) -> None:
        user, item, _ = _described(document)
        rng = np.random.default_rng([_STREAM, seed])
        rows = [_values(schema, _USER_ROWS, rng) for schema in user.values()]
        self._users = [
            b'{"user":' + orjson.dumps(dict(zip(user, row, strict=True))) + b',"items":'
            for row in zip(*rows, strict=True)
        ] or [b'{"items":']
        self._num_rows = _num_rows(item, items_max, rng)
        self._columns = [
            _column(b'{"' if not place else b',"', name, _values(schema, self._num_rows, rng))
            for place, (name, schema) in enumerate(item.items())
        ]

    def body(self, choice: int, num_items: int) -> list[bytes | memoryview]:
        """The pieces of a body.

        Args:
            choice: any number from 0; a random one gives a random user and random candidates.
            num_items: candidates, at most `items_max`.
        """
        first, user = divmod(choice, len(self._users))
        first %= self._num_rows - num_items + 1
        pieces: list[bytes | memoryview] = [self._users[user]]
        for column in self._columns:
            end = column.starts[first + num_items] - 1
            pieces += (column.before, column.text[column.starts[first] : end], b"]")
        pieces.append(b"}}")
        return pieces


def items_limit(document: Schema) -> int:
    """The most candidates that the server takes in one query.

    Raises:
        RequestError: the document does not describe such a server.
    """
    return _described(document)[2]


def _described(document: Schema) -> tuple[dict[str, Schema], dict[str, Schema], int]:
    """Columns of a user and of an item, and the most items."""
    try:
        operation = document["paths"]["/v1/rank"]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        rows = body["properties"]["items"]["oneOf"][0]
        user, item = body["properties"]["user"]["properties"], rows["items"]["properties"]
        limit = rows["maxItems"]
    except (KeyError, IndexError, TypeError):
        raise RequestError("--url", "its /openapi.json describes no POST /v1/rank") from None
    if not item:
        raise RequestError("--url", "its model has no feature of candidates to send")
    return user, item, limit


def _num_rows(item: Mapping[str, Schema], items_max: int, rng: Generator) -> int:
    """Rows of the pool: bounded in bytes."""
    sample = [_values(schema, _SAMPLE_ROWS, rng) for schema in item.values()]
    row_bytes = len(orjson.dumps(sample)) / _SAMPLE_ROWS
    return max(2 * items_max, min(_ITEM_ROWS, math.floor(_POOL_BYTES / row_bytes)))


def _column(opening: bytes, name: str, values: Sequence[object]) -> _Column:
    texts = [orjson.dumps(value) + b"," for value in values]
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).tolist()
    before = opening + orjson.dumps(name)[1:] + b":["
    return _Column(before, memoryview(b"".join(texts)), starts)


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
