"""Kills worker processes while others measure; shared by the benchmarks of executors and server."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# Between two looks whether all are there again: what a recovery's time is exact to.
_LOOK_EVERY_S = 0.001


@contextmanager
def killing(
    pids: Callable[[], Sequence[int]], num_workers: int, every_s: float
) -> Iterator[list[float]]:
    """Kill a worker process every so often, each in turn.

    Args:
        pids: those that live now.
        num_workers: how many there are when none is missing.
        every_s: seconds between a recovery and the next kill.

    Yields:
        How long it took each time, in seconds, until all were there again.
    """
    recovery_s: list[float] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(every_s):
            before = pids()
            victim = before[len(recovery_s) % len(before)]
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            while victim in (there := pids()) or len(there) < num_workers:
                if over.wait(_LOOK_EVERY_S):
                    break  # it took this long at least
            recovery_s.append(time.monotonic() - began)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield recovery_s
    finally:
        over.set()
        thread.join()
