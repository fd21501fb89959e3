"""Successive halving: all candidates in short runs, the better half in longer ones, and so on.

The default search of simulations, where a short run costs milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from tailrank.core.errors import ConfigError
from tailrank.core.measurement import Measurement
from tailrank.core.sla import SLA
from tailrank.tuning.capacity import (
    Capacity,
    Judge,
    SecondsLeft,
    find_capacity,
    judge_probe,
    unlimited,
    verify_capacity,
)
from tailrank.tuning.search import (
    OnPoint,
    SearchResult,
    Value,
    Visit,
    merit,
    run_search,
)

judge_seen = partial(judge_probe, certain=False)
"""Decides on the queries that were seen: they are the same for every candidate."""


def successive_halving(
    measure: Callable[[Value, float, int], Measurement],
    candidates: Sequence[Value],
    sla: SLA,
    *,
    num_queries: Sequence[int],
    start_qps: float,
    tolerance: float = 0.01,
    judge: Judge = judge_seen,
    seconds_left: SecondsLeft = unlimited,
    on_point: OnPoint[Value] | None = None,
) -> SearchResult[Value]:
    """Rank all candidates by short runs, the better half again by longer ones, until the last.

    Source: Jamieson and Talwalkar, AISTATS 2016, with halves kept. Candidates are compared on
    common random numbers (Law, Simulation Modeling and Analysis, ch. 11.2): the same queries at
    scaled times, so that a short run tells them apart by far better than it tells their capacity.

    Args:
        measure: (candidate, load in queries/s, number of queries) -> what was seen; it must draw
            the same queries for every candidate.
        candidates: at least one.
        sla: percentile and limit.
        num_queries: length of the runs of each round, rising. A round of short runs has a coarser
            bracket, as the square root of the length has it with chance.
        start_qps: load of the very first run, > 0; later searches start near what is known.
        tolerance: width of the last round's brackets, relative to their lower ends, > 0.
        judge: what a load must keep.
        seconds_left: time until the search must end; asked between points.
        on_point: told of each point as soon as it is known.

    Returns:
        All points; a candidate has one for each round it came to. A keyboard interrupt keeps what
        is known so far.

    Raises:
        ConfigError: there is no candidate, or the lengths do not rise from 1.
    """
    if not candidates:
        raise ConfigError("candidates", [], "at least one")
    lengths = tuple(num_queries)
    if not lengths or lengths[0] < 1 or list(lengths) != sorted(set(lengths)):
        raise ConfigError("num_queries", lengths, "rising whole numbers from 1")
    round_now: tuple[int, float] = (0, 0.0)  # queries of a run, width of a bracket
    known_qps: dict[Value, float] = {}

    def evaluate(value: Value) -> Capacity:
        count, width = round_now

        def run(value: Value, qps: float) -> Measurement:
            return measure(value, qps, count)

        if near_qps := known_qps.get(value):
            found = verify_capacity(
                run, value, sla, expected_qps=near_qps, tolerance=width, judge=judge
            )
        else:
            near_qps = max(known_qps.values(), default=0.0) or start_qps
            found = find_capacity(run, value, sla, start_qps=near_qps, tolerance=width, judge=judge)
        known_qps[value] = found.capacity_qps
        return found

    def walk(visit: Visit[Value]) -> None:
        nonlocal round_now
        survivors = list(candidates)
        for count in lengths:
            round_now = count, tolerance * math.sqrt(lengths[-1] / count)
            points = sorted([visit(value) for value in survivors], key=merit, reverse=True)
            survivors = [point.value for point in points[: math.ceil(len(points) / 2)]]

    return run_search(walk, evaluate, seconds_left=seconds_left, on_point=on_point)
