"""An alarm clock for an event loop, to some ten microseconds.

Event loops sleep in whole milliseconds, and a query that is sent 1 ms late is 1 ms slower.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

from tailrank.core.errors import BackendUnavailable

# From <time.h> and <sys/timerfd.h>; `os` has these calls from Python 3.13 on.
_CLOCK_MONOTONIC, _NONBLOCK, _CLOEXEC, _ABSOLUTE = 1, 0o4000, 0o2000000, 1
_SECOND_NS = 1_000_000_000


class _Timer(ctypes.Structure):
    """`struct itimerspec`: every so often, and the first time."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Alarm:
    """Calls back at a given time, by a timer of the system that the loop waits for like a socket.

    Args:
        loop: of the thread that uses it.
        ring: called when it goes off.

    Raises:
        BackendUnavailable: the system has no such timers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop, self._ring = loop, ring
        self._system = ctypes.CDLL(None, use_errno=True)
        self._file = self._system.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._file < 0:
            raise BackendUnavailable(f"no timer: {os.strerror(ctypes.get_errno())}")
        loop.add_reader(self._file, self._rings)

    def set(self, at_ns: int) -> None:
        """Go off once, at `at_ns` of `time.monotonic_ns`; at once, if that is over."""
        self._set(_Timer(0, 0, *divmod(max(at_ns, 1), _SECOND_NS)))

    def stop(self) -> None:
        """Do not go off."""
        self._set(_Timer(0, 0, 0, 0))

    def close(self) -> None:
        """Give the timer back."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _set(self, timer: _Timer) -> None:
        failed = self._system.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(timer), None)
        assert not failed, os.strerror(ctypes.get_errno())

    def _rings(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        self._ring()
