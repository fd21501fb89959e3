"""Bodies of `POST /v1/rank` for a load test.

Values are written as JSON beforehand; a query's body is put together of slices of them, so that
sending costs little more than copying. Knows no socket and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import orjson

from tailrank.serving.load_queries import Ids, QueryPool, Rows, Schema


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
    """Bodies, each of one of the users and some candidates; for its arguments see `QueryPool`."""

    def __init__(self, document: Schema, items_max: int, seed: int, ids: Ids | None = None) -> None:
        self._queries = QueryPool(document, items_max, seed, ids)
        item = self._queries.item
        self._users = _users(self._queries.user)
        opening, self._end = (b"", b"}") if item.by_id else (b'"items":{', b"}}")
        self._columns = [
            _column(b"," if place else opening, name, values)
            for place, (name, values) in enumerate(item.columns.items())
        ]

    def body(self, choice: int, num_items: int) -> list[bytes | memoryview]:
        """The pieces of a body; see `QueryPool.choose`."""
        user, first = self._queries.choose(choice, num_items)
        pieces: list[bytes | memoryview] = [self._users[user]]
        for column in self._columns:
            end = column.starts[first + num_items] - 1
            pieces += (column.before, column.text[column.starts[first] : end], b"]")
        pieces.append(self._end)
        return pieces


def _users(user: Rows) -> list[bytes]:
    """How a body begins, for each user."""
    if user.by_id:
        ((name, ids),) = user.columns.items()
        return [b"{" + orjson.dumps(name) + b":" + orjson.dumps(one) + b"," for one in ids]
    if not user.columns:
        return [b"{"] * user.num_rows
    return [
        b'{"user":' + orjson.dumps(dict(zip(user.columns, row, strict=True))) + b","
        for row in zip(*user.columns.values(), strict=True)
    ]


def _column(opening: bytes, name: str, values: Sequence[object]) -> _Column:
    texts = [orjson.dumps(value) + b"," for value in values]
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).tolist()
    return _Column(opening + orjson.dumps(name) + b":[", memoryview(b"".join(texts)), starts)
