"""Simulation, worked out by hand."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from tailrank.core.errors import ConfigError, OutsideProfile
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.core.service_time import ServiceTimeTable
from tailrank.runtime.record import QueryOutcome
from tailrank.runtime.virtual import TableServiceTime, simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

MS = 1_000_000
STATIC = PolicyConfig(policy="static", batch_items_max=10)


def make_queries(*rows: tuple[int, int]) -> list[Query]:
    """Queries of (scheduled_ns, num_items)."""
    return [Query(i, "", at, None, items, 0) for i, (at, items) in enumerate(rows)]


def ten_ns_per_item(batch: Batch, busy_workers: int) -> int:
    return 10 * batch.num_items


def test_a_small_run_by_hand():
    queries = make_queries((0, 15), (20, 10), (500, 10))
    result = simulate(queries, STATIC, num_workers=2, service_time_ns=ten_ns_per_item)
    # Query 0: 7 and 8 items on two workers, 70 and 80 ns. Query 1 waits for the first: 70 + 100.
    np.testing.assert_array_equal(result.queries.done_ns, [80, 170, 600])
    np.testing.assert_array_equal(result.queries.started_ns, [0, 70, 500])
    np.testing.assert_array_equal(result.queries.num_parts, [2, 1, 1])
    np.testing.assert_array_equal(result.latency_ns, [80, 150, 100])
    np.testing.assert_array_equal(result.queueing_delay_ns, [0, 50, 0])
    np.testing.assert_array_equal(np.sort(result.service_time_ns), [70, 80, 100, 100])
    assert result.busy_fraction(0, 100) == pytest.approx((70 + 30 + 80) / 200)
    assert (result.ended_ns, result.drained, result.num_workers) == (600, True, 2)


def test_a_stalled_worker_shows_in_p99():
    """One stall of 50 ms: everyone scheduled during it is late, though nobody else was slow."""
    schedule = draw_schedule(WorkloadConfig(sizes="fixed:1"), qps=1000, num_queries=5000)

    def stalls_once(batch: Batch, busy_workers: int) -> int:
        return 50 * MS if batch.batch_id == 2500 else MS // 10

    def p99_ns(service_time_ns):
        result = simulate(schedule, STATIC, num_workers=1, service_time_ns=service_time_ns)
        return np.percentile(result.latency_ns, 99, method="inverted_cdf"), result

    smooth_ns, _ = p99_ns(lambda batch, busy: MS // 10)
    stalled_ns, result = p99_ns(stalls_once)
    assert smooth_ns < MS
    # 50 of 5000 queries fall due while it lasts: exactly the slowest percent, spread over 50 ms.
    assert (result.latency_ns > 5 * MS).sum() >= 40
    assert stalled_ns > 2 * MS
    assert result.latency_ns.max() >= 50 * MS


def test_busy_workers_are_counted():
    seen = []

    def note(batch, busy_workers):
        seen.append(busy_workers)
        return 100

    simulate(
        make_queries((0, 10), (10, 10), (150, 10)), STATIC, num_workers=3, service_time_ns=note
    )
    assert seen == [1, 2, 1]


def test_timers_fire_at_their_time():
    policy = PolicyConfig(policy="coalescing", batch_items_max=10, delay_max_ns=40)
    queries = make_queries((0, 3), (30, 3), (100, 3))
    result = simulate(queries, policy, num_workers=1, service_time_ns=lambda batch, busy: 5)
    np.testing.assert_array_equal(result.queries.started_ns, [40, 40, 140])
    np.testing.assert_array_equal(result.batches.num_parts, [2, 1])


def test_rejected_and_failed_queries_count_as_infinite():
    policy = PolicyConfig(policy="static", batch_items_max=10, queue_items_max=10)

    def fails_second(batch):
        if batch.parts[0].query.query_id == 1:
            raise RuntimeError("broken")
        return ["fine"]

    result = simulate(
        make_queries((0, 10), (1, 10), (2, 10)),
        policy,
        num_workers=1,
        service_time_ns=ten_ns_per_item,
        run_batch=fails_second,
    )
    expected = [QueryOutcome.ANSWERED, QueryOutcome.FAILED, QueryOutcome.REJECTED]
    np.testing.assert_array_equal(result.queries.outcome, expected)
    np.testing.assert_array_equal(result.latency_ns, [100, np.inf, np.inf])
    assert str(result.first_error) == "broken"


def test_a_wrong_number_of_results_fails_the_batch():
    result = simulate(
        make_queries((0, 1)),
        STATIC,
        num_workers=1,
        service_time_ns=ten_ns_per_item,
        run_batch=lambda batch: [1, 2],
    )
    assert result.queries.outcome[0] == QueryOutcome.FAILED
    assert "1 parts came back with 2 results" in str(result.first_error)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_rests_and_is_left_as_it_was(enabled: bool):
    seen: list[bool] = []

    def look_and_fail(batch: Batch, busy_workers: int) -> int:
        seen.append(gc.isenabled())
        if batch.batch_id == 1:
            raise OutsideProfile("nobody measured it")
        return 1

    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(OutsideProfile):
            simulate(make_queries((0, 20)), STATIC, num_workers=1, service_time_ns=look_and_fail)
        assert seen == [False, False]
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize(
    ("queries", "num_workers", "field"),
    [
        ([], 1, "schedule"),
        (make_queries((5, 1), (4, 1)), 1, "schedule"),
        (make_queries((-1, 1)), 1, "schedule"),
        (make_queries((0, 1)), 0, "num_workers"),
    ],
)
def test_refuses(queries, num_workers, field):
    with pytest.raises(ConfigError, match=field):
        simulate(queries, STATIC, num_workers=num_workers, service_time_ns=ten_ns_per_item)


def make_table(spread) -> ServiceTimeTable:
    axes = {
        "num_parts": (1.0, 2.0),
        "num_items": (1.0, 10.0),
        "ids_per_item": (0.0,),
        "busy_workers": (1.0, 2.0),
    }
    median_ns = np.full((2, 2, 1, 2), 1000.0)
    return ServiceTimeTable("cpu", axes, median_ns, np.array(spread))


def make_batch(num_items: int) -> Batch:
    query = Query(0, "", 0, None, num_items, 0)
    return Batch(0, 0, (BatchPart(query, 0, num_items),))


def test_table_draws_are_seeded_and_follow_the_spread():
    table = make_table([0.5, 1.0, 3.0])
    times = [TableServiceTime(table, seed)(make_batch(5), 1) for seed in range(60)]
    assert set(times) == {500, 1000, 3000}
    source, again = TableServiceTime(table, seed=1), TableServiceTime(table, seed=1)
    batch = make_batch(5)
    assert [source(batch, 1) for _ in range(9000)] == [again(batch, 1) for _ in range(9000)]


def test_a_batch_that_nobody_measured_stops_the_simulation():
    service_time_ns = TableServiceTime(make_table([1.0]), seed=0)
    policy = PolicyConfig(policy="static", batch_items_max=20)
    with pytest.raises(OutsideProfile, match="num_items = 11"):
        simulate(make_queries((0, 11)), policy, num_workers=1, service_time_ns=service_time_ns)


def test_each_worker_takes_its_devices_times_beside_its_own_devices_workers():
    tables = {("", device): make_table([1.0]) for device in ("cpu", "cuda")}
    tables["", "cpu"].median_ns[..., 1] = 1500.0  # two busy cores
    tables["", "cuda"].median_ns[:] = 10.0
    fleet = Fleet(("cuda", "cpu", "cpu"), tables)
    queries = make_queries((0, 10), (0, 10), (0, 10))
    result = simulate(
        queries,
        STATIC,
        num_workers=3,
        service_time_ns=TableServiceTime(fleet, seed=0),
        fleet=fleet,
    )
    # The last slot is taken first; each core has one beside it, the accelerator none.
    assert result.latency_ns.tolist() == [1500.0, 1500.0, 10.0]


def test_the_rest_of_a_batch_takes_longer_while_another_worker_is_busy():
    """Alone 1000 ns, beside another 1500: work is done at two thirds of the speed."""
    table = make_table([1.0])
    table.median_ns[..., 1] = 1500.0
    result = simulate(
        make_queries((0, 1), (400, 1), (5000, 1)),
        STATIC,
        num_workers=2,
        service_time_ns=TableServiceTime(table, seed=0),
    )
    # The first has 600 of its 1000 ns left when the second comes, which take 900. The second has
    # then 600 of its 1500 left, and is alone for what takes 400.
    assert result.latency_ns.tolist() == [1300.0, 1300.0, 1000.0]


def test_a_worker_that_was_idle_takes_longer():
    table = replace(make_table([1.0]), wake_up=((2000.0, 400.0),))
    result = simulate(
        make_queries((0, 1), (10, 1), (4000, 1), (5900, 1)),
        STATIC,
        num_workers=1,
        service_time_ns=TableServiceTime(table, seed=0),
    )
    # The first worker has just started; the second query follows at once; then 2000 ns of nothing,
    # and 500.
    assert result.service_time_ns.tolist() == [1000, 1000, 1400, 1100]


def test_a_worker_of_another_device_slows_nobody_down():
    tables = {("", device): make_table([1.0]) for device in ("cpu", "cuda")}
    for table in tables.values():
        table.median_ns[..., 1] = 9999.0
    fleet = Fleet(("cuda", "cpu"), tables)
    result = simulate(
        make_queries((0, 1), (400, 1)),
        STATIC,
        num_workers=2,
        service_time_ns=TableServiceTime(fleet, seed=0),
        fleet=fleet,
    )
    assert result.latency_ns.tolist() == [1000.0, 1000.0]


def test_a_fleet_of_other_slots_is_refused():
    fleet = Fleet.uniform(make_table([1.0]), 3)
    with pytest.raises(ConfigError, match=r"fleet\.devices"):
        simulate(
            make_queries((0, 1)),
            STATIC,
            num_workers=2,
            service_time_ns=ten_ns_per_item,
            fleet=fleet,
        )
