"""Searches that evaluate one setting after another: the grid, and the hill climb of DeepRecSched.

Each keeps what it knows when it is interrupted or when its time is up; what time is, it is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tailrank.core.errors import ConfigError
from tailrank.tuning.capacity import Capacity, SecondsLeft, unlimited

# DeepRecSched's batch sizes (512 to 32), lengthened to whole queries and to small batches, because
# CPUs differ in which end they like (HPCA 2020: Broadwell is fastest at 16, Skylake at large ones).
BATCH_LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Point(Generic[Value]):
    """One evaluated setting."""

    value: Value
    capacity: Capacity


OnPoint = Callable[[Point[Value]], None]
Visit = Callable[[Value], Point[Value]]


@dataclass(frozen=True, slots=True)
class SearchResult(Generic[Value]):
    """What a search has seen.

    Args:
        points: all of them, in order of evaluation; a search that comes back to a setting with
            longer runs has several of it.
        interrupted: True if a keyboard interrupt ended it early.
        out_of_time: True if its time was up before it was through.
    """

    points: tuple[Point[Value], ...]
    interrupted: bool
    out_of_time: bool = False

    @property
    def ranked(self) -> tuple[Point[Value], ...]:
        """The last point of each setting, best first.

        Settings that came further go before those that were given up on shorter runs, then the
        larger capacity, or while all are 0 the lesser mean latency, then the earlier one.
        """
        visits = Counter(point.value for point in self.points)
        last = {point.value: point for point in self.points}
        return tuple(
            sorted(
                last.values(), key=lambda point: (visits[point.value], merit(point)), reverse=True
            )
        )

    @property
    def best(self) -> Point[Value] | None:
        """The first of `ranked`; None if the search was interrupted before its first point."""
        return next(iter(self.ranked), None)


class _OutOfTime(Exception):
    """Ends a search between two points."""


def run_search(
    walk: Callable[[Visit[Value]], None],
    evaluate: Callable[[Value], Capacity],
    *,
    seconds_left: SecondsLeft = unlimited,
    on_point: OnPoint[Value] | None = None,
) -> SearchResult[Value]:
    """Let `walk` visit settings, and keep what they have shown however it ends.

    Args:
        walk: calls what it is given with each setting to evaluate.
        evaluate: the capacity of one setting.
        seconds_left: asked before each point but the first, which every search has.
        on_point: told of each point as soon as it is known.
    """
    points: list[Point[Value]] = []
    interrupted = out_of_time = False

    def visit(value: Value) -> Point[Value]:
        if points and seconds_left() <= 0:
            raise _OutOfTime
        point = Point(value, evaluate(value))
        points.append(point)
        if on_point is not None:
            on_point(point)
        return point

    try:
        walk(visit)
    except KeyboardInterrupt:
        interrupted = True
    except _OutOfTime:
        out_of_time = True
    return SearchResult(tuple(points), interrupted, out_of_time)


def grid(
    evaluate: Callable[[Value], Capacity],
    values: Sequence[Value],
    *,
    seconds_left: SecondsLeft = unlimited,
    on_point: OnPoint[Value] | None = None,
) -> SearchResult[Value]:
    """Evaluate every setting: the oracle that other searches are held against.

    Args:
        evaluate: the capacity of one setting.
        values: the settings.
        seconds_left: time until the search must end; asked between points.
        on_point: told of each point as soon as it is known.
    """

    def walk(visit: Visit[Value]) -> None:
        for value in values:
            visit(value)

    return run_search(walk, evaluate, seconds_left=seconds_left, on_point=on_point)


def hill_climb(
    evaluate: Callable[[int], Capacity],
    ladder: Sequence[int],
    *,
    start: int,
    patience: int = 2,
    seconds_left: SecondsLeft = unlimited,
    on_point: OnPoint[int] | None = None,
) -> SearchResult[int]:
    """Walk a ladder from `start` downwards and upwards, each way until it stops getting better.

    Args:
        evaluate: the capacity at one rung.
        ladder: strictly increasing settings.
        start: the rung to begin at.
        patience: rungs in a row that may be no better than the best before a direction is given up.
        seconds_left: time until the search must end; asked between points.
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

    def walk(visit: Visit[int]) -> None:
        best = visit(start)
        position = list(ladder).index(start)
        for values in (ladder[:position][::-1], ladder[position + 1 :]):
            num_worse = 0
            for value in values:
                point = visit(value)
                better = merit(point) > merit(best)
                best, num_worse = (point, 0) if better else (best, num_worse + 1)
                if num_worse == patience:
                    break

    return run_search(walk, evaluate, seconds_left=seconds_left, on_point=on_point)


def merit(point: Point[Value]) -> tuple[float, float]:
    """What is compared: capacity, and where no load meets the SLA yet, how fast an idle host is.

    Without the second a climb that starts on a plateau of zeros would never leave it.
    """
    capacity = point.capacity
    return capacity.capacity_qps, 0.0 if capacity.capacity_qps else -capacity.at.summary.mean_ns
