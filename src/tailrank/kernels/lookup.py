"""Pooled lookups of many tables in one native call, checked against `reference.pooled_lookup`.

Knows tensors only: names of features are just for its messages.

Legend: R rows of the request, F features, D dim, V table rows, L ids, W numbers in a row of `out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native
from tailrank.kernels.native import IsaName
from tailrank.kernels.reference import Pooling
from tailrank.kernels.row_formats import ROW_FORMATS, RowFormat, columns, dtype_of

# The winner of the sweep in benchmarks/bench_lookup.py on Zen 5.
PREFETCH_ROWS = 96
PREFETCH_ROWS_MAX = 511
_INT64, _FP32, _BF16 = torch.int64, torch.float32, torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupConfig:
    """How a `PooledLookup` works.

    Args:
        row_format: how the tables store a row, see `row_formats`.
        pooling: `sum`, or `mean` of each bag's rows.
        isa: instruction set; None: the widest that runs here.
        prefetch_rows: how far ahead of the sums rows are asked for, 0 to 511.
    """

    row_format: RowFormat = "fp32"
    pooling: Pooling = "sum"
    isa: IsaName | None = None
    prefetch_rows: int = PREFETCH_ROWS

    def __post_init__(self) -> None:
        if self.row_format not in ROW_FORMATS:
            raise ConfigError("row_format", self.row_format, " or ".join(ROW_FORMATS))
        if self.pooling not in get_args(Pooling):
            raise ConfigError("pooling", self.pooling, " or ".join(get_args(Pooling)))
        if not 0 <= self.prefetch_rows <= PREFETCH_ROWS_MAX:
            raise ConfigError("prefetch_rows", self.prefetch_rows, f"0 to {PREFETCH_ROWS_MAX}")


class PooledLookup:
    """Looks up the bags of all features of one side, each in its own table.

    Safe from several threads. Keeps `tables` alive, and reads them where they lie.

    Args:
        tables: one per feature, contiguous CPU tensors; two may share memory. Floats (V, D), or
            uint8 (V, K) of a quantised format.
        dim: D of all of them.
        config: see `LookupConfig`.
        feature_names: for messages; default their numbers.
        row_name: what a row is called in messages.

    Raises:
        ConfigError: no table, or one that is not as `config` says.
        BackendUnavailable: there are no native kernels here, or not for `config.isa`.
    """

    def __init__(
        self,
        tables: Sequence[Tensor],
        dim: int,
        config: LookupConfig | None = None,
        *,
        feature_names: Sequence[str] = (),
        row_name: str = "row",
    ) -> None:
        config = config or LookupConfig()
        self._isa = native.choose_isa(config.isa)
        self._names = feature_names or [f"feature {index}" for index in range(len(tables))]
        self._row_name = row_name
        self._tables = list(tables)
        self._pooling = config.pooling
        if not tables:
            raise ConfigError("tables", 0, "at least one")
        for name, table in zip(self._names, tables, strict=True):
            _check_table(name, table, dim, config.row_format)
        self._num_features, self._width = len(tables), len(tables) * dim
        self._call = native.extension().PooledLookup(
            self._isa,
            native.extension().RowFormat[config.row_format],
            dim,
            config.pooling == "mean",
            config.prefetch_rows,
            [(table.data_ptr(), table.shape[0]) for table in tables],
        )

    @property
    def isa(self) -> str:
        """The instruction set that is used."""
        return self._isa.name

    def __call__(
        self,
        ids_L: Tensor,
        offsets: Tensor,
        weights_L: Tensor | None = None,
        *,
        out_RW: Tensor | None = None,
        column: int = 0,
    ) -> Tensor:
        """Pooled rows, (R, F * D) from `column` of the result on.

        Args:
            ids_L: int64, contiguous, row-major (row, then feature), each a row of its table.
            offsets: int64, contiguous, R * F + 1 positions into `ids_L`, non-decreasing, 0 to L.
            weights_L: float32, contiguous, a factor per id; None: all 1. Not with `mean`.
            out_RW: fp32 or bf16, its rows without gaps inside; None: a new fp32 tensor.
            column: first number of each row of `out_RW` that is written.

        Raises:
            ConfigError: an id outside its table (names feature, row, place in its bag and value),
                offsets that do not rise from 0 to L, or a tensor of another kind. `out_RW` may
                then be written in part.
        """
        # One after the other in place: a call of a Python function costs as much as a short bag.
        if ids_L.dtype is not _INT64 or not ids_L.is_cpu or not ids_L.is_contiguous():
            raise _not_a_vector("ids_L", ids_L, _INT64)
        if offsets.dtype is not _INT64 or not offsets.is_cpu or not offsets.is_contiguous():
            raise _not_a_vector("offsets", offsets, _INT64)
        num_ids, num_offsets = ids_L.numel(), offsets.numel()
        num_rows, rest = divmod(num_offsets - 1, self._num_features)
        if rest or num_rows < 0:
            allowed = f"a multiple of {self._num_features} features, and one more"
            raise ConfigError("offsets", num_offsets, allowed)
        if weights_L is not None:
            self._check_weights(weights_L, num_ids)
        if out_RW is None:
            out_RW, column = torch.empty(num_rows, self._width), 0
            stride, is_bf16 = self._width, False
        else:
            stride, is_bf16 = self._check_out(out_RW, num_rows, column)
        fault = self._call(
            num_rows,
            ids_L.data_ptr(),
            num_ids,
            offsets.data_ptr(),
            0 if weights_L is None else weights_L.data_ptr(),
            out_RW.data_ptr() + (2 if is_bf16 else 4) * column,
            stride,
            is_bf16,
        )
        if fault is not None:
            raise self._error(fault, ids_L, offsets)
        return out_RW

    def _check_weights(self, weights_L: Tensor, num_ids: int) -> None:
        """Refuse weights that do not fit."""
        if weights_L.dtype is not _FP32 or not weights_L.is_cpu or not weights_L.is_contiguous():
            raise _not_a_vector("weights_L", weights_L, _FP32)
        if weights_L.numel() != num_ids:
            raise ConfigError("weights_L.shape", tuple(weights_L.shape), f"({num_ids},)")
        if self._pooling == "mean":
            raise ConfigError("weights_L", "given", "none with mean pooling")

    def _check_out(self, out_RW: Tensor, num_rows: int, column: int) -> tuple[int, bool]:
        """Numbers from row to row and whether they are bf16; refuses memory that is too small."""
        dtype, shape, strides = out_RW.dtype, out_RW.shape, out_RW.stride()
        if (dtype is not _FP32 and dtype is not _BF16) or not out_RW.is_cpu:
            raise ConfigError("out_RW", f"{dtype} on {out_RW.device}", "fp32 or bf16 on CPU")
        if len(shape) != 2 or shape[0] != num_rows:
            raise ConfigError("out_RW.shape", tuple(shape), f"({num_rows}, any)")
        if column < 0 or column + self._width > shape[1]:
            allowed = f"0 to {shape[1] - self._width}: {self._width} numbers are written a row"
            raise ConfigError("column", column, allowed)
        if strides[1] != 1 or (num_rows > 1 and strides[0] < shape[1]):
            raise ConfigError("out_RW.stride", strides, "rows without gaps or overlap")
        return strides[0], dtype is _BF16

    def _error(self, fault: tuple[int, int, int], ids_L: Tensor, offsets: Tensor) -> ConfigError:
        """What the kernel found, in the caller's words."""
        kind, bag, position = fault
        row, feature = divmod(bag, self._num_features)
        if kind == native.extension().BAD_OFFSETS:
            field = f"offsets[{bag}] ({self._row_name} {row})"
            return ConfigError(field, int(offsets[bag]), f"rising from 0 to {ids_L.shape[0]}")
        place = position - int(offsets[bag])
        field = f"{self._names[feature]} ({self._row_name} {row}, id {place} of its bag)"
        limit = self._tables[feature].shape[0]
        return ConfigError(field, int(ids_L[position]), f"0 to {limit - 1}")


def _not_a_vector(name: str, vector: Tensor, dtype: torch.dtype) -> ConfigError:
    """What is wrong with a tensor whose memory is not simply its numbers."""
    given = f"{vector.dtype} {tuple(vector.shape)}, stride {vector.stride()}, on {vector.device}"
    return ConfigError(name, given, f"{dtype}, contiguous, on CPU")


def _check_table(name: str, table: Tensor, dim: int, row_format: RowFormat) -> None:
    """Refuse a table that does not hold rows of `dim` numbers in that format."""
    if dim < 1:
        raise ConfigError("dim", dim, "at least 1")
    dtype, width = dtype_of(row_format), columns(row_format, dim)
    if table.dtype is not dtype or table.dim() != 2 or table.shape[1] != width:
        given = f"{table.dtype} {tuple(table.shape)}"
        raise ConfigError(f"table of {name}", given, f"{dtype} (V, {width}) for {row_format}")
    if not table.is_cpu or not table.is_contiguous():
        given = f"stride {table.stride()} on {table.device}"
        raise ConfigError(f"table of {name}", given, "contiguous, on CPU")
