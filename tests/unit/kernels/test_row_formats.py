"""Rows in every format: sizes, the bound on what a format rounds away, and what it cannot hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native, row_formats
from tailrank.kernels.row_formats import (
    ROW_FORMATS,
    RowFormat,
    format_of,
    read_rows,
    row_bytes,
    write_rows,
)

DIMS = (1, 2, 7, 9, 32, 100)
# Mean and spread of a table's numbers: as trained, tiny, large, and far from zero.
TABLES = [(0.0, 0.02), (0.0, 1.0), (0.0, 1e-8), (0.0, 1e4), (1000.0, 1.0), (-30.0, 1e-3)]


def random_rows(dim: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
    rows_VD = torch.randn(200, dim, generator=torch.Generator().manual_seed(dim)) * spread + mean
    rows_VD[0] = 0.0
    rows_VD[1] = rows_VD[1, 0]  # a row without any range
    return rows_VD


def scales_of(rows_VK: Tensor, row_format: RowFormat) -> Tensor:
    """The scale of each quantised row, (V, 1)."""
    if row_format == "int8":
        return rows_VK[:, -8:-4].clone().view(torch.float32)
    return rows_VK[:, -4:-2].clone().view(torch.float16).float()


@pytest.mark.parametrize(("mean", "spread"), TABLES)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("row_format", ["int8", "int4"])
def test_a_quantised_number_is_off_by_half_a_scale_at_most(
    row_format: RowFormat, dim: int, mean: float, spread: float
) -> None:
    rows_VD = random_rows(dim, mean, spread)
    rows_VK = write_rows(rows_VD, row_format)
    numbers_VD = read_rows(rows_VK, row_format, dim).double()
    largest_V1 = rows_VD.abs().amax(1, keepdim=True)
    bound_V1 = scales_of(rows_VK, row_format) / 2 + 4 * torch.finfo(torch.float32).eps * largest_V1
    assert bool(((numbers_VD - rows_VD).abs() <= bound_V1).all())
    assert bool((numbers_VD[0] == 0).all())


@pytest.mark.parametrize("dim", [d for d in DIMS if d % 2 == 0])  # torch takes no other in 4 bits
def test_codes_are_those_of_torch_but_for_rounding(dim: int) -> None:
    rows_VD, ops = random_rows(dim)[2:], torch.ops.quantized
    for row_format, theirs_VK, off_by in (
        ("int8", ops.embedding_bag_byte_prepack(rows_VD), 0.001),
        ("int4", ops.embedding_bag_4bit_prepack(rows_VD), 0.05),  # the ends are rounded otherwise
    ):
        mine_VK = write_rows(rows_VD, row_format)
        assert mine_VK.shape == theirs_VK.shape
        mine_VD, theirs_VD = (read_rows(r, row_format, dim) for r in (mine_VK, theirs_VK))
        apart_VD = (mine_VD - theirs_VD).abs() / scales_of(mine_VK, row_format)
        assert float(apart_VD.max()) < 1.05
        assert float(apart_VD.mean()) < off_by


def test_tiny_numbers_keep_their_order_where_torch_loses_it() -> None:
    rows_VD = torch.linspace(-1e-8, 1e-8, 32).view(1, 32)
    assert read_rows(write_rows(rows_VD, "int8"), "int8", 32).unique().numel() == 32
    theirs_VK = torch.ops.quantized.embedding_bag_byte_prepack(rows_VD)
    assert float((read_rows(theirs_VK, "int8", 32) - rows_VD).abs().max()) > 1e-9


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_a_row_takes_the_bytes_that_are_announced(row_format: RowFormat, dim: int) -> None:
    rows_VK = write_rows(random_rows(dim), row_format)
    assert rows_VK.nbytes == 200 * row_bytes(row_format, dim)
    assert format_of(rows_VK, dim) == row_format
    if native.why_unavailable() is None:
        extension = native.extension()
        assert row_bytes(row_format, dim) == extension.row_bytes(
            extension.RowFormat[row_format], dim
        )


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_blocks_leave_no_trace(row_format: RowFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_VD = random_rows(7)
    whole_VK = write_rows(rows_VD, row_format)
    monkeypatch.setattr(row_formats, "_BLOCK_NUMBERS", 7 * 33)
    out_VK = torch.zeros_like(whole_VK)
    assert write_rows(rows_VD, row_format, out_VK) is out_VK
    assert torch.equal(out_VK, whole_VK)


@pytest.mark.parametrize(
    ("row_format", "value"),
    [
        ("int8", float("nan")),
        ("int8", float("inf")),
        ("int8", 3.4e38),
        ("int4", float("nan")),
        ("int4", -70000.0),
        ("fp16", 70000.0),
    ],
)
def test_a_number_that_a_format_cannot_hold_is_named(
    row_format: RowFormat, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_formats, "_BLOCK_NUMBERS", 4 * 10)
    rows_VD = random_rows(4)
    rows_VD[123, 1:3] = torch.tensor([value, -value])
    with pytest.raises(ConfigError, match=f"row 123: .* for {row_format} rows"):
        write_rows(rows_VD, row_format)


def test_rows_in_no_format_are_refused() -> None:
    with pytest.raises(ConfigError, match="fp32, bf16, fp16, int8, int4 of 7 numbers"):
        format_of(torch.zeros(3, 8), 7)


def test_no_rows_are_no_rows() -> None:
    for row_format in ROW_FORMATS:
        assert write_rows(torch.empty(0, 6), row_format).shape[0] == 0
