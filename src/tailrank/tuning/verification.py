"""Proving the best few of a search on what really counts, usually live, inside a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

from tailrank.core.errors import ConfigError
from tailrank.core.sla import SLA
from tailrank.tuning.capacity import (
    Capacity,
    CapacityInterrupted,
    Judge,
    Measure,
    SecondsLeft,
    judge_probe,
    unlimited,
    verify_capacity,
)
from tailrank.tuning.search import Point, Value, merit

_FOREVER_S = 1e9  # finite, so that it can be divided


@dataclass(frozen=True, slots=True)
class Verified(Generic[Value]):
    """A candidate's capacity as it was simulated and as it is."""

    value: Value
    simulated: Capacity
    live: Capacity


@dataclass(frozen=True, slots=True)
class Verification(Generic[Value]):
    """What verifying has shown.

    Args:
        best: the one that holds most, by what was verified; None if not even one probe was made.
        verified: all that were verified, in the order of their simulated capacities; the last one
            with fewer probes, so a wider interval, where time was short.
        interrupted: True if a keyboard interrupt ended it early.
        out_of_time: True if candidates were left for which there was no time.
    """

    best: Verified[Value] | None
    verified: tuple[Verified[Value], ...]
    interrupted: bool
    out_of_time: bool


def verify_best(
    live: Measure[Value],
    ranked: Sequence[Point[Value]],
    sla: SLA,
    *,
    num_best: int = 3,
    judge: Judge = judge_probe,
    tolerance: float = 0.02,
    seconds_left: SecondsLeft = unlimited,
    on_verified: Callable[[Verified[Value]], None] | None = None,
) -> Verification[Value]:
    """Measure the few candidates that simulation liked best, each near what it was promised.

    The time left is dealt out evenly over the candidates that are still to come, and what one does
    not need falls to the next. By how much the first one was promised too much or too little is
    where the next one is looked for.

    Args:
        live: measures one load.
        ranked: candidates, best first, as `SearchResult.ranked` has them. Those without capacity
            are left out, for there is no load near which to look.
        sla: percentile and limit.
        num_best: candidates to verify, >= 1.
        judge: what a load must keep.
        tolerance: width of the last bracket, relative to its lower end, > 0.
        seconds_left: time until verifying must end; asked between probes.
        on_verified: told of each candidate as soon as it is known.

    Returns:
        Both figures of each. A keyboard interrupt keeps what is known, the probes of the candidate
        under way included.

    Raises:
        ConfigError: `num_best` is below 1.
    """
    if num_best < 1:
        raise ConfigError("num_best", num_best, "a whole number from 1")
    ranked = [point for point in ranked if point.capacity.capacity_qps][:num_best]
    verified: list[Verified[Value]] = []
    interrupted = out_of_time = False
    ratio = 1.0  # of the live capacity to the simulated one, as last seen
    for index, point in enumerate(ranked):
        left = min(seconds_left(), _FOREVER_S)
        if left <= 0.0:
            out_of_time = True
            break
        share = left / (len(ranked) - index)
        try:
            found = verify_capacity(
                live,
                point.value,
                sla,
                expected_qps=point.capacity.capacity_qps * ratio,
                tolerance=tolerance,
                judge=judge,
                seconds_left=partial(_until, seconds_left, left - share),
            )
        except CapacityInterrupted as error:
            found, interrupted = error.capacity, True
        except KeyboardInterrupt:
            interrupted = True
            break
        verified.append(Verified(point.value, point.capacity, found))
        if on_verified is not None:
            on_verified(verified[-1])
        if interrupted:
            break
        ratio = found.capacity_qps / point.capacity.capacity_qps or ratio
    best = max(verified, key=lambda each: merit(Point(each.value, each.live)), default=None)
    return Verification(best, tuple(verified), interrupted, out_of_time)


def _until(seconds_left: SecondsLeft, kept: float) -> float:
    """Time until only `kept` seconds are left."""
    return seconds_left() - kept
