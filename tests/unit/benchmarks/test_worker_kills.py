"""What kills for the benchmarks of executors and server: nothing else is measured here."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_a_process_that_does_not_come_back_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from worker_kills import killing

    killed: list[tuple[int, int]] = []
    begun = threading.Event()

    def kill(pid: int, number: int) -> None:
        killed.append((pid, number))
        begun.set()

    monkeypatch.setattr(os, "kill", kill)
    with killing(lambda: [11, 12], num_workers=2, every_s=0.0) as recovery_s:
        assert begun.wait(timeout=30)
    assert killed == [(11, signal.SIGKILL)]
    assert len(recovery_s) == 1
    assert recovery_s[0] > 0
