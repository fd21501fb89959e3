"""The parts of the worker pool that can be seen without a run."""

from tailrank.core.clock import ManualClock
from tailrank.runtime.workers import LockParking, RunClock


def test_the_run_clock_counts_from_its_start():
    clock = ManualClock(100)
    run_clock = RunClock(clock)
    clock.advance_to(130)
    assert run_clock.now_ns() == 30
    run_clock.start()
    clock.advance_to(137)
    assert run_clock.now_ns() == 7


def test_parking_keeps_one_token():
    """However often a worker is woken while awake, it is woken once, and never too late."""
    clock = ManualClock()
    parking = LockParking(1, clock)
    parking.unpark(0)
    parking.unpark(0)
    parking.park(0, None)  # takes the token; would hang without one
    parking.park(0, clock.now_ns())  # none left: returns because the time has come
    parking.unpark(0)
    parking.park(0, None)
