"""Sparse ids with a chosen locality: which rows of a table are read, how often, and how soon again.

Uniform ids make almost every row cold, as in a table far larger than any cache; real ones repeat.
What a trace turned out to be is measured by `locality`. Knows nothing of features or queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError
from tailrank.workload.locality import ReuseHistogram

ALLOWED = "uniform, zipf:ALPHA, stack:ROWS=HITS,ROWS=HITS,… or reuse:FILE"

_STREAM = 0x1D5
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class IndexTrace:
    """A way to draw the ids of one table.

    Args:
        spec: as the user wrote it, such as `zipf:1.05`.
    """

    spec: str
    _draw: Callable[[int, Ids, Generator], Ids]

    def draw(self, num_ids: int, num_embeddings: int, seed: int, *, table_seed: int = 0) -> Ids:
        """Draw ids in [0, num_embeddings), in the order in which they are read.

        Popular rows lie anywhere in the table, as hashed ids do; the same `table_seed` puts them at
        the same places.

        Args:
            num_ids: how many, >= 0.
            num_embeddings: rows of the table, >= 1.
            seed: of the draws.
            table_seed: of the order of the rows by popularity.

        Raises:
            ConfigError: the table has too few rows for such a trace.
        """
        order = np.random.default_rng([_STREAM, 1, table_seed]).permutation(num_embeddings)
        return self._draw(num_ids, order, np.random.default_rng([_STREAM, 2, seed]))


def parse_index_trace(spec: str) -> IndexTrace:
    """Read the name of a kind of trace and its numbers.

    - `uniform`: every row as often as any other.
    - `zipf:ALPHA`: the r-th most popular row in proportion to r^-ALPHA, independently of what was
      read before.
    - `stack:ROWS=HITS,…`: an LRU cache of ROWS rows hits in this share of the reads; between the
      points the share grows with the logarithm of the rows.
    - `reuse:FILE`: rows come as often as in the histogram of a measured trace, in random order.

    Raises:
        ConfigError: the text is none of these, or a number is out of range.
        DataError: there is no such histogram.
    """
    name, _, rest = spec.strip().partition(":")
    if spec.strip() == "uniform":
        return IndexTrace(spec, _uniform)
    if name == "zipf":
        return IndexTrace(spec, partial(_zipf, _parse_alpha(spec, rest)))
    if name == "stack":
        return IndexTrace(spec, partial(_stack, _parse_points(spec, rest)))
    if name == "reuse":
        return IndexTrace(spec, partial(_reuse, ReuseHistogram.read(Path(rest))))
    raise ConfigError("--ids", spec, ALLOWED)


def _parse_alpha(spec: str, text: str) -> float:
    allowed = "zipf:ALPHA with ALPHA from 0 to 4, as in zipf:1.05"
    try:
        alpha = float(text)
    except ValueError:
        raise ConfigError("--ids", spec, allowed) from None
    if not 0.0 <= alpha <= 4.0:
        raise ConfigError("--ids", spec, allowed)
    return alpha


def _parse_points(spec: str, text: str) -> tuple[tuple[int, float], ...]:
    """(rows, share of hits), both rising."""
    allowed = (
        "stack:ROWS=HITS,… with whole ROWS from 2 and HITS above 0 and below 1, both rising, as in "
        "stack:1000=0.3,50000=0.7"
    )
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        points = tuple((int(rows), float(hits)) for rows, hits in pairs)
    except ValueError:
        raise ConfigError("--ids", spec, allowed) from None
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(points))
    if not rising or points[0][0] < 2 or not all(0.0 < hits < 1.0 for _, hits in points):
        raise ConfigError("--ids", spec, allowed)
    return points


def _uniform(num_ids: int, order: Ids, rng: Generator) -> Ids:
    return rng.integers(0, len(order), num_ids)


def _zipf(alpha: float, num_ids: int, order: Ids, rng: Generator) -> Ids:
    """Ranks by rejection-inversion: exact, with no table of probabilities.

    Source: Hörmann and Derflinger, Rejection-inversion to generate variates from monotone discrete
    distributions (ACM TOMACS 6, 1996).
    """

    def area(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integral of x^-alpha from 1."""
        return np.log(x) if alpha == 1.0 else (x ** (1.0 - alpha) - 1.0) / (1.0 - alpha)

    def inverse(y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The x at which the integral is y."""
        return np.exp(y) if alpha == 1.0 else (1.0 + y * (1.0 - alpha)) ** (1.0 / (1.0 - alpha))

    low, high = float(area(np.array(1.5))) - 1.0, float(area(np.array(len(order) + 0.5)))
    ranks = np.empty(num_ids, dtype=np.int64)
    wanted = np.arange(num_ids)
    while len(wanted):
        y = rng.uniform(low, high, len(wanted))
        nearest = np.clip(np.rint(inverse(y)), 1, len(order))
        accepted = y >= area(nearest + 0.5) - nearest**-alpha
        ranks[wanted[accepted]] = nearest[accepted].astype(np.int64) - 1
        wanted = wanted[~accepted]
    return order[ranks]


def _stack(points: tuple[tuple[int, float], ...], num_ids: int, order: Ids, rng: Generator) -> Ids:
    """Ids by their distance on the LRU stack, drawn independently of one another.

    A read that every cache of the points misses takes the row that was not read for longest. Each
    read moves a row to the top, so this is a loop: 0.2 µs a read and more with large distances.

    Source: Mattson et al., Evaluation techniques for storage hierarchies (IBM Systems Journal 9,
    1970); DLRM's trace generator (facebookresearch/dlrm) draws ids so too.
    """
    depth = points[-1][0]
    if depth >= len(order):
        allowed = f"stacks of fewer rows than the table, which has {len(order):,}"
        raise ConfigError("--ids", f"a stack of {depth:,} rows", allowed)
    log_rows = [0.0, *(math.log(rows) for rows, _ in points)]
    hits = [0.0, *(share for _, share in points)]
    drawn = rng.random(num_ids)
    # floor(x) with x from 1 on: distance 0 is the row that was read last.
    distances = np.exp(np.interp(drawn, hits, log_rows)).astype(np.int64) - 1
    distances = np.minimum(distances, depth - 1)
    distances[drawn >= hits[-1]] = -1
    stack: list[int] = order[:depth].tolist()  # the last one is the top
    cold, next_cold, bottom = order[depth:].copy(), 0, 0
    ids = []
    for distance in distances.tolist():
        if distance >= 0:
            row = stack.pop(-1 - distance)
        else:
            row = int(cold[next_cold])
            cold[next_cold] = stack[bottom]
            next_cold, bottom = (next_cold + 1) % len(cold), bottom + 1
            if bottom == depth:  # now and then: each time would move the whole stack
                del stack[:bottom]
                bottom = 0
        stack.append(row)
        ids.append(row)
    return np.array(ids, dtype=np.int64)


def _reuse(histogram: ReuseHistogram, num_ids: int, order: Ids, rng: Generator) -> Ids:
    """Rows in random order, each as often as the histogram has it."""
    counts = histogram.counts(num_ids)
    if len(counts) > len(order):
        allowed = f"traces of up to {len(order):,} different rows, which the table has"
        raise ConfigError("--ids", f"{num_ids:,} ids of {len(counts):,} different rows", allowed)
    ids: Ids = rng.permutation(np.repeat(order[: len(counts)], counts))
    return ids
