"""Measures of locality against a plain LRU stack."""

from pathlib import Path

import numpy as np
import pytest

from tailrank.core.errors import DataError
from tailrank.workload.locality import ReuseHistogram, lru_hit_fractions, stack_distances


def plain_stack_distances(ids: list[int]) -> list[int]:
    stack: list[int] = []
    found = []
    for row in ids:
        found.append(stack.index(row) if row in stack else -1)
        if row in stack:
            stack.remove(row)
        stack.insert(0, row)
    return found


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 1), (37, 5), (500, 60), (1000, 2000)])
def test_stack_distances_are_those_of_a_stack(count: int, rows: int) -> None:
    ids = np.random.default_rng(count).integers(0, rows, count)
    assert stack_distances(ids).tolist() == plain_stack_distances(ids.tolist())


def test_hits_of_a_cache_of_rows() -> None:
    ids = np.array([1, 2, 1, 3, 2, 1, 1])
    # Distances: -, -, 1, -, 2, 2, 0.
    assert lru_hit_fractions(ids, [1, 2, 3, 99]).tolist() == [1 / 7, 2 / 7, 4 / 7, 4 / 7]


def test_histogram_of_a_trace() -> None:
    ids = np.repeat([10, 20, 30, 40], [1, 2, 4, 9])
    histogram = ReuseHistogram.of(ids)
    assert histogram.row_share[:5].tolist() == [0.25, 0.25, 0.25, 0.0, 0.25]
    assert histogram.id_share[:5].tolist() == [1 / 16, 2 / 16, 4 / 16, 0.0, 9 / 16]
    assert histogram.mean_count == 4.0


@pytest.mark.parametrize("content", ["", "Avg col size: 6.9\n(0, 1]: 0.473\n"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "stats.txt").write_text(content)
    with pytest.raises(DataError, match="no two histograms of 17 classes"):
        ReuseHistogram.read(tmp_path / "stats.txt")
    with pytest.raises(DataError, match="cannot be read"):
        ReuseHistogram.read(tmp_path / "absent.txt")
