"""Verifying the best few: both figures, the budget shared, nothing lost on the way."""

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.sla import SLA
from tailrank.tuning.capacity import Capacity
from tailrank.tuning.search import Point
from tailrank.tuning.verification import verify_best

MS = 1_000_000
SLA_10MS = SLA.parse("p95=10ms")
AT = Measurement(1, 1, 1, 0, 0, LatencySummary.of(np.ones(1)), Validity())
LIVE_QPS = {"a": 80.0, "b": 90.0, "c": 60.0, "d": 500.0}
RANKED = [
    Point(name, Capacity(qps, qps * 1.01, (), AT))
    for name, qps in (("a", 100.0), ("b", 99.0), ("c", 90.0), ("d", 50.0), ("e", 0.0))
]


class Live:
    """A host whose capacities are known; every probe takes a second."""

    def __init__(self, seconds: float = 1e6, interrupt_after: int = 1000) -> None:
        self.seconds, self.interrupt_after = seconds, interrupt_after
        self.probes: list[tuple[str, float]] = []

    def measure(self, name: str, qps: float) -> Measurement:
        if len(self.probes) == self.interrupt_after:
            raise KeyboardInterrupt
        self.probes.append((name, qps))
        latency_ns = np.full(1000, (9 if qps <= LIVE_QPS[name] else 11) * MS, dtype=np.float64)
        return Measurement(qps, qps, qps, 0, 0, LatencySummary.of(latency_ns), Validity())

    def seconds_left(self) -> float:
        return self.seconds - len(self.probes)


def test_the_best_few_are_measured_and_the_best_live_one_wins():
    live, told = Live(), []
    proven = verify_best(live.measure, RANKED, SLA_10MS, num_best=3, on_verified=told.append)
    assert [each.value for each in proven.verified] == ["a", "b", "c"]
    for each in proven.verified:
        assert each.live.low_qps <= LIVE_QPS[each.value] <= each.live.high_qps
        assert each.simulated is next(p.capacity for p in RANKED if p.value == each.value)
    assert proven.best.value == "b"
    assert tuple(told) == proven.verified
    assert not proven.interrupted
    assert not proven.out_of_time


def test_the_next_one_is_looked_for_where_the_first_one_was_found():
    live = Live()
    verify_best(live.measure, RANKED, SLA_10MS, num_best=2)
    first_qps = [next(qps for name, qps in live.probes if name == each) for each in "ab"]
    assert first_qps == [100.0, pytest.approx(99.0 * 0.8, rel=0.03)]


def test_the_time_is_shared_evenly():
    live = Live(seconds=9.0)
    proven = verify_best(
        live.measure,
        RANKED,
        SLA_10MS,
        num_best=3,
        tolerance=1e-9,
        seconds_left=live.seconds_left,
    )
    counts = {name: sum(each == name for each, _ in live.probes) for name in "abc"}
    assert counts == {"a": 3, "b": 3, "c": 3}
    assert len(proven.verified) == 3
    short = verify_best(Live(seconds=1.0).measure, RANKED, SLA_10MS, seconds_left=lambda: 0.0)
    assert (short.best, short.verified, short.out_of_time) == (None, (), True)


def test_time_that_is_up_leaves_the_rest_out():
    live = Live(seconds=2.0)
    proven = verify_best(live.measure, RANKED, SLA_10MS, num_best=4, seconds_left=live.seconds_left)
    assert [each.value for each in proven.verified] == ["a", "b"]
    assert proven.out_of_time


def test_an_interrupt_keeps_the_probes_of_the_one_under_way():
    undisturbed = Live()
    verify_best(undisturbed.measure, RANKED, SLA_10MS, num_best=1)
    live = Live(interrupt_after=len(undisturbed.probes) + 2)
    proven = verify_best(live.measure, RANKED, SLA_10MS)
    assert [each.value for each in proven.verified] == ["a", "b"]
    assert len(proven.verified[1].live.probes) == 2
    assert proven.interrupted
    nothing = verify_best(Live(interrupt_after=0).measure, RANKED, SLA_10MS)
    assert (nothing.best, nothing.verified, nothing.interrupted) == (None, (), True)


def test_refuses_to_verify_nothing():
    with pytest.raises(ConfigError, match="num_best"):
        verify_best(Live().measure, RANKED, SLA_10MS, num_best=0)
