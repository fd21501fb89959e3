"""Hill climbing: both directions, patience, and what an interrupt leaves."""

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.tuning.capacity import Capacity
from tailrank.tuning.search import BATCH_LADDER, Point, SearchResult, grid, hill_climb

LADDER = (1, 2, 4, 8, 16, 32, 64, 128)
AT = Measurement(1, 1, 1, 0, 0, LatencySummary.of(np.ones(1)), Validity())


def capacity_of(qps: float) -> Capacity:
    return Capacity(qps, qps * 1.01, (), AT)


def make_evaluate(scores: dict[int, float]):
    return lambda value: capacity_of(scores[value])


def test_climbs_to_the_top_from_either_side():
    scores = dict(zip(LADDER, (1, 2, 3, 9, 5, 4, 3, 2), strict=True))
    for start in LADDER:
        result = hill_climb(make_evaluate(scores), LADDER, start=start, patience=1)
        assert (result.best.value, result.interrupted) == (8, False)


def test_stops_after_worse_neighbours():
    scores = dict(zip(LADDER, (99, 1, 1, 2, 9, 8, 7, 99), strict=True))
    result = hill_climb(make_evaluate(scores), LADDER, start=16, patience=2)
    assert [point.value for point in result.points] == [16, 8, 4, 32, 64]
    assert result.best.value == 16


def test_patience_steps_over_a_dip():
    """DeepRecSched stops at the first batch size that is worse."""
    scores = dict(zip(LADDER, (1, 2, 12, 8, 9, 8, 7, 6), strict=True))
    assert hill_climb(make_evaluate(scores), LADDER, start=16, patience=1).best.value == 16
    assert hill_climb(make_evaluate(scores), LADDER, start=16, patience=2).best.value == 4


def test_a_climb_leaves_a_plateau_of_zeros():
    """Where no load meets the SLA at the start, a faster batch size is the way to one that does."""
    capacities = dict(zip(LADDER, (0, 5, 9, 0, 0, 0, 0, 0), strict=True))

    def evaluate(value):
        at = Measurement(1, 1, 1, 0, 0, LatencySummary.of(np.full(9, 1.0 * value)), Validity())
        return Capacity(capacities[value], 10.0, (), at)

    assert hill_climb(evaluate, LADDER, start=128, patience=1).best.value == 4


def test_an_interrupt_keeps_the_best_so_far():
    def evaluate(value):
        if value == 4:
            raise KeyboardInterrupt
        return Capacity(100.0 - value, 100.0, (), AT)

    seen = []
    result = hill_climb(evaluate, LADDER, start=16, on_point=seen.append)
    assert result.interrupted
    assert result.best.value == 8
    assert [point.value for point in result.points] == [16, 8]
    assert tuple(seen) == result.points


def test_an_interrupt_before_the_first_point():
    def evaluate(value):
        raise KeyboardInterrupt

    result = hill_climb(evaluate, LADDER, start=1)
    assert (result.best, result.points, result.interrupted) == (None, (), True)


def test_the_grid_leaves_nothing_out():
    scores = dict(zip(LADDER, (1, 2, 12, 8, 9, 8, 7, 13), strict=True))
    result = grid(make_evaluate(scores), LADDER)
    assert [point.value for point in result.points] == list(LADDER)
    assert [point.value for point in result.ranked] == [128, 4, 16, 8, 32, 64, 2, 1]
    assert result.best.value == 128


@pytest.mark.parametrize("search", ["grid", "climb"])
def test_a_search_ends_when_its_time_is_up(search):
    """It is asked between points, and the first one is always made."""
    left = iter([2.0, 1.0, 0.0])
    evaluate = make_evaluate(dict.fromkeys(LADDER, 5.0))
    if search == "grid":
        result = grid(evaluate, LADDER, seconds_left=lambda: next(left))
    else:
        result = hill_climb(evaluate, LADDER, start=16, seconds_left=lambda: next(left))
    assert len(result.points) == 3
    assert (result.out_of_time, result.interrupted) == (True, False)
    assert result.best == result.points[0]
    assert len(grid(evaluate, LADDER, seconds_left=lambda: 0.0).points) == 1


def test_who_came_further_ranks_first():
    """A capacity of short runs, after which a setting was given up, does not beat a long one."""
    points = [
        Point(*pair) for pair in zip("abcabb", map(capacity_of, (9, 7, 8, 6, 5, 4)), strict=True)
    ]
    result = SearchResult(tuple(points), False)
    assert [(p.value, p.capacity.capacity_qps) for p in result.ranked] == [
        ("b", 4),
        ("a", 6),
        ("c", 8),
    ]


def test_the_batch_ladder_holds_the_published_one():
    assert {512, 384, 256, 192, 128, 96, 64, 48, 32} <= set(BATCH_LADDER)
    assert list(BATCH_LADDER) == sorted(BATCH_LADDER)


@pytest.mark.parametrize(
    ("ladder", "options"),
    [((2, 1), {"start": 1}), (LADDER, {"start": 3}), (LADDER, {"start": 1, "patience": 0})],
)
def test_refuses(ladder, options):
    with pytest.raises(ConfigError):
        hill_climb(make_evaluate({}), ladder, **options)
