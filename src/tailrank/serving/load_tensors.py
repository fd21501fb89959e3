"""The queries of a load test as tensors of the Open Inference Protocol, and its binary HTTP bodies.

Values are written as the protocol has them beforehand; a tensor of a query is a slice of them.
Knows no socket and no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson

from tailrank.core.errors import RequestError
from tailrank.features import Side
from tailrank.serving.load_queries import Ids, QueryPool, Rows, Schema
from tailrank.serving.tensor_data import BYTES, DTYPES
from tailrank.serving.tensors import ID_TENSORS, LENGTHS, VALUES

Starts = Sequence[int]
_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)
# Queries of one size have one JSON: sizes of a load, many times over.
_HEADERS_KEPT = 4096


class Tensor(NamedTuple):
    """A tensor of a query; its data as raw bytes."""

    name: str
    datatype: str
    shape: list[int]
    raw: memoryview


class _Column(NamedTuple):
    """A tensor of all rows.

    Args:
        name: of the tensor.
        datatype: of its elements.
        tail: its dimensions after the first.
        raw: all rows.
        elements: elements along the first dimension before each row, and in all.
        places: where each row begins in `raw`, and where the last one ends.
    """

    name: str
    datatype: str
    tail: list[int]
    raw: memoryview
    elements: Starts
    places: Starts

    def rows(self, first: int, num_rows: int) -> Tensor:
        """The tensor of some rows."""
        end = first + num_rows
        length = self.elements[end] - self.elements[first]
        raw = self.raw[self.places[first] : self.places[end]]
        return Tensor(self.name, self.datatype, [length, *self.tail], raw)


class TensorPool:
    """Queries as tensors.

    Args:
        metadata: the model's, as the protocol gives it; see `QueryPool` for the others.

    Raises:
        RequestError: the server does not describe its model in a way that goes together.
    """

    def __init__(
        self,
        document: Schema,
        metadata: Mapping[str, Any],
        items_max: int,
        seed: int,
        ids: Ids | None = None,
    ) -> None:
        self._queries = QueryPool(document, items_max, seed, ids)
        try:
            known = {
                tensor["name"]: (tensor["datatype"], len(tensor["shape"]))
                for tensor in metadata["inputs"]
            }
        except (KeyError, TypeError):
            raise RequestError("--url", "its model names no inputs") from None
        self._user = list(_tensors_of("user", self._queries.user, known))
        self._item = list(_tensors_of("item", self._queries.item, known))
        if not self._item:
            raise RequestError("--url", "its model names other inputs than its /openapi.json")

    def tensors(self, choice: int, num_items: int) -> list[Tensor]:
        """The tensors of a query; see `QueryPool.choose`."""
        user, first = self._queries.choose(choice, num_items)
        found = [column.rows(user, 1) for column in self._user]
        found += [column.rows(first, num_items) for column in self._item]
        return found


def binary_body(tensors: Sequence[Tensor]) -> tuple[list[bytes | memoryview], int]:
    """The pieces of a body with binary tensors that wants binary scores, and the JSON's bytes."""
    header = _header(
        tuple((name, datatype, tuple(shape), len(raw)) for name, datatype, shape, raw in tensors)
    )
    return [header, *(tensor.raw for tensor in tensors)], len(header)


@lru_cache(_HEADERS_KEPT)
def _header(tensors: tuple[tuple[str, str, tuple[int, ...], int], ...]) -> bytes:
    """The JSON of a body."""
    inputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": shape,
            "parameters": {"binary_data_size": num_bytes},
        }
        for name, datatype, shape, num_bytes in tensors
    ]
    return orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})


def _tensors_of(side: Side, rows: Rows, known: Mapping[str, tuple[str, int]]) -> Iterator[_Column]:
    """The tensors of a side, of ids or of columns."""
    if not rows.by_id:
        yield from _columns(side, rows.columns, known)
        return
    (ids,) = rows.columns.values()
    datatype, _ = known.get(ID_TENSORS[side], ("", 0))
    if not datatype:
        reason = f"its model names no input {ID_TENSORS[side]}"
        raise RequestError(f"--{side}-features", reason)
    if datatype != BYTES:
        whole = [one for one in ids if isinstance(one, int) and _INT64.min <= one <= _INT64.max]
        if len(whole) < len(ids):
            reason = "the server's ids are whole numbers of up to 64 bits; these are not"
            raise RequestError(f"--{side}-features", reason)
        # As short as they are: the server takes any type of whole numbers.
        fits = _INT32.min <= min(whole) and max(whole) <= _INT32.max
        datatype = "INT32" if fits else "INT64"
    raw, places = _written(ids, datatype)
    yield _Column(ID_TENSORS[side], datatype, [], raw, range(len(ids) + 1), places)


def _columns(
    side: Side, columns: Mapping[str, Sequence[Any]], known: Mapping[str, tuple[str, int]]
) -> Iterator[_Column]:
    """The tensors of a side's columns, those that the model reads.

    `known` has the data type and the number of dimensions of each.
    """
    for column, rows in columns.items():
        name = f"user.{column}" if side == "user" else column
        if name not in known and name + VALUES not in known:
            name = column
        datatype, num_dimensions = known.get(name) or known.get(name + VALUES) or ("", 0)
        if not datatype:
            continue  # of another stage
        if isinstance(rows[0], list) and num_dimensions == 1:
            lengths = [len(row) for row in rows]
            starts = _sums(lengths)
            flat = [value for row in rows for value in row]
            raw, places = _written(flat, datatype)
            yield _Column(
                name + VALUES, datatype, [], raw, starts, [places[start] for start in starts]
            )
            rows, datatype, name = lengths, "INT64", name + LENGTHS
        raw, places = _written(rows, datatype)
        tail = list(np.shape(rows)[1:])
        yield _Column(name, datatype, tail, raw, range(len(rows) + 1), places)


def _written(values: Sequence[Any], datatype: str) -> tuple[memoryview, Starts]:
    """Elements as raw bytes, and where each begins, and the last one ends."""
    if datatype == BYTES:
        texts = [str(value).encode() for value in values]
        pieces = [struct.pack("<I", len(text)) + text for text in texts]
        return memoryview(b"".join(pieces)), _sums([len(piece) for piece in pieces])
    array = np.array(values, dtype=DTYPES[datatype])
    size = array.nbytes // max(1, len(values))
    return memoryview(array.tobytes()), range(0, array.nbytes + 1, size) if size else [0]


def _sums(lengths: Sequence[int]) -> Starts:
    sums: list[int] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64).tolist()
    return sums
