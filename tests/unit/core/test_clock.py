"""Clocks: one never decreases, the other moves only when told to."""

import pytest

from tailrank.core.clock import ManualClock, MonotonicClock


def test_monotonic_clock_never_decreases():
    clock = MonotonicClock()
    times = [clock.now_ns() for _ in range(100)]
    assert times == sorted(times)
    assert all(isinstance(now_ns, int) for now_ns in times)


def test_manual_clock_moves_only_forward():
    clock = ManualClock(5)
    assert clock.now_ns() == clock.now_ns() == 5
    clock.advance_to(9)
    assert clock.now_ns() == 9
    with pytest.raises(AssertionError):
        clock.advance_to(8)
