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
    sizes = [_one_size(column) for column in columns]
    if all(size is not None for size in sizes):
        num_rows = len(columns[0].length_R)
        by_row = [column.values_L.reshape(num_rows, -1) for column in columns]
        ends = np.cumsum(np.tile(np.array(sizes, dtype=np.int64), num_rows))
        return np.concatenate(by_row, axis=1).reshape(-1), np.concatenate([[0], ends])
    length_RF = np.stack([column.length_R for column in columns], axis=1)
    offsets = np.zeros(length_RF.size + 1, dtype=np.int64)
    np.cumsum(length_RF.reshape(-1), out=offsets[1:])
    values_L = np.empty(offsets[-1], dtype=np.int64)
    for index, column in enumerate(columns):
        first_R = offsets[index : -1 : len(columns)]
        values_L[range_indices(first_R, column.length_R)] = column.values_L
    return values_L, offsets


def _one_size(column: JaggedColumn) -> int | None:
    """The ids that every row has, where all have equally many: such rows lie in a block."""
    length_R = column.length_R
    if not len(length_R):
        return None
    size = int(length_R[0])
    return size if bool((length_R == size).all()) else None
