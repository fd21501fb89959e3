"""The capacity search against queues whose capacity is known in closed form."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.sla import SLA
from tailrank.tuning.capacity import (
    CapacityInterrupted,
    Verdict,
    find_capacity,
    judge_probe,
    verify_capacity,
)

MS = 1_000_000
SLA_10MS = SLA.parse("p95=10ms")
# M/M/1 sojourn times are exponential with rate mu - lambda: p95 <= 10 ms up to this load.
MM1_CAPACITY_QPS = 1000 - math.log(20) / 0.010


def make_measurement(qps, latency_ns, reasons=()) -> Measurement:
    summary = LatencySummary.of(np.asarray(latency_ns, dtype=np.float64))
    return Measurement(qps, qps, qps, 0, 0, summary, Validity(tuple(reasons)))


def measure_mm1(num_queries: int, qps: float) -> Measurement:
    """An M/M/1 queue with 1 ms of mean service, by Lindley's recursion."""
    rng = np.random.default_rng(8)
    gaps = rng.standard_exponential(num_queries) / qps
    service = rng.standard_exponential(num_queries) / 1000
    steps = np.concatenate(([0.0], service[:-1] - gaps[1:]))
    walk = np.cumsum(steps)
    waiting = walk - np.minimum.accumulate(walk)
    warm = num_queries // 10
    reasons = ["unstable: more comes than goes"] if qps >= 1000 else []
    return make_measurement(qps, (waiting + service)[warm:] * 1e9, reasons)


def deterministic(capacity_qps: float):
    """A system whose latency jumps over the limit at a known load, seen without noise."""

    def measure(config, qps):
        return make_measurement(qps, np.full(1000, 9 * MS if qps <= capacity_qps else 11 * MS))

    return measure


@pytest.mark.parametrize("start_qps", [10.0, 500.0, 690.0, 5000.0, 100_000.0])
def test_mm1_capacity_is_inside_the_interval(start_qps):
    capacity = find_capacity(measure_mm1, 100_000, SLA_10MS, start_qps=start_qps)
    assert capacity.low_qps <= MM1_CAPACITY_QPS <= capacity.high_qps
    assert capacity.capacity_qps == capacity.low_qps
    assert capacity.capacity_qps == pytest.approx(MM1_CAPACITY_QPS, rel=0.06)
    assert capacity.at.offered_qps == capacity.low_qps
    assert capacity.invalid_reasons == ()
    assert len(capacity.probes) < 25


def test_loads_of_too_few_queries_decide_nothing_and_say_so():
    def measure(config, qps):
        # As many queries as two seconds bring; all of them far inside the limit.
        latency_ns = 1 * MS if qps < 10 else 99 * MS
        return make_measurement(qps, np.full(max(3, int(2 * qps)), latency_ns))

    capacity = find_capacity(measure, None, SLA_10MS, start_qps=1000.0)
    assert capacity.capacity_qps == 0.0
    assert capacity.undecided
    assert any(reason.startswith("undecided: 3 queries") for reason in capacity.invalid_reasons)


def test_a_limit_that_is_missed_for_certain_is_decided():
    measure = deterministic(0.0)
    capacity = find_capacity(measure, None, SLA_10MS, start_qps=1000.0)
    assert capacity.capacity_qps == 0.0
    assert not capacity.undecided
    assert capacity.invalid_reasons == ()


def test_a_shorter_measurement_claims_less_not_more():
    long, short = (
        find_capacity(measure_mm1, count, SLA_10MS, start_qps=100.0) for count in (100_000, 3_000)
    )
    assert short.low_qps < long.low_qps <= MM1_CAPACITY_QPS


@pytest.mark.parametrize("truth", [0.9, 77.0, 12_345.0])
@pytest.mark.parametrize("tolerance", [0.01, 0.1])
def test_the_last_bracket_is_as_narrow_as_asked(truth, tolerance):
    capacity = find_capacity(
        deterministic(truth), None, SLA_10MS, start_qps=100.0, tolerance=tolerance
    )
    assert capacity.low_qps <= truth <= capacity.high_qps <= capacity.low_qps * (1 + tolerance)


def test_an_sla_that_no_load_meets_is_a_result_with_the_floor():
    capacity = find_capacity(deterministic(0.0), None, SLA_10MS, start_qps=100.0)
    assert capacity.capacity_qps == 0.0
    assert capacity.high_qps < 0.1
    assert capacity.at.summary.percentile(95.0).value == 11 * MS
    assert capacity.at.offered_qps == min(probe.qps for probe in capacity.probes)
    assert len(capacity.probes) == 2


def test_a_system_without_limit_ends_the_search():
    capacity = find_capacity(deterministic(math.inf), None, SLA_10MS, start_qps=100.0)
    assert capacity.high_qps == math.inf
    assert capacity.low_qps == 100.0 * 2**20


@pytest.mark.parametrize("truth", [60.0, 94.0, 100.0, 106.5, 190.0])
def test_verification_finds_the_capacity_near_the_expected_one(truth):
    capacity = verify_capacity(deterministic(truth), None, SLA_10MS, expected_qps=100.0)
    assert capacity.low_qps <= truth <= capacity.high_qps
    assert capacity.high_qps <= capacity.low_qps * 1.021
    assert len(capacity.probes) <= 10


def test_a_right_expectation_costs_few_probes():
    capacity = verify_capacity(
        deterministic(101.0), None, SLA_10MS, expected_qps=100.0, tolerance=0.06
    )
    assert [round(probe.qps) for probe in capacity.probes] == [100, 106]


def test_verification_keeps_to_its_budget():
    capacity = verify_capacity(
        deterministic(0.0), None, SLA_10MS, expected_qps=100.0, num_probes_max=4
    )
    assert len(capacity.probes) == 4
    assert capacity.capacity_qps == 0.0


def test_verification_keeps_to_its_time():
    left = iter([3.0, 2.0, 1.0, 0.0, -1.0])
    capacity = verify_capacity(
        deterministic(190.0),
        None,
        SLA_10MS,
        expected_qps=100.0,
        tolerance=1e-6,
        seconds_left=lambda: next(left),
    )
    assert len(capacity.probes) == 4
    assert capacity.low_qps <= 190.0 <= capacity.high_qps


def test_an_interrupt_hands_over_what_the_probes_before_it_have_shown():
    measured = deterministic(105.0)

    def measure(config, qps):
        if qps > 106.5:
            raise KeyboardInterrupt
        return measured(config, qps)

    with pytest.raises(CapacityInterrupted) as caught:
        verify_capacity(measure, None, SLA_10MS, expected_qps=104.0, step=1.5)
    assert caught.value.capacity.low_qps == 104.0
    assert len(caught.value.capacity.probes) == 1
    with pytest.raises(KeyboardInterrupt) as caught:
        verify_capacity(measure, None, SLA_10MS, expected_qps=107.0)
    assert not isinstance(caught.value, CapacityInterrupted)


def test_verdicts_are_decided_on_confidence_bounds():
    rng = np.random.default_rng(0)
    around = rng.normal(10 * MS, MS, 2000)
    assert judge_probe(make_measurement(1, around - 3 * MS), SLA_10MS) is Verdict.PASS
    assert judge_probe(make_measurement(1, around), SLA_10MS) is Verdict.MISS
    p95 = np.percentile(around, 95)
    assert judge_probe(make_measurement(1, around - p95 + 10 * MS), SLA_10MS) is Verdict.UNDECIDED
    unstable = make_measurement(1, around - 5 * MS, ["unstable: growing"])
    assert judge_probe(unstable, SLA_10MS) is Verdict.MISS


def test_lost_queries_miss_the_sla():
    """Six in a hundred rejected: p95 is infinite however fast the others are."""
    latency_ns = np.full(2000, 1.0 * MS)
    latency_ns[::16] = np.inf
    assert judge_probe(make_measurement(1, latency_ns), SLA_10MS) is Verdict.MISS


P99_30MS = SLA.parse("p99=30ms")


def test_a_second_bound_is_to_be_kept_as_well():
    """Two in a hundred at 40 ms: fine for p95 = 10 ms, not for p99 = 30 ms."""

    def judged(every: int, slow_ms: float, **options) -> Verdict:
        latency_ns = np.full(5000, 1.0 * MS)
        latency_ns[::every] = slow_ms * MS
        return judge_probe(make_measurement(1, latency_ns), SLA_10MS, **options)

    assert judged(50, 40.0) is Verdict.PASS
    assert judged(50, 40.0, bounds=(P99_30MS,)) is Verdict.MISS
    assert judged(50, 29.0, bounds=(P99_30MS,)) is Verdict.PASS
    # One in a hundred is what p99 allows, but not for certain.
    assert judged(100, 31.0, bounds=(P99_30MS,)) is Verdict.UNDECIDED


def test_rejects_can_be_ruled_out():
    seen = make_measurement(1, np.full(2000, 1.0 * MS))
    rejecting = replace(seen, num_rejected=1)
    assert judge_probe(rejecting, SLA_10MS) is Verdict.PASS
    assert judge_probe(rejecting, SLA_10MS, allow_rejects=False) is Verdict.MISS
    assert judge_probe(seen, SLA_10MS, allow_rejects=False) is Verdict.PASS


def test_a_verdict_on_what_was_seen_is_never_undecided():
    latency_ns = np.full(100, 1.0 * MS)
    latency_ns[:5] = 20 * MS
    seen = make_measurement(1, latency_ns)
    assert judge_probe(seen, SLA_10MS) is Verdict.UNDECIDED
    assert judge_probe(seen, SLA_10MS, certain=False) is Verdict.PASS
    latency_ns[5] = 20 * MS
    assert judge_probe(make_measurement(1, latency_ns), SLA_10MS, certain=False) is Verdict.MISS


@pytest.mark.parametrize("search", ["find", "verify"])
def test_the_capacity_under_two_bounds_is_that_of_the_tighter_one(search):
    """M/M/1: p99 <= 12 ms asks for a lower load than p95 <= 10 ms."""
    judge = partial(judge_probe, bounds=(SLA.parse("p99=12ms"),))
    if search == "find":
        found = find_capacity(measure_mm1, 100_000, SLA_10MS, start_qps=100.0, judge=judge)
    else:
        found = verify_capacity(measure_mm1, 100_000, SLA_10MS, expected_qps=500.0, judge=judge)
    assert found.low_qps <= 1000 - math.log(100) / 0.012 <= found.high_qps
    assert found.high_qps < MM1_CAPACITY_QPS


def test_an_undecided_load_bounds_the_search_but_not_the_interval():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, MS, 2000)

    def measure(config, qps):
        shift = 5 * MS if qps <= 100 else 8.4 * MS if qps <= 150 else 30 * MS
        return make_measurement(qps, shift + noise)

    capacity = find_capacity(measure, None, SLA_10MS, start_qps=50.0)
    assert capacity.low_qps <= 100
    assert capacity.high_qps >= 150


def test_reasons_of_the_deciding_probes_are_passed_on():
    def measure(config, qps):
        reasons = ["generator_late: by a lot"] if qps > 90 else ["too_short: by much"]
        return make_measurement(qps, np.full(1000, 9 * MS if qps <= 100 else 11 * MS), reasons)

    capacity = find_capacity(measure, None, SLA_10MS, start_qps=99.9, tolerance=1.5)
    assert capacity.invalid_reasons == ("generator_late: by a lot",)


@pytest.mark.parametrize(("num_late", "expected"), [(0, 1), (1, 2), (2, 3), (5, 3)])
def test_a_load_is_measured_again_while_its_generator_is_late(num_late, expected):
    calls = []

    def measure(config, qps):
        calls.append(qps)
        late = calls.count(qps) <= num_late
        reasons = ["generator_late: a pause of the host"] if late else []
        return make_measurement(qps, np.full(1000, 11 * MS if late else 9 * MS), reasons)

    capacity = verify_capacity(measure, None, SLA_10MS, expected_qps=100.0, num_probes_max=2)
    assert calls.count(100.0) == expected
    assert len(capacity.probes) == 2, "one probe a load, however often it was measured"
    assert (capacity.low_qps >= 100.0) == (num_late <= 2)
    assert capacity.invalid_reasons == (() if num_late <= 2 else capacity.at.validity.reasons)


def test_a_late_load_is_not_measured_again_without_time():
    calls = []

    def measure(config, qps):
        calls.append(qps)
        return make_measurement(qps, np.full(1000, 11 * MS), ["generator_late: by a lot"])

    verify_capacity(measure, None, SLA_10MS, expected_qps=100.0, seconds_left=lambda: 0.0)
    assert calls == [100.0]


@pytest.mark.parametrize(
    "options", [{"start_qps": 0.0}, {"start_qps": math.inf}, {"start_qps": 1.0, "tolerance": 0.0}]
)
def test_find_refuses(options):
    with pytest.raises(ConfigError):
        find_capacity(deterministic(1.0), None, SLA_10MS, **options)


@pytest.mark.parametrize(
    "options", [{"expected_qps": -1.0}, {"step": 1.0}, {"step": 3.0}, {"num_probes_max": 1}]
)
def test_verify_refuses(options):
    with pytest.raises(ConfigError):
        verify_capacity(deterministic(1.0), None, SLA_10MS, **({"expected_qps": 1.0} | options))
