"""Hill climbing over one setting, such as the batch size: both directions, with patience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailrank.core.errors import ConfigError
from tailrank.tuning.capacity import Capacity

# DeepRecSched's batch sizes (512 to 32), lengthened to whole queries and to small batches, because
# CPUs differ in which end they like (HPCA 2020: Broadwell is fastest at 16, Skylake at large ones).
BATCH_LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluated setting."""

    value: int
    capacity: Capacity


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a climb has seen.

    Args:
        best: the point of the largest capacity, or while all are 0 the one of the least mean
            latency; the earliest one among equals; None if the climb was interrupted before its
            first point.
        points: all of them, in order of evaluation.
        interrupted: True if a keyboard interrupt ended it early.
    """

    best: Point | None
    points: tuple[Point, ...]
    interrupted: bool


def hill_climb(
    evaluate: Callable[[int], Capacity],
    ladder: Sequence[int],
    *,
    start: int,
    patience: int = 2,
    on_point: Callable[[Point], None] | None = None,
) -> SearchResult:
    """Walk a ladder from `start` downwards and upwards, each way until it stops getting better.

    Args:
        evaluate: the capacity at one rung.
        ladder: strictly increasing settings.
        start: the rung to begin at.
        patience: rungs in a row that may be no better than the best before a direction is given up.
        on_point: told of each point as soon as it is known.

    Returns:
        The best point and all others. A keyboard interrupt keeps what is known so far.

    Raises:
        ConfigError: `start` is not on the ladder, the ladder not increasing, or patience below 1.
    """
    if list(ladder) != sorted(set(ladder)):
        raise ConfigError("ladder", tuple(ladder), "strictly increasing numbers")
    if start not in ladder:
        raise ConfigError("start", start, f"one of {tuple(ladder)}")
    if patience < 1:
        raise ConfigError("patience", patience, "a whole number from 1")
    points: list[Point] = []

    def visit(value: int) -> bool:
        """Evaluate one rung; True if it is the best so far."""
        best = _best(points)
        point = Point(value, evaluate(value))
        points.append(point)
        if on_point is not None:
            on_point(point)
        return best is None or _merit(point) > _merit(best)

    def walk(values: Sequence[int]) -> None:
        num_worse = 0
        for value in values:
            num_worse = 0 if visit(value) else num_worse + 1
            if num_worse == patience:
                return

    position = list(ladder).index(start)
    try:
        visit(start)
        walk(ladder[:position][::-1])
        walk(ladder[position + 1 :])
    except KeyboardInterrupt:
        return SearchResult(_best(points), tuple(points), interrupted=True)
    return SearchResult(_best(points), tuple(points), interrupted=False)


def _merit(point: Point) -> tuple[float, float]:
    """What is compared: capacity, and where no load meets the SLA yet, how fast an idle host is.

    Without the second a climb that starts on a plateau of zeros would never leave it.
    """
    capacity = point.capacity
    return capacity.capacity_qps, 0.0 if capacity.capacity_qps else -capacity.at.summary.mean_ns


def _best(points: Sequence[Point]) -> Point | None:
    return max(points, key=_merit, default=None)
