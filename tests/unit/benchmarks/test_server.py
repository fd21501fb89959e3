"""The parts of `benchmarks/bench_server.py` that measure nothing."""

import sys
from pathlib import Path

import pytest

from tailrank.reporting.result import Result

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_a_result_takes_the_heavier_models_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is added after eight minutes, in full runs alone."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from bench_server import HEAVIER_RATIO

    Result(command="bench_server", config={}, seed=0, metrics={HEAVIER_RATIO: 0.5})
