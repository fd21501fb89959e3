"""Policies on cores and an accelerator: DeepRecSched by a threshold, Kairos by matching."""

import numpy as np
import pytest
from tests.fleets import line_fleet, mixed_fleet

from tailrank.core.errors import ConfigError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Query
from tailrank.core.sla import SLA
from tailrank.runtime.virtual import TableServiceTime, simulate
from tailrank.scheduling.policies import PolicyConfig, build_scheduler
from tailrank.workload.schedule import WorkloadConfig, draw_schedule


def query(query_id: int, num_items: int, at_ns: int = 0) -> Query:
    return Query(query_id, "", at_ns, None, num_items, 0)


def deeprecsched(threshold: int | None) -> PolicyConfig:
    return PolicyConfig(
        policy="deeprecsched", batch_items_max=100, offload_threshold_items=threshold
    )


def joined(config: PolicyConfig, fleet: Fleet | None, num_workers: int):
    scheduler = build_scheduler(config, fleet)
    scheduler.on_workers(tuple(range(num_workers)), 0)
    return scheduler


def test_a_query_of_the_threshold_goes_whole_to_the_accelerator():
    scheduler = joined(deeprecsched(250), mixed_fleet(2), 3)
    assert [(it.slot, it.num_items) for it in scheduler.on_query(query(0, 250), 0).start] == [
        (2, 250)
    ]
    cut = scheduler.on_query(query(1, 249), 0).start
    # Full parts and a rest, as released; the rest waits for a core, not for the accelerator.
    assert [(it.slot, it.num_items) for it in cut] == [(1, 100), (0, 100)]


def test_without_a_threshold_it_needs_no_fleet():
    scheduler = joined(deeprecsched(None), None, 2)
    assert [it.num_items for it in scheduler.on_query(query(0, 150), 0).start] == [100, 50]


@pytest.mark.parametrize(
    ("threshold", "fleet"),
    [
        (10, None),
        (10, line_fleet(2, 1.0, 1.0)),
        (None, Fleet(("cuda",), mixed_fleet(1).tables)),
    ],
)
def test_a_threshold_needs_an_accelerator_and_small_queries_a_core(threshold, fleet):
    with pytest.raises(ConfigError, match="offload_threshold_items"):
        build_scheduler(deeprecsched(threshold), fleet)


KAIROS = PolicyConfig(policy="kairos", batch_items_max=1000, sla=SLA(95.0, 20_000))


def test_kairos_gives_the_small_query_to_the_core_and_the_large_one_to_the_accelerator():
    scheduler = build_scheduler(KAIROS, mixed_fleet(1))
    for query_id, num_items in enumerate((800, 10)):
        scheduler.on_query(query(query_id, num_items), 0)
    started = scheduler.on_workers((0, 1), 0).start
    assert {it.slot: it.num_items for it in started} == {0: 10, 1: 800}


def test_kairos_lets_a_query_wait_for_the_worker_that_makes_it_in_time():
    scheduler = joined(KAIROS, mixed_fleet(1), 2)
    assert [it.slot for it in scheduler.on_query(query(0, 900), 0).start] == [1]  # to 11,000
    # 500 items would take the core 50,100 ns; the accelerator ends them at 18,000.
    assert scheduler.on_query(query(1, 500), 1).start == ()


def test_kairos_keeps_more_queries_in_time_than_any_threshold():
    fleet = mixed_fleet(2)
    schedule = draw_schedule(WorkloadConfig(sizes="production"), qps=200_000, num_queries=600)

    def late_fraction(policy: PolicyConfig) -> float:
        result = simulate(
            schedule,
            policy,
            num_workers=3,
            service_time_ns=TableServiceTime(fleet, seed=0),
            fleet=fleet,
        )
        return float(np.mean(result.latency_ns > 20_000))

    by_threshold = min(late_fraction(deeprecsched(size)) for size in (50, 100, 200, 400))
    assert late_fraction(KAIROS) < by_threshold
