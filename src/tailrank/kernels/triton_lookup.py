"""Pooled lookups of all features of one side in one launch on a GPU, in Triton.

Checked against `reference.pooled_lookup`. Needs Triton, so whoever imports this has called
`cuda.require` before, or has set TRITON_INTERPRET=1, under which Triton runs the kernel on tensors
of the CPU. Knows tensors only.

A program sums one bag in blocks of `tile.ids` rows at a time: as many independent reads are in
flight, and the next ids are read before the rows of these. Sums are fp32 whatever the rows are.

Legend: G bags (row, then feature), F features, D dim, V table rows, K numbers of a stored row, L
ids.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from tailrank.kernels.cuda import NO_FAULT
from tailrank.kernels.row_formats import RowFormat

_NO_FAULT = tl.constexpr(NO_FAULT)
_DIM_BLOCK_MAX = 256


class Tile(NamedTuple):
    """How a program works: rows that it reads at a time, and its warps."""

    ids: int
    warps: int


def choose_tile(dim: int, ids_per_bag: float) -> Tile:
    """A tile for bags of that mean size.

    Up to 1024 numbers at a time: 16 for each thread of two warps, four reads of 16 bytes in fp32.
    """
    block = _dim_block(dim)
    ids = min(1 << (max(1, round(ids_per_bag)) - 1).bit_length(), max(1, 1024 // block))
    return Tile(ids, max(1, ids * block // 512))


def pooled_lookup(
    rows_VK: Tensor,
    row_format: RowFormat,
    ranges_F2: Tensor,
    ids_L: Tensor,
    offsets: Tensor,
    weights_L: Tensor | None,
    out_GD: Tensor,
    faults: Tensor,
    tile: Tile,
) -> None:
    """Write the sum of the rows of each bag, zeros for an empty one, to `out_GD`.

    Nothing outside the tensors is ever read: what is wrong is left out and told in `faults`, which
    the caller has filled with `NO_FAULT`. Waits for nothing and reads nothing back, so that a CUDA
    graph can hold it.

    Args:
        rows_VK: all tables one after the other, see `row_formats.read_rows`; contiguous.
        row_format: what they are.
        ranges_F2: int64, first row in `rows_VK` and number of rows of each feature's table.
        ids_L: int64, numbered from the table's first row.
        offsets: int64, G + 1 non-decreasing positions into `ids_L`.
        weights_L: fp32 factor per id, or None for all 1.
        out_GD: fp32, contiguous.
        faults: int64; [0] becomes the first position of an id outside its table, [1] the first
            bag whose offsets do not rise or leave `ids_L`; the smaller of that and what is there.
        tile: see `choose_tile`.
    """
    num_bags, dim = out_GD.shape
    if num_bags == 0:
        return
    row_size = rows_VK.shape[1]
    code_bytes = {"int8": dim, "int4": (dim + 1) // 2}.get(row_format, 0)
    word = 4 if row_format == "int8" else 2
    block = _dim_block(dim)
    _pool_bags[num_bags, triton.cdiv(dim, block)](
        rows_VK,
        ranges_F2,
        ids_L,
        offsets,
        ids_L if weights_L is None else weights_L,
        out_GD,
        faults,
        ids_L.shape[0],
        ranges_F2.shape[0],
        FORMAT=row_format,
        WEIGHTED=weights_L is not None,
        ALIGNED=row_size % word == 0 and code_bytes % word == 0,
        DIM=dim,
        ROW_SIZE=row_size,
        BLOCK_L=tile.ids,
        BLOCK_D=block,
        num_warps=tile.warps,
    )


def _dim_block(dim: int) -> int:
    """Numbers of a row for one program: at least the two that share a byte of int4."""
    return min(1 << max(1, (dim - 1).bit_length()), _DIM_BLOCK_MAX)


@triton.jit
def _pool_bags(
    rows,
    ranges,
    ids,
    offsets,
    weights,
    out,
    faults,
    num_ids,
    num_features,
    FORMAT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ALIGNED: tl.constexpr,
    DIM: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One bag, and `BLOCK_D` of its numbers."""
    bag = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_L)
    feature = bag % num_features
    first_row = tl.load(ranges + 2 * feature)
    num_rows = tl.load(ranges + 2 * feature + 1)
    start = tl.load(offsets + bag)
    end = tl.load(offsets + bag + 1)
    if (start < 0) | (end < start) | (end > num_ids):
        tl.atomic_min(faults + 1, bag)
        end = start
    sums = tl.full((BLOCK_L, BLOCK_D), 0.0, tl.float32)
    first_bad = tl.full((BLOCK_L,), _NO_FAULT, tl.int64)
    value = tl.load(ids + start + lane, mask=start + lane < end, other=0)
    at = start
    while at < end:  # not `range`, which Triton 3.6 cannot interpret beside NumPy 2.4
        position = at + lane
        following = position + BLOCK_L
        next_value = tl.load(ids + following, mask=following < end, other=0)
        present = position < end
        outside = present & ((value < 0) | (value >= num_rows))
        first_bad = tl.minimum(first_bad, tl.where(outside, position, _NO_FAULT))
        wanted = present & (value >= 0) & (value < num_rows)
        row = rows + (first_row + value) * ROW_SIZE
        numbers = _numbers(row, wanted, FORMAT, ALIGNED, DIM, BLOCK_D)
        if WEIGHTED:
            factor = tl.load(weights + position, mask=wanted, other=0.0)
            numbers = numbers * factor[:, None]
        sums += numbers
        value = next_value
        at += BLOCK_L
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    tl.store(out + bag * DIM + column, tl.sum(sums, axis=0), mask=column < DIM)
    bad = tl.min(first_bad, axis=0)
    if bad != _NO_FAULT:
        tl.atomic_min(faults, bad)


@triton.jit
def _numbers(
    row,
    wanted,
    FORMAT: tl.constexpr,
    ALIGNED: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What the stored rows stand for, fp32; zeros where a row is not wanted."""
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = wanted[:, None] & (column < DIM)[None, :]
    if FORMAT == "int8":
        codes = tl.load(row[:, None] + column[None, :], mask=mask, other=0)
        scale = _float32(row + DIM, wanted, ALIGNED)
        bias = _float32(row + (DIM + 4), wanted, ALIGNED)
        numbers = scale[:, None] * codes.to(tl.float32) + bias[:, None]
    elif FORMAT == "int4":
        byte = tl.program_id(1) * (BLOCK_D // 2) + tl.arange(0, BLOCK_D // 2)
        mask = wanted[:, None] & (byte < (DIM + 1) // 2)[None, :]
        pairs = tl.load(row[:, None] + byte[None, :], mask=mask, other=0)
        codes = tl.interleave(pairs & 15, pairs >> 4)
        scale = _float16(row + (DIM + 1) // 2, wanted, ALIGNED)
        bias = _float16(row + ((DIM + 1) // 2 + 2), wanted, ALIGNED)
        numbers = scale[:, None] * codes.to(tl.float32) + bias[:, None]
    else:
        numbers = tl.load(row[:, None] + column[None, :], mask=mask, other=0.0).to(tl.float32)
    return numbers


@triton.jit
def _float32(place, wanted, ALIGNED: tl.constexpr):
    """Four bytes as a number; two by two where they may not be aligned."""
    if ALIGNED:
        number = tl.load(place.to(tl.pointer_type(tl.float32)), mask=wanted, other=0.0)
    else:
        low = _two_bytes(place, wanted).to(tl.uint32)
        high = _two_bytes(place + 2, wanted).to(tl.uint32)
        number = (low | (high << 16)).to(tl.float32, bitcast=True)
    return number


@triton.jit
def _float16(place, wanted, ALIGNED: tl.constexpr):
    """Two bytes as a number, in fp32."""
    if ALIGNED:
        number = tl.load(place.to(tl.pointer_type(tl.float16)), mask=wanted, other=0.0)
    else:
        number = _two_bytes(place, wanted).to(tl.float16, bitcast=True)
    return number.to(tl.float32)


@triton.jit
def _two_bytes(place, wanted):
    """Two bytes, the low one first."""
    low = tl.load(place, mask=wanted, other=0).to(tl.uint16)
    high = tl.load(place + 1, mask=wanted, other=0).to(tl.uint16)
    return low | (high << 8)
