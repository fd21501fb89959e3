"""Assembles jagged rows from columns, without a Python loop over rows.

Knows no file format and no feature names. Legend: R rows, F columns, L ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class JaggedColumn(NamedTuple):
    """Ids of one column, row after row, and how many of them each row has."""

    values_L: Ints
    length_R: Ints


def range_indices(first_R: Ints, length_R: Ints) -> Ints:
    """The numbers first, first + 1, … of each row, `length_R` of them, row after row."""
    end_R = np.cumsum(length_R)
    total = int(end_R[-1]) if len(end_R) else 0
    return np.repeat(first_R - (end_R - length_R), length_R) + np.arange(total)


def row_major(columns: Sequence[JaggedColumn]) -> tuple[Ints, Ints]:
    """Columns side by side, as `SideFeatures` has them: row, then column.

    Args:
        columns: F of them with R rows each, at least one.

    Returns:
        (values_L, offsets), with R * F + 1 offsets.
    """
    length_RF = np.stack([column.length_R for column in columns], axis=1)
    offsets = np.zeros(length_RF.size + 1, dtype=np.int64)
    np.cumsum(length_RF.reshape(-1), out=offsets[1:])
    values_L = np.empty(offsets[-1], dtype=np.int64)
    for index, column in enumerate(columns):
        first_R = offsets[index : -1 : len(columns)]
        values_L[range_indices(first_R, column.length_R)] = column.values_L
    return values_L, offsets
