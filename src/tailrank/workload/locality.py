"""How local a trace of ids is: how often rows come again, and what an LRU cache of them would hit.

Knows nothing of where ids come from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import DataError

Ids = NDArray[np.int64]
Shares = NDArray[np.float64]

# Upper ends of the classes of how often a row comes, as FBGEMM's statistics have them; the last
# class is open.
SIZE_EDGES = tuple(2**power for power in range(16))
_LINE = re.compile(r"\((\d+)(?:, (\d+)\]|\+): (\d+\.\d+)")


@dataclass(frozen=True, slots=True, eq=False)
class ReuseHistogram:
    """How often the rows of a trace come, in classes (0, 1], (1, 2], (2, 4], … (32768, ∞).

    Args:
        row_share: of the different rows, those of each class; sums to 1.
        id_share: of the reads, those that go to rows of each class; sums to 1.
        mean_count: reads over different rows.
    """

    row_share: Shares
    id_share: Shares
    mean_count: float

    @classmethod
    def of(cls, ids: Ids) -> ReuseHistogram:
        """The histogram of a trace of at least one id."""
        counts = np.unique(ids, return_counts=True)[1]
        which = np.searchsorted(SIZE_EDGES, counts)
        rows = np.bincount(which, minlength=len(SIZE_EDGES) + 1)
        reads = np.bincount(which, weights=counts, minlength=len(SIZE_EDGES) + 1)
        return cls(rows / len(counts), reads / len(ids), len(ids) / len(counts))

    @classmethod
    def read(cls, path: Path) -> ReuseHistogram:
        """The first histogram of a file of locality statistics, as FBGEMM's data set has them.

        Raises:
            DataError: there is no such file, or no such histogram in it.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(path, f"cannot be read as statistics of locality: {error}") from None
        num_classes = len(SIZE_EDGES) + 1
        found = [match for line in lines if (match := _LINE.fullmatch(line.strip()))]
        mean = [line.rpartition(":")[2] for line in lines if line.startswith("Avg col size:")]
        if len(found) < 2 * num_classes or not mean:
            raise DataError(path, f"no two histograms of {num_classes} classes and their mean")
        ends = [int(match[2] or 0) for match in found[: num_classes - 1]]
        if ends != list(SIZE_EDGES):
            raise DataError(path, f"classes up to {ends}; expected {list(SIZE_EDGES)}")
        shares = np.array([float(match[3]) for match in found[: 2 * num_classes]])
        rows, reads = shares[:num_classes], shares[num_classes:]
        return cls(rows / rows.sum(), reads / reads.sum(), float(mean[0]))

    def counts(self, num_ids: int) -> NDArray[np.int64]:
        """How often each different row comes in a trace of so many ids, the most frequent first.

        Rows of one class come equally often. A trace that is shorter than the measured one has no
        room for its most frequent rows: all reads of such a class then go to one.
        """
        bounds = np.concatenate([[0.0], np.cumsum(self.id_share)])
        reads = np.diff(np.rint(bounds / bounds[-1] * num_ids).astype(np.int64))
        counts: list[NDArray[np.int64]] = []
        for index, of_class in enumerate(reads.tolist()):
            if of_class:
                num_rows = max(1, round(of_class / self._typical_count(index)))
                each, more = divmod(of_class, num_rows)
                counts.append(np.full(num_rows, each) + (np.arange(num_rows) < more))
        if not counts:
            return np.empty(0, dtype=np.int64)
        return np.concatenate(counts[::-1]).astype(np.int64)

    def _typical_count(self, index: int) -> float:
        """Mean reads of a row of a class."""
        low = SIZE_EDGES[index - 1] + 1 if index else 1
        high = SIZE_EDGES[index] if index < len(SIZE_EDGES) else 4 * SIZE_EDGES[-1]
        # Shares have three digits: below 0.01 the quotient would be mostly rounding.
        if self.row_share[index] < 0.01:
            return math.sqrt(low * high)
        mean = self.mean_count * self.id_share[index] / self.row_share[index]
        return float(min(max(mean, low), high))


def lru_hit_fractions(ids: Ids, cache_rows: Sequence[int]) -> Shares:
    """Share of the reads that an LRU cache of each size hits; it begins empty.

    Args:
        ids: the trace, at least one.
        cache_rows: sizes of the caches in rows.
    """
    distances = np.sort(stack_distances(ids))
    never = np.searchsorted(distances, 0)  # a first read hits no cache
    return (np.searchsorted(distances, cache_rows) - never) / len(ids)


def stack_distances(ids: Ids) -> Ids:
    """Different other rows that were read since the last read of each id; -1 for a first read.

    Source: Mattson et al., Evaluation techniques for storage hierarchies (IBM Systems Journal 9,
    1970). Of the reads since then, those that repeat one of each other are taken off: reads whose
    own last read is younger. They are counted by merging, in O(N log^2 N), with no loop over ids.
    """
    count = len(ids)
    order = np.argsort(ids, kind="stable")
    again = ids[order[1:]] == ids[order[:-1]]
    last = np.full(count, -1, dtype=np.int64)
    last[order[1:][again]] = order[:-1][again]
    repeats = np.zeros(count, dtype=np.int64)
    time = np.arange(count)
    width = 1
    while width < count:
        # Of neighbouring blocks: how many of the left have a younger last read than each of the
        # right. The block's number in front keeps blocks apart in one sorted array.
        block, is_right = time // (2 * width), (time // width) % 2 == 1
        left, right = time[~is_right], time[is_right]
        keys = np.sort(block[left] * (count + 1) + last[left] + 1)
        ends = np.searchsorted(keys, (block[right] + 1) * (count + 1))
        repeats[right] += ends - np.searchsorted(
            keys, block[right] * (count + 1) + last[right] + 1, side="right"
        )
        width *= 2
    return np.where(last < 0, -1, time - last - 1 - repeats)
