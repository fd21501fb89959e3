"""Jagged columns against Python lists."""

from itertools import pairwise

import numpy as np

from tailrank.data.jagged import JaggedColumn, range_indices, row_major


def test_ranges_follow_one_another() -> None:
    found = range_indices(np.array([5, 2, 9, 0]), np.array([2, 0, 3, 1]))
    assert found.tolist() == [5, 6, 9, 10, 11, 0]
    none = np.array([], dtype=np.int64)
    assert range_indices(none, none).tolist() == []


def test_columns_become_rows() -> None:
    rng = np.random.default_rng(0)
    rows = [[rng.integers(100, size=rng.integers(4)).tolist() for _ in range(3)] for _ in range(20)]
    columns = [
        JaggedColumn(
            np.array([value for row in rows for value in row[f]], dtype=np.int64),
            np.array([len(row[f]) for row in rows]),
        )
        for f in range(3)
    ]
    values, offsets = row_major(columns)
    bags = [values[a:b].tolist() for a, b in pairwise(offsets)]
    assert bags == [bag for row in rows for bag in row]
