"""A query as named tensors: what the Open Inference Protocol carries, over whatever transport.

Every column of raw values is a tensor `NAME`, of (R,), or (R, width) numbers; lists are two of
them, `NAME.values` (L,) and `NAME.lengths` (R,). R is 1 for the user's columns. A column that both
sides have is `user.NAME` on the user's.

With feature tables, ids stand for the columns of a side: `known.user_id` (1,) and `known.item_ids`
(R,), of any type of whole numbers, or texts. Knows no wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tailrank.core.errors import ConfigError, RequestError, closest
from tailrank.data.jagged import JaggedColumn
from tailrank.data.row_encoder import CategoryColumn, Column, NumberColumns, Rows
from tailrank.features import SIDES, Side
from tailrank.serving.candidates import Candidates, Ids
from tailrank.serving.model import ServedModel
from tailrank.serving.rank_request import RequestLimits
from tailrank.serving.ranking import Ranked
from tailrank.serving.tensor_data import BYTES, Array

VALUES, LENGTHS = ".values", ".lengths"
"""What the two tensors of a column of lists are called, behind its name."""
ID_TENSORS: dict[Side, str] = {"user": "known.user_id", "item": "known.item_ids"}
"""What the tensor of a side's ids is called."""


class TensorInfo(NamedTuple):
    """A tensor as a client is told of it; -1: any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Source(NamedTuple):
    """The column that a tensor is of."""

    side: Side
    column: str
    reader: CategoryColumn | NumberColumns


def sources_of(model: ServedModel) -> dict[str, Source]:
    """The columns of a model by the names of their tensors."""
    found = {}
    for side in SIDES:
        for column, reader in model.encoder.columns[side].items():
            shared = side == "user" and column in model.encoder.columns["item"]
            found[f"user.{column}" if shared else column] = Source(side, column, reader)
    return found


def inputs_of(model: ServedModel) -> list[TensorInfo]:
    """What a query brings: every column in one of its forms; or, in place of a side's, its ids."""
    found = []
    for name, (side, _, reader) in sources_of(model).items():
        rows = 1 if side == "user" else -1
        if isinstance(reader, NumberColumns):
            one = len(reader.columns) == reader.width
            found.append(TensorInfo(name, "FP32", (rows,) if one else (rows, reader.width)))
            continue
        datatype = "INT64" if reader.takes_arrays else BYTES
        if reader.is_list:
            found.append(TensorInfo(name + VALUES, datatype, (-1,)))
            found.append(TensorInfo(name + LENGTHS, "INT64", (rows,)))
        else:
            found.append(TensorInfo(name, datatype, (rows,)))
    for side, table in model.tables.items():
        datatype = BYTES if table.index.has_texts else "INT64"
        found.append(TensorInfo(ID_TENSORS[side], datatype, (1 if side == "user" else -1,)))
    return found


def outputs_of(model: ServedModel) -> list[TensorInfo]:
    """What an answer holds: a score for each item in the order of the query, for each task."""
    names = ("score",) if len(model.tasks) == 1 else model.tasks
    return [TensorInfo(name, "FP32", (-1,)) for name in names]


def candidates_of(
    tensors: Mapping[str, Array],
    model: ServedModel,
    limits: RequestLimits,
    *,
    unknown_default: bool = False,
) -> Candidates:
    """The user and the candidates of a query.

    Args:
        tensors: by name; texts are arrays of objects.
        model: that ranks it.
        limits: what it may ask for.
        unknown_default: whether ids that no table knows have the default row.

    Raises:
        RequestError: a tensor is unknown or missing, or there are too many candidates.
        ConfigError: a tensor has another shape.
    """
    ids = _ids(tensors, model, limits, unknown_default)
    if len(ids) == len(tensors) == len(SIDES):
        return Candidates(ids["user"], ids["item"])
    sources = sources_of(model)
    _refuse_unknown(tensors, sources, model)
    columns: dict[Side, dict[str, Column]] = {side: {} for side in SIDES}
    num_rows: dict[Side, int | None] = {"user": 1, "item": None}
    for name, (side, column, reader) in sources.items():
        if side in ids:
            _refuse_both(name, side, tensors)
            continue
        read = _column(name, reader, tensors)
        rows = len(read.length_R) if isinstance(read, JaggedColumn) else len(read)
        wanted = num_rows[side]
        if wanted is None:
            _check_items(rows, limits)
            num_rows[side] = rows
        elif rows != wanted:
            raise ConfigError(f"{name}: rows", rows, f"{wanted}, as other {side} tensors have")
        columns[side][column] = read
    num_items = num_rows["item"]
    if "item" not in ids and num_items is None:
        raise RequestError("inputs", "the model has no item features to tell candidates by")
    return Candidates(
        ids.get("user") or Rows("user", columns["user"], 1),
        ids.get("item") or Rows("item", columns["item"], num_items or 0),
    )


def scores_of(ranked: Ranked) -> dict[str, Array]:
    """The answer's tensors by name."""
    scores = ranked.scores.float().numpy()
    names = [info.name for info in outputs_of(ranked.model)]
    if scores.ndim == 1:
        return dict.fromkeys(names, scores)
    return {name: np.ascontiguousarray(scores[:, t]) for t, name in enumerate(names)}


def _ids(
    tensors: Mapping[str, Array], model: ServedModel, limits: RequestLimits, default: bool
) -> dict[Side, Ids]:
    """The sides that come as ids of their feature tables."""
    found: dict[Side, Ids] = {}
    for side in model.tables:
        name = ID_TENSORS[side]
        given = tensors.get(name)
        if given is None:
            continue
        if given.ndim == 2 and given.shape[1] == 1:
            given = given[:, 0]
        if given.ndim != 1 or (side == "user" and len(given) != 1):
            allowed = "(1,)" if side == "user" else "(rows,) or (rows, 1)"
            raise ConfigError(f"{name}: shape", list(given.shape), allowed)
        if side == "item":
            _check_items(len(given), limits)
        ids = given if given.dtype.kind in "iu" else given.tolist()
        found[side] = Ids(side, ids, name, default)
    return found


def _refuse_both(name: str, side: Side, tensors: Mapping[str, Array]) -> None:
    """Refuse a column of a side that comes as ids."""
    for one in (name, name + VALUES, name + LENGTHS):
        if one in tensors:
            reason = f"stands for all {side} features; leave {one} out"
            raise RequestError(ID_TENSORS[side], reason)


def _refuse_unknown(
    tensors: Mapping[str, Array], sources: Mapping[str, Source], model: ServedModel
) -> None:
    ids = [ID_TENSORS[side] for side in model.tables]
    known = [*sources, *ids]
    known += [n + end for n, source in sources.items() for end in _ends(source.reader)]
    for name in tensors:
        if name not in known:
            there = ", ".join([*sources, *ids])
            reason = f"no such input; there are {there}{closest(known, name)}"
            raise RequestError(name[:60], reason)


def _ends(reader: CategoryColumn | NumberColumns) -> tuple[str, ...]:
    return (VALUES, LENGTHS) if isinstance(reader, CategoryColumn) else ()


def _column(
    name: str, reader: CategoryColumn | NumberColumns, tensors: Mapping[str, Array]
) -> Column:
    """The column of a tensor, or of the two that lists are made of."""
    whole = tensors.get(name)
    values, lengths = (tensors.get(name + end) for end in (VALUES, LENGTHS))
    if whole is not None:
        if values is not None or lengths is not None:
            raise RequestError(name, f"either {name}, or {name}{VALUES} and {name}{LENGTHS}")
        return _one_a_row(name, whole, reader)
    for end, part in ((VALUES, values), (LENGTHS, lengths)):
        if part is None:
            both = isinstance(reader, CategoryColumn)
            hint = f"{name}{VALUES} and {name}{LENGTHS}, or {name}" if both else name
            raise RequestError(name, f"missing; expected {hint}: {reader.allowed}")
        if part.ndim != 1:
            raise ConfigError(f"{name}{end}: shape", list(part.shape), "one dimension")
    assert values is not None
    assert lengths is not None
    if lengths.dtype.kind not in "iu" or (len(lengths) and lengths.min() < 0):
        raise RequestError(name + LENGTHS, "expected whole numbers from 0")
    # Python's sum knows no overflow.
    if sum(lengths.tolist()) != len(values):
        reason = f"{sum(lengths.tolist())} in all; {name}{VALUES} holds {len(values)}"
        raise RequestError(name + LENGTHS, reason)
    return JaggedColumn(values, lengths.astype(np.int64))


def _one_a_row(name: str, whole: Array, reader: CategoryColumn | NumberColumns) -> Column:
    """A tensor of one value a row, or of `width` numbers; (R, 1) is (R,)."""
    if isinstance(reader, NumberColumns) and len(reader.columns) < reader.width:
        if whole.ndim == 2 and whole.shape[1] == reader.width:
            return whole
        raise ConfigError(f"{name}: shape", list(whole.shape), f"(rows, {reader.width})")
    if whole.ndim == 2 and whole.shape[1] == 1:
        return whole[:, 0]
    if whole.ndim != 1:
        raise ConfigError(f"{name}: shape", list(whole.shape), "(rows,) or (rows, 1)")
    return whole


def _check_items(num_items: int, limits: RequestLimits) -> None:
    if not 1 <= num_items <= limits.items_max:
        reason = f"{num_items} candidates; expected 1 to {limits.items_max}"
        raise RequestError("inputs", reason)
