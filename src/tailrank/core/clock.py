"""Time as a value that is handed in, so that simulation and tests own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Anything that tells a monotonic time in integer nanoseconds."""

    def now_ns(self) -> int:
        """The current time in ns; never decreases; its zero has no meaning."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """The current time in ns."""
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """The time last set, in ns."""
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move to `now_ns`, which is not before the current time."""
        assert now_ns >= self._now_ns, "time never runs backwards"
        self._now_ns = now_ns
