"""Operators of torch in ONNX, where the exporter's own translation is slow: bags and repetitions.

Its own compares every place with every row (`repeat_interleave`), which grows with the square of a
batch, or loops over bags (`embedding_bag`). Sums go by ScatterElements: ScatterND has them added by
several threads, and ONNX Runtime 1.31 then loses some where two meet in one place.

Legend: R rows, L places of all rows, V rows of a table, D dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

# Its types are those of numbers; here, operators are given values of a graph in the making.
op: Any = opset18
Value = Any


def repeat_interleave(length_R: Value, output_size: int | None = None) -> Value:
    """The row of each place, (L,), if row r has `length_R[r]` of them."""
    return _row_of_each(op.CumSum(length_R, 0))


def embedding_bag(
    weight_VD: Value,
    ids_L: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    factor_L: Value = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Value, Value, Value, Value]:
    """Sums of the rows of each bag, and three values that only a gradient needs."""
    assert mode == 0, "models pool by sums"
    assert include_last_offset, "their offsets end with the number of ids"
    rows_LD = op.Gather(weight_VD, ids_L)
    if factor_L is not None:
        rows_LD = op.Mul(rows_LD, op.Unsqueeze(factor_L, [1]))
    ends_R = op.Slice(offsets, [1], [torch.iinfo(torch.int64).max], [0])
    shape = op.Concat(op.Shape(ends_R), op.Shape(weight_VD, start=1), axis=0)
    bag_LD = op.Expand(op.Unsqueeze(_row_of_each(ends_R), [1]), op.Shape(rows_LD))
    sums_RD = op.ScatterElements(op.Expand(0.0, shape), bag_LD, rows_LD, axis=0, reduction="add")
    # Values of their own: each gets the shape that torch says of it. Nobody reads them.
    return sums_RD, op.Identity(offsets), op.Identity(offsets), op.Identity(offsets)


def _row_of_each(ends_R: Value) -> Value:
    """The row of each place, (L,): as many rows as end there or before, the last one at L."""
    num_places = op.Gather(ends_R, [-1])
    marks = op.Expand(op.CastLike(0, ends_R), op.Add(num_places, 1))
    ones_R = op.Expand(op.CastLike(1, ends_R), op.Shape(ends_R))
    marks = op.ScatterElements(marks, ends_R, ones_R, axis=0, reduction="add")
    return op.Slice(op.CumSum(marks, 0), [0], num_places, [0])


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.repeat_interleave.Tensor: repeat_interleave,
    torch.ops.aten.embedding_bag.padding_idx: embedding_bag,
}
