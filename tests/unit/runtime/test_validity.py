"""Which runs are not to be believed, and why."""

import math

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.latency import queries_needed
from tailrank.core.sla import SLA
from tailrank.runtime.measurement import to_measurement
from tailrank.runtime.record import BatchColumns, QueryColumns, QueryOutcome, RunResult
from tailrank.runtime.validity import judge
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

MS = 1_000_000
SLA_10MS = SLA.parse("p95=10ms")
ONE_BY_ONE = PolicyConfig(policy="static", batch_items_max=1)


def make_result(latency_ns, *, outcome=None, wake_lateness_ns=(), drained=True) -> RunResult:
    """A run with a query every millisecond and no rest for its worker."""
    latency_ns = np.asarray(latency_ns, dtype=np.int64)
    count = len(latency_ns)
    scheduled_ns = MS * np.arange(count)
    done_ns = scheduled_ns + latency_ns
    ones = np.ones(count, dtype=np.int64)
    outcome = 0 * ones if outcome is None else np.asarray(outcome)
    done_ns[outcome != QueryOutcome.ANSWERED] = -1
    return RunResult(
        queries=QueryColumns(
            query_id=np.arange(count),
            num_items=2 * ones,
            num_parts=ones,
            scheduled_ns=scheduled_ns,
            released_ns=scheduled_ns,
            started_ns=scheduled_ns,
            done_ns=done_ns,
            outcome=outcome,
        ),
        batches=BatchColumns(0 * ones, 2 * ones, ones, scheduled_ns, scheduled_ns + MS),
        num_workers=1,
        ended_ns=int(done_ns.max()),
        open_query_ns=0,
        wake_lateness_ns=np.asarray(wake_lateness_ns, dtype=np.int64),
        drained=drained,
        first_error=None,
    )


def codes(validity) -> list[str]:
    return [reason.split(":")[0] for reason in validity.reasons]


def run_mm1(load: float, num_queries: int = 8000, seed: int = 0) -> RunResult:
    """An M/M/1 queue with 1 ms of mean service."""
    rng = np.random.default_rng(seed)
    config = WorkloadConfig(sizes="fixed:1", arrival_seed=seed)
    return simulate(
        draw_schedule(config, qps=1000 * load, num_queries=num_queries),
        ONE_BY_ONE,
        num_workers=1,
        service_time_ns=lambda batch, busy: int(rng.standard_exponential() * MS),
    )


def test_a_calm_run_is_valid():
    result = make_result(np.random.default_rng(0).integers(1, 5 * MS, 2000))
    assert judge(result, SLA_10MS, 200).valid


def test_a_late_generator():
    latency_ns = np.random.default_rng(0).integers(1, 5 * MS, 2000)
    late = make_result(latency_ns, wake_lateness_ns=[0] * 950 + [1_100_000] * 50)
    assert codes(judge(late, SLA_10MS, 0)) == ["generator_late"]
    assert "1.10 ms" in judge(late, SLA_10MS, 0).reasons[0]
    # A tenth of a looser limit bears it; so does p99 if it happened once in a thousand times.
    assert judge(late, SLA.parse("p95=12ms"), 0).valid
    seldom = make_result(latency_ns, wake_lateness_ns=[0] * 999 + [90 * MS])
    assert judge(seldom, SLA_10MS, 0).valid


def test_too_few_queries():
    """DeepRecSys tunes on a p95 of 64 queries; not even its bound exists."""
    assert queries_needed(95.0) > 64
    result = make_result(np.random.default_rng(0).integers(1, 5 * MS, 64))
    validity = judge(result, SLA_10MS, 0)
    assert codes(validity) == ["too_short"]
    assert "64 queries" in validity.reasons[0]
    assert "p95 needs 72" in validity.reasons[0]


def test_too_correlated_to_bound_the_percentile():
    """One long excursion in the middle holds all of the slowest queries: it counts as one."""
    latency_ns = np.random.default_rng(0).integers(1, 2 * MS, 2000)
    latency_ns[900:1020] = 50 * MS
    result = make_result(latency_ns)
    summary = to_measurement(result, offered_qps=1, sla=SLA_10MS).summary
    assert math.isinf(summary.percentile(95).high)
    assert codes(judge(result, SLA_10MS, 0)) == ["too_short"]


def test_an_overloaded_queue_is_unstable():
    """A short run above capacity may stay inside a loose limit, but its backlog grows."""
    for seed in range(3):
        result = run_mm1(1.10, seed=seed)
        reasons = judge(result, SLA.parse("p95=100s"), 800).reasons
        assert [reason.split(":")[0] for reason in reasons] == ["unstable"]
        assert "climbed from" in reasons[0]


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_a_stable_queue_is_not_called_unstable(load):
    flagged = sum(
        "unstable" in codes(judge(run_mm1(load, 8000, seed), SLA.parse("p95=100s"), 800))
        for seed in range(4)
    )
    assert flagged == 0


def test_a_cut_off_run_is_unstable():
    outcome = [QueryOutcome.ANSWERED] * 900 + [QueryOutcome.UNANSWERED] * 100
    result = make_result(np.full(1000, MS), outcome=outcome, drained=False)
    validity = judge(result, SLA_10MS, 0)
    assert codes(validity) == ["unstable"]
    assert "100 queries" in validity.reasons[0]


def test_measurement_leaves_the_warm_up_out():
    latency_ns = np.where(np.arange(1000) < 100, 500 * MS, 2 * MS)
    measurement = to_measurement(make_result(latency_ns), offered_qps=1000, sla=SLA_10MS)
    assert measurement.summary.num_queries == 900
    assert measurement.summary.max_ns == 2 * MS
    # 900 queries from the one due at 100 ms to the last answer at 999 + 2 ms
    assert measurement.achieved_qps == pytest.approx(900 / 0.901)
    assert measurement.achieved_items_per_s == pytest.approx(1800 / 0.901)


def test_measurement_keeps_lost_queries_in_the_percentile():
    outcome = np.zeros(1000, dtype=np.int64)
    outcome[500:530] = QueryOutcome.REJECTED
    outcome[700:740] = QueryOutcome.FAILED
    result = make_result(np.full(1000, MS), outcome=outcome)
    measurement = to_measurement(result, offered_qps=1000, sla=SLA_10MS, warmup_fraction=0.0)
    assert (measurement.num_rejected, measurement.num_failed) == (30, 40)
    assert measurement.summary.num_unanswered == 70
    assert measurement.summary.percentile(95.0).value == math.inf
    assert measurement.summary.percentile(50.0).value == MS
    assert measurement.achieved_qps == pytest.approx(930 / 1.0, rel=0.01)


def test_nothing_answered_is_a_measurement_too():
    result = make_result(np.full(100, MS), outcome=[QueryOutcome.FAILED] * 100)
    measurement = to_measurement(result, offered_qps=1000, sla=SLA_10MS)
    assert (measurement.achieved_qps, measurement.num_failed) == (0.0, 90)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, math.nan])
def test_warm_up_out_of_range(fraction):
    with pytest.raises(ConfigError, match="warmup_fraction"):
        to_measurement(make_result([1]), offered_qps=1, sla=SLA_10MS, warmup_fraction=fraction)
