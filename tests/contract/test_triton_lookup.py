"""The Triton lookup against `reference`: on the GPU where there is one, interpreted elsewhere.

The interpreter runs the kernel's own operations on the CPU, so it settles what is computed and what
is read. Whether the compiler takes the kernel is settled for a Hopper GPU, which need not be here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from tests.contract.test_lookup import check, expected, random_bags, random_table
from torch import Tensor

from tailrank.kernels.lookup import LookupConfig
from tailrank.kernels.row_formats import RowFormat, read_rows

pytest.importorskip("triton", reason="Triton is not installed: the GPU's lookup is NOT TESTED")
from tailrank.kernels.cuda import NO_FAULT
from tailrank.kernels.triton_lookup import Tile, choose_tile, pooled_lookup

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = [1, 50, 3]


def run(
    tables: list[Tensor],
    dim: int,
    row_format: RowFormat,
    ids_L: Tensor,
    offsets: Tensor,
    weights_L: Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, list[int]]:
    """Sums as the reference gives them, (R, F * D), and the faults."""
    sizes = torch.tensor([len(table) for table in tables])
    ranges_F2 = torch.stack([sizes.cumsum(0) - sizes, sizes], dim=1)
    num_bags = len(offsets) - 1
    out_GD = torch.full((num_bags, dim), 7.0, device=DEVICE)  # what is not written shows
    faults = torch.full((2,), NO_FAULT, device=DEVICE)
    stacked = torch.cat(tables) if len(tables) > 1 else tables[0]
    inputs = [stacked, ranges_F2, ids_L, offsets]
    rows_VK, ranges_F2, ids_L, offsets = (tensor.to(DEVICE) for tensor in inputs)
    weights_L = None if weights_L is None else weights_L.to(DEVICE)
    tile = tile or choose_tile(dim, 10.0)
    pooled_lookup(rows_VK, row_format, ranges_F2, ids_L, offsets, weights_L, out_GD, faults, tile)
    return out_GD.view(num_bags // len(tables), dim * len(tables)).cpu(), faults.tolist()


# 1, 7 and 100 leave rows of int8 and int4 unaligned; 300 takes two programs for a bag.
@pytest.mark.parametrize("dim", [1, 7, 16, 32, 64, 100, 300])
@pytest.mark.parametrize("row_format", get_args(RowFormat))
def test_sums_and_weighted_sums_are_the_reference(row_format: RowFormat, dim: int) -> None:
    tables = [random_table(rows, dim, row_format, seed=rows) for rows in SIZES]
    ids_L, offsets = random_bags(torch.tensor([0, 1, 5, 40, 2, 17]), SIZES)
    weights_L = torch.randn(len(ids_L), generator=torch.Generator().manual_seed(3))
    config = LookupConfig(row_format=row_format)
    for weights in (None, weights_L):
        mine, faults = run(tables, dim, row_format, ids_L, offsets, weights)
        check(mine, expected(tables, dim, config, ids_L, offsets, weights), num_terms=40)
        assert faults == [NO_FAULT, NO_FAULT]


@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(2, 1), Tile(16, 2), Tile(64, 4)])
def test_every_tile_gives_the_same(tile: Tile) -> None:
    tables = [random_table(rows, 16, "fp32", seed=rows) for rows in SIZES]
    ids_L, offsets = random_bags(torch.tensor([16, 0, 15, 17, 1, 33]), SIZES)
    mine, _ = run(tables, 16, "fp32", ids_L, offsets, tile=tile)
    check(mine, expected(tables, 16, LookupConfig(), ids_L, offsets), num_terms=33)


def test_no_bag_and_bags_without_ids() -> None:
    tables = [random_table(rows, 8, "fp32") for rows in SIZES]
    none = torch.zeros(0, dtype=torch.int64)
    assert run(tables, 8, "fp32", none, torch.zeros(1, dtype=torch.int64))[0].numel() == 0
    empty, faults = run(tables, 8, "fp32", none, torch.zeros(7, dtype=torch.int64))
    assert torch.equal(empty, torch.zeros(2, 24))
    assert faults == [NO_FAULT, NO_FAULT]


@pytest.mark.parametrize("value", [-1, 3, 50, 1 << 40, -(1 << 63), (1 << 63) - 1])
def test_the_first_id_outside_its_table_is_told_and_not_read(value: int) -> None:
    tables = [random_table(rows, 8, "fp32", seed=rows) for rows in SIZES]
    ids_L, offsets = random_bags(torch.tensor([1, 4, 30, 0, 2, 5]), SIZES)
    sound, broken = ids_L.clone(), ids_L.clone()
    for position in (20, 33, 40):  # in the third bag, and in the last one
        broken[position] = value
    mine, faults = run(tables, 8, "fp32", broken, offsets)
    assert faults == [20, NO_FAULT]
    clean = [0, 1, 3, 4]
    theirs = expected(tables, 8, LookupConfig(), sound, offsets)
    check(mine.view(6, 8)[clean], theirs.view(6, 8)[clean], num_terms=30)


@pytest.mark.parametrize("wrong", [-5, 4, 1 << 40, -(1 << 63)])
def test_offsets_that_do_not_rise_are_told_and_not_followed(wrong: int) -> None:
    tables = [random_table(rows, 8, "fp32", seed=rows) for rows in SIZES]
    ids_L, offsets = random_bags(torch.tensor([2, 4, 3, 1, 2, 2]), SIZES)
    broken = offsets.clone()
    broken[3] = wrong  # the end of the third bag, which begins at 6
    mine, (_, bag) = run(tables, 8, "fp32", ids_L, broken)
    assert bag == 2
    theirs = expected(tables, 8, LookupConfig(), ids_L, offsets).view(6, 8)
    check(mine.view(6, 8)[[0, 1, 4, 5]], theirs[[0, 1, 4, 5]])


# NumPy, which the interpreter computes with, speaks up where a number beyond DIM, which is thrown
# away, becomes none.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_stay_in_their_bag(value: float) -> None:
    tables = [random_table(rows, 7, "fp32", seed=rows) for rows in SIZES]
    ids_L, offsets = random_bags(torch.tensor([3, 2, 1]), SIZES)
    weights_L = torch.ones(6)
    weights_L[3] = value
    mine, _ = run(tables, 7, "fp32", ids_L, offsets, weights_L)
    check(mine, expected(tables, 7, LookupConfig(), ids_L, offsets, weights_L))


def test_rows_beyond_2_31_bytes_are_reached() -> None:
    """Positions are 64 bits wide: a table of a production model is larger than 32 bits count."""
    num_rows = (1 << 31) // 64 + 2
    table = torch.zeros(num_rows, 64, dtype=torch.uint8)  # int8 rows; untouched pages cost nothing
    table[-1] = random_table(1, 56, "int8")[0]
    ids_L, offsets = torch.tensor([num_rows - 1]), torch.tensor([0, 1])
    mine, _ = run([table], 56, "int8", ids_L, offsets)
    check(mine, read_rows(table[-1:], "int8", 56).double())


_COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tailrank.kernels import triton_lookup as lookup

kernel = lookup._pool_bags
for row_format, pointer, dim, row_size in (
    ("fp32", "*fp32", 64, 64), ("bf16", "*bf16", 64, 64), ("fp16", "*fp16", 9, 9),
    ("int8", "*u8", 64, 72), ("int8", "*u8", 9, 17), ("int4", "*u8", 32, 20), ("int4", "*u8", 9, 9),
):
    for weighted in (False, True):
        tile = lookup.choose_tile(dim, 120.0)
        fixed = dict(FORMAT=row_format, WEIGHTED=weighted, ALIGNED=dim != 9, DIM=dim)
        fixed |= dict(ROW_SIZE=row_size, BLOCK_L=tile.ids, BLOCK_D=lookup._dim_block(dim))
        fixed |= dict(num_features=1) if dim == 9 else {}  # Triton makes a constant of any 1
        types = dict(rows=pointer, ranges="*i64", ids="*i64", offsets="*i64", weights="*fp32")
        types |= dict(out="*fp32", faults="*i64", num_ids="i64", num_features="i32")
        types |= dict.fromkeys(fixed, "constexpr")
        constants = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
        aligned = {(index,): [["tt.divisibility", 16]] for index in range(7)}
        source = ASTSource(kernel, types, constexprs=constants, attrs=aligned)
        target = GPUTarget("cuda", 90, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": tile.warps})
        assert compiled.asm["cubin"]
        wide = "ld.global.v4.b32" in compiled.asm["ptx"]
        print(row_format, dim, weighted, "wide" if wide else "narrow")
"""


def test_it_compiles_for_hopper_with_wide_loads(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 14
    assert {"fp32 64 False wide", "fp32 64 True wide", "bf16 64 False wide"} <= set(lines)
