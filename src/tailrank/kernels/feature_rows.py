"""Rows of feature tables in native calls: found by id, copied side by side; without Python's lock.

Knows arrays only; `serving.id_index` and `serving.feature_tables` say what they mean, and do the
same in NumPy where there are no native kernels.

Legend: R rows of a table, B rows asked for, F sparse features, N dense width, L ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailrank.core.errors import DataError
from tailrank.kernels import native

Array = NDArray[Any]
_WORD = 8


def is_available() -> bool:
    """Whether there are native kernels."""
    return native.why_unavailable() is None


class IdFinder:
    """Finds the rows of ids; safe from several threads.

    Args:
        ids_R: int64, or bytes of a fixed length in whole words; here and below as `IdIndex` has it.
        hash_R: uint64.
        row_R: uint32 or uint64.
        directory: of the same type.
        seed: of the hash.

    Raises:
        BackendUnavailable: there are no native kernels.
    """

    def __init__(
        self, ids_R: Array, hash_R: Array, row_R: Array, directory: Array, seed: int
    ) -> None:
        self._arrays = [np.ascontiguousarray(each) for each in (ids_R, hash_R, row_R, directory)]
        assert row_R.dtype == directory.dtype, "places are of one type"
        self._dtype = ids_R.dtype
        self._call = native.extension().IdRows(
            *(each.ctypes.data for each in self._arrays),
            len(ids_R),
            ids_R.dtype.itemsize // _WORD,
            seed,
            row_R.dtype.itemsize,
            len(directory).bit_length() - 1,
        )

    def __call__(self, asked_L: Array) -> NDArray[np.int64]:
        """The row of each of these ids, -1 for one that is not there.

        Args:
            asked_L: contiguous, of the type that the index has.
        """
        assert asked_L.dtype == self._dtype, "ids are asked for as the index has them"
        rows = np.empty(len(asked_L), dtype=np.int64)
        self._call.find(asked_L.ctypes.data, len(asked_L), rows.ctypes.data)
        return rows


class RowCopier:
    """Copies rows of a table; safe from several threads.

    Args:
        dense_RN: float32.
        values_L: int32 or int64.
        offsets: int64, R * F + 1; None: there is one id in every bag.
        weights_L: float32; None: there are none.
        num_sparse: F.

    Raises:
        BackendUnavailable: there are no native kernels.
    """

    def __init__(
        self,
        dense_RN: Array,
        values_L: Array,
        offsets: Array | None,
        weights_L: Array | None,
        num_sparse: int,
    ) -> None:
        self._arrays = dense_RN, values_L, offsets, weights_L
        assert all(each is None or each.flags.c_contiguous for each in self._arrays), "contiguous"
        self._num_sparse, self._width = num_sparse, dense_RN.shape[1]
        self._call = native.extension().FeatureRows(
            values_L.ctypes.data,
            len(values_L),
            values_L.dtype.itemsize,
            0 if offsets is None else offsets.ctypes.data,
            0 if weights_L is None else weights_L.ctypes.data,
            dense_RN.ctypes.data,
            dense_RN.shape[1] * dense_RN.dtype.itemsize,
            num_sparse,
            len(dense_RN),
        )

    def __call__(self, row_B: Array) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Dense (B, N), values, offsets and weights of some rows, as `SideFeatures` has them.

        Args:
            row_B: int64, contiguous, each a row of the table.

        Raises:
            DataError: a row is not there, or the table's offsets are damaged.
        """
        num_rows, rows = len(row_B), row_B.ctypes.data
        offsets = torch.empty(num_rows * self._num_sparse + 1, dtype=torch.int64)
        num_ids = self._call.count(rows, num_rows, offsets.data_ptr())
        if num_ids < 0:
            raise DataError("a feature table", "damaged: its offsets do not go with its values")
        dense_BN = torch.empty((num_rows, self._width), dtype=torch.float32)
        values_L = torch.empty(num_ids, dtype=torch.int64)
        weights_L = None if self._arrays[3] is None else torch.empty(num_ids, dtype=torch.float32)
        weights = 0 if weights_L is None else weights_L.data_ptr()
        self._call.copy(rows, num_rows, values_L.data_ptr(), weights, dense_BN.data_ptr())
        return dense_BN, values_L, offsets, weights_L
