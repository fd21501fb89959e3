"""The part of `benchmarks/bench_executors.py` that kills: nothing else is measured here."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_a_process_that_does_not_come_back_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import bench_executors

    killed: list[tuple[int, int]] = []
    begun = threading.Event()

    def kill(pid: int, number: int) -> None:
        killed.append((pid, number))
        begun.set()

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(bench_executors, "KILL_EVERY_S", 0.0)
    with bench_executors.killing(SimpleNamespace(pids=[11, 12])) as recovery_s:
        assert begun.wait(timeout=30)
    assert killed == [(11, signal.SIGKILL)]
    assert len(recovery_s) == 1
    assert recovery_s[0] > 0
