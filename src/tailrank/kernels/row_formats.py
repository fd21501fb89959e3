"""How a table stores a row: its formats, their sizes, and the way there and back.

Plain torch; faster readers are checked against `read_rows`. Knows tensors only. Legend: V table
rows, D dim, K columns of a stored row: D floats or the bytes of a quantised row.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError

# D floats, or quantised, see `read_rows`.
RowFormat = Literal["fp32", "bf16", "fp16", "int8", "int4"]
ROW_FORMATS: tuple[RowFormat, ...] = get_args(RowFormat)
FLOATS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_FP16_LEAST = 2.0**-24  # the smallest number above zero
_BLOCK_NUMBERS = 1 << 18  # of a block and its temporaries: about what a second-level cache holds


def columns(row_format: RowFormat, dim: int) -> int:
    """Columns K of a stored row of `dim` numbers."""
    return {"int8": dim + 8, "int4": (dim + 1) // 2 + 4}.get(row_format, dim)


def dtype_of(row_format: RowFormat) -> torch.dtype:
    """What its columns are: floats, or bytes."""
    return FLOATS.get(row_format, torch.uint8)


def row_bytes(row_format: RowFormat, dim: int) -> int:
    """Bytes of a stored row."""
    return columns(row_format, dim) * dtype_of(row_format).itemsize


def format_of(rows_VK: Tensor, dim: int) -> RowFormat:
    """The format of stored rows: dtype and columns tell, for no two formats have both in common.

    Raises:
        ConfigError: they are in none.
    """
    for row_format in ROW_FORMATS:
        if (rows_VK.dtype, rows_VK.shape[1]) == (dtype_of(row_format), columns(row_format, dim)):
            return row_format
    given = f"{rows_VK.dtype} {tuple(rows_VK.shape)}"
    raise ConfigError("rows", given, f"{', '.join(ROW_FORMATS)} of {dim} numbers")


def read_rows(rows_VK: Tensor, row_format: RowFormat, dim: int) -> Tensor:
    """The numbers that stored rows stand for, fp32 (V, D).

    Quantised rows are FBGEMM's fused row-wise formats: each number is scale * q + bias, with the
    row's own scale and bias behind its codes. `int8`: D bytes q, scale and bias in fp32. `int4`:
    (D + 1) // 2 bytes, the low half first, scale and bias in fp16.

    Args:
        rows_VK: uint8 (V, K) of a quantised format, otherwise floats (V, D).
        row_format: what they are.
        dim: D.
    """
    if row_format == "int8":
        codes_VD, ends = rows_VK[:, :dim], _copied(rows_VK[:, dim:]).view(torch.float32)
    elif row_format == "int4":
        bytes_VK, ends = rows_VK[:, :-4], _copied(rows_VK[:, -4:]).view(torch.float16)
        codes_VD = torch.stack([bytes_VK & 15, bytes_VK >> 4], dim=2).flatten(1)[:, :dim]
    else:
        return rows_VK.float()
    return ends[:, :1].float() * codes_VD.float() + ends[:, 1:].float()


def write_rows(
    rows_VD: Tensor, row_format: RowFormat, out_VK: Tensor | None = None, *, first_row: int = 0
) -> Tensor:
    """Rows of numbers as the format stores them, block by block.

    A quantised number differs from the given one by at most half its row's scale, and by what fp32
    rounds away. Deviation from FBGEMM's own quantiser, whose error can be larger: in `int4` bias
    and scale are rounded apart instead of to nearest, so that no number lies outside the codes; in
    `int8` nothing is added to the range of a row of tiny numbers.

    Args:
        rows_VD: fp32.
        row_format: what to write.
        out_VK: where to write; None: memory of its own.
        first_row: what the first row is called in messages.

    Returns:
        Tensor (V, K): `out_VK`.

    Raises:
        ConfigError: a number that the format cannot hold, such as an infinite one in `int8`.
    """
    num_rows, dim = rows_VD.shape
    if out_VK is None:
        out_VK = torch.empty(num_rows, columns(row_format, dim), dtype=dtype_of(row_format))
    block_rows = max(1, _BLOCK_NUMBERS // max(dim, 1))
    for first in range(0, num_rows, block_rows):
        block_VD = rows_VD[first : first + block_rows]
        out = out_VK[first : first + block_rows]
        if row_format in ("int8", "int4"):
            ends_V2 = _quantise(block_VD, row_format, out)
        else:
            ends_V2 = out.copy_(block_VD)
        # bf16 has the range of fp32, so nothing can be lost that was there.
        if row_format not in ("fp32", "bf16") and not bool(torch.isfinite(ends_V2).all()):
            row = first + int((~torch.isfinite(ends_V2)).any(1).nonzero()[0])
            largest = float(rows_VD[row].abs().max())
            limit = "65504" if row_format in ("fp16", "int4") else "1.7e38"
            allowed = f"numbers up to {limit} for {row_format} rows"
            raise ConfigError(f"row {first_row + row}", largest, allowed)
    return out_VK


def _quantise(rows_VD: Tensor, row_format: RowFormat, out_VK: Tensor) -> Tensor:
    """Write a block; the scale and bias of each row."""
    dim = rows_VD.shape[1]
    low, high = torch.aminmax(rows_VD, dim=1, keepdim=True)
    if row_format == "int8":
        bias, num_steps = low, 255
        scale = ((high - low) / num_steps).clamp(min=torch.finfo(torch.float32).tiny)
        ends_V2 = torch.cat([scale, bias], dim=1)
    else:
        # Half a unit of fp16's last place down, or up, and then to nearest: on the right side.
        num_steps = 15
        bias = (low - low.abs() * 2.0**-11 - _FP16_LEAST / 2).half()
        scale = (high - bias.float()) / num_steps
        scale = (scale + scale * 2.0**-11 + _FP16_LEAST / 2).half().clamp(min=_FP16_LEAST)
        ends_V2 = torch.cat([scale, bias], dim=1)
        scale, bias = scale.float(), bias.float()
    codes_VD = ((rows_VD - bias) / scale).round_().clamp_(0, num_steps).to(torch.uint8)
    if row_format == "int4":
        if dim % 2:
            codes_VD = torch.nn.functional.pad(codes_VD, (0, 1))
        codes_VD = codes_VD[:, ::2] | codes_VD[:, 1::2] << 4
    num_codes = codes_VD.shape[1]
    out_VK[:, :num_codes] = codes_VD
    out_VK[:, num_codes:] = ends_V2.view(torch.uint8)
    return ends_V2


def _copied(bytes_VK: Tensor) -> Tensor:
    """The same in memory of its own: bytes become floats only where they are aligned."""
    return bytes_VK.clone(memory_format=torch.contiguous_format)
