"""The default search: as good as the grid in a fraction of its work."""

from functools import partial

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.runtime.measurement import to_measurement
from tailrank.runtime.virtual import TableServiceTime, simulate
from tailrank.tuning.candidate import Candidate, SearchSpace
from tailrank.tuning.capacity import find_capacity
from tailrank.tuning.halving import judge_seen, successive_halving
from tailrank.tuning.search import grid
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

MS = 1_000_000
SLA_10MS = SLA.parse("p95=10ms")
LENGTHS = (100, 200, 480)
SPACE = SearchSpace(
    policies=("static", "coalescing"), batch_items_max=(32, 128, 256, 1000), num_workers=(2,)
)


def make_table() -> ServiceTimeTable:
    """Small batches pay a fixed cost again and again, those beyond 256 items leave the cache."""
    axes = ((1.0, 8.0), (1.0, 8.0, 64.0, 256.0, 1000.0), (1.0,), (1.0, 2.0))
    parts, items, _, busy = np.meshgrid(*axes, indexing="ij")
    price_ns = 6_000.0 * np.minimum(items, 256.0) + 9_000.0 * np.maximum(items - 256.0, 0.0)
    median_ns = (60_000.0 + 20_000.0 * parts + price_ns) * (0.9 + 0.1 * busy)
    return ServiceTimeTable(
        device="cpu",
        axes=dict(zip(AXES, axes, strict=True)),
        median_ns=np.where(items >= parts, median_ns, np.nan),
        spread=np.linspace(0.9, 1.3, 50),
    )


class Simulation:
    """Measures candidates on a table, and counts the queries that this takes."""

    def __init__(self) -> None:
        self.table = make_table()
        self.num_queries = 0

    def __call__(self, candidate: Candidate, qps: float, num_queries: int) -> Measurement:
        self.num_queries += num_queries
        workload = WorkloadConfig(sizes="production", ids_per_item=1.0)
        run = simulate(
            draw_schedule(workload, qps=qps, num_queries=num_queries),
            candidate.configure(delay_max_ns=MS),
            num_workers=candidate.num_workers,
            service_time_ns=TableServiceTime(self.table, seed=0),
        )
        return to_measurement(run, offered_qps=qps, sla=SLA_10MS)


def test_the_search_finds_what_the_grid_finds_in_less_than_half_of_its_work():
    oracle, search = Simulation(), Simulation()
    candidates = SPACE.candidates()
    found = successive_halving(search, candidates, SLA_10MS, num_queries=LENGTHS, start_qps=400.0)

    def evaluate(candidate: Candidate):
        run = partial(_measure_long, oracle)
        return find_capacity(
            run, candidate, SLA_10MS, start_qps=400.0, tolerance=0.01, judge=judge_seen
        )

    everything = grid(evaluate, candidates)
    capacities = {point.value: point.capacity.capacity_qps for point in everything.points}
    assert capacities[found.best.value] >= 0.97 * everything.best.capacity.capacity_qps
    assert found.best.capacity.capacity_qps == pytest.approx(capacities[found.best.value], rel=0.02)
    assert everything.best.capacity.capacity_qps > 1.3 * min(capacities.values())
    assert search.num_queries < 0.5 * oracle.num_queries


def _measure_long(simulation: Simulation, candidate: Candidate, qps: float) -> Measurement:
    return simulation(candidate, qps, LENGTHS[-1])


def measure_limit(limit_qps: float, qps: float, num_queries: int) -> Measurement:
    """A candidate that is its own capacity; short runs make all look alike but for chance."""
    slow = qps > limit_qps * (1.0 + 2.0 / num_queries)
    latency_ns = np.full(num_queries, (11 if slow else 9) * MS, dtype=np.float64)
    return Measurement(qps, qps, qps, 0, 0, LatencySummary.of(latency_ns), Validity())


def test_the_better_half_goes_on_to_longer_runs():
    lengths = []

    def measure(limit_qps, qps, num_queries):
        if not lengths or lengths[-1] != (limit_qps, num_queries):
            lengths.append((limit_qps, num_queries))
        return measure_limit(limit_qps, qps, num_queries)

    candidates = (100.0, 300.0, 200.0, 50.0, 250.0)
    found = successive_halving(
        measure, candidates, SLA_10MS, num_queries=(100, 200, 400), start_qps=10.0
    )
    assert [limit for limit, count in lengths if count == 100] == list(candidates)
    assert [limit for limit, count in lengths if count == 200] == [300.0, 250.0, 200.0]
    assert [limit for limit, count in lengths if count == 400] == [300.0, 250.0]
    assert [point.value for point in found.ranked] == [300.0, 250.0, 200.0, 100.0, 50.0]
    assert found.best.capacity.capacity_qps == pytest.approx(300.0, rel=0.015)


def test_time_and_interrupts_keep_the_best_of_the_longest_runs():
    candidates = (100.0, 300.0, 200.0, 250.0)
    left = iter([1.0] * 4 + [0.0])
    found = successive_halving(
        measure_limit,
        candidates,
        SLA_10MS,
        num_queries=(100, 400),
        start_qps=10.0,
        seconds_left=lambda: next(left),
    )
    assert (found.best.value, len(found.points), found.out_of_time) == (300.0, 5, True)

    def measure(limit_qps, qps, num_queries):
        if num_queries == 400:
            raise KeyboardInterrupt
        return measure_limit(limit_qps, qps, num_queries)

    found = successive_halving(
        measure, candidates, SLA_10MS, num_queries=(100, 400), start_qps=10.0
    )
    assert (found.best.value, len(found.points), found.interrupted) == (300.0, 4, True)


def test_a_search_where_nothing_meets_the_sla_says_so():
    found = successive_halving(
        lambda value, qps, num_queries: measure_limit(0.0, qps, num_queries),
        ("a", "b", "c"),
        SLA_10MS,
        num_queries=(100, 200),
        start_qps=10.0,
    )
    assert found.best.capacity.capacity_qps == 0.0
    assert len(found.points) == 5


@pytest.mark.parametrize(
    ("candidates", "lengths"), [((), (1,)), ((1.0,), ()), ((1.0,), (0, 5)), ((1.0,), (5, 5))]
)
def test_refuses(candidates, lengths):
    with pytest.raises(ConfigError):
        successive_halving(measure_limit, candidates, SLA_10MS, num_queries=lengths, start_qps=1.0)
