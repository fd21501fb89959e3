"""`colocate` as a user types it: two models on one machine, and what it says to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.integration.verbs import run_json

from tailrank.cli import main
from tailrank.commands.colocate import parse_models

PAIR = ("preset:ncf=p95=5ms", "preset:ncf=p95=6ms", "--scale", "0.01")
SMALL = ("--sizes", "fixed:8", "--duration", "10ms", "--profile-budget", "60s")


def test_two_copies_of_a_model_share_a_worker(
    model: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrank.characterization.service_time._REPEATS_MAX", 1)
    out = tmp_path / "runs/shared.json"
    words = ["colocate", f"{model}=p50=200ms@0.25", f"{model}=p90=100ms", *SMALL]
    words += ["--workers", "1", "--simulate-only", "--out", str(out)]
    code, result = run_json(capsys, *words)
    assert code in (0, 3), "a busy host may hold none"
    name = model.name.lower().replace("-", "_")
    metrics = result["metrics"]
    assert metrics["shared.simulated_capacity_qps"] == metrics["best.simulated_capacity_qps"]
    assert metrics[f"{name}_2.simulated_qps"] == pytest.approx(3 * metrics[f"{name}.simulated_qps"])
    assert {f"{name}.simulated_latency_ms_p{p}" for p in (50, 95, 99)} <= set(metrics)
    models = result["config"]["models"]
    assert list(models) == [model.name, f"{model.name}#2"]
    assert models[model.name]["share"] == 0.25
    assert json.loads(out.read_text()) == result
    assert main([*words]) == 2
    assert "exists; name another file, or --overwrite it" in capsys.readouterr().err


def test_shares_that_nobody_named_are_even() -> None:
    assert parse_models(("preset:a=p95=1ms@0.5", "runs/b=p99.9=2.5s", "c=x=p50=3us")) == [
        ("preset:a", "p95=1ms", 0.5),
        ("runs/b", "p99.9=2.5s", 0.25),
        ("c=x", "p50=3us", 0.25),
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["preset:ncf=p95=5ms"], "models: got ['preset:ncf=p95=5ms']; allowed: two or more"),
        (["preset:ncf=p95=5ms", "preset:ncf"], "got 'preset:ncf'; allowed: TARGET=pPERCENTILE"),
        (["preset:ncf=p95=5ms@1.2.3", "preset:ncf=p95=5ms"], "allowed: TARGET=pPERCENTILE"),
        (
            ["preset:ncf=p95=0ms", "preset:ncf=p95=5ms"],
            "models: got 'p95=0ms'; allowed: a time above",
        ),
        (
            [*PAIR, "--profile-budget", "1us", "--workers", "1"],
            "--profile-budget: 2.5e-07 s hold one batch of",
        ),
        (
            [*PAIR, "--sizes", "fixed:900000"],
            "--sizes: got 'fixed:900000'; allowed: sizes up to",
        ),
        (["preset:ncf=p95=5ms@0.9", "preset:ncf=p95=5ms@0.3"], "add up to 1"),
        (["preset:ncf=p95=5ms@1", "preset:ncf=p95=5ms"], "add up to 1, or leave some over"),
        (["preset:ncf=p95=5ms@1", "preset:ncf=p95=5ms@0"], "numbers above 0 that add up to 1"),
        (["preset:nfc=p95=5ms", "preset:ncf=p95=5ms", "--scale", "0.01"], "did you mean 'ncf'"),
        (["preset:ncf=p95=5ms", "preset:ncf=p95=5ms", "--sizes", "huge"], "sizes: got 'huge'"),
        (["preset:ncf=p95=5ms", "preset:ncf=p95=5ms", "--duration", "0s"], "--duration"),
        (["preset:ncf=p95=5ms", "preset:ncf=p95=5ms", "--out", "x.txt"], "ends in .json"),
        (
            ["preset:ncf=p95=5ms", "preset:ncf=p95=5ms", "--contention", "--simulate-only"],
            "--contention: is measured live",
        ),
        (
            ["preset:ncf=p95=5ms", "preset:ncf=p95=5ms", "--contention", "--workers", "1"],
            "--contention: needs 2 workers",
        ),
    ],
)
def test_refuses_in_one_line(
    words: list[str], complaint: str, capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["colocate", *words]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
