"""`tailrank mlperf` as a user types it."""

import builtins
import sys
from pathlib import Path

import pytest
from tests.integration.verbs import run_json

from tailrank.cli import main
from tailrank.reporting.result import read_result

SHORT = ["--quick", "--duration", "300ms", "--sizes", "fixed:20"]


def test_mlperf_serves_loadgen_and_tells_both_books(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    words = ["mlperf", str(model), "--scenario", "Server", "--qps", "3000", "--out", str(out)]
    code, result = run_json(capsys, *words, "--sla", "p99=20s", *SHORT)
    metrics = result["metrics"]
    assert code == (0 if result["validity"]["valid"] else 4), "the host may make the books differ"
    assert {"loadgen_qps", "loadgen_latency_ms_p99", "loadgen_difference_fraction"} < set(metrics)
    assert {"qps", "latency_ms_p99", "items_per_s", "issue_delay_ms_p99"} < set(metrics)
    assert metrics["num_unanswered"] == 0
    assert metrics["items_per_s"] == pytest.approx(20 * metrics["qps"])
    assert result["config"]["loadgen_result"] == "VALID"
    assert "Result is : VALID" in (out / "mlperf_log_summary.txt").read_text()
    assert read_result(out / "result.json").metrics == metrics


def test_a_bound_that_no_ranker_keeps_is_a_result(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    words = ["mlperf", str(model), "--scenario", "Server", "--qps", "400", "--out", str(out)]
    assert main([*words, "--sla", "p99=1us", *SHORT, "--quiet"]) == 3
    assert "p99=0.001ms was missed at 400 queries/s" in capsys.readouterr().err
    assert (out / "result.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scenario", "Server"], "--qps: missing"),
        (["--scenario", "Offline", "--sla", "p99=60ms"], "Offline has no bound"),
        (["--scenario", "Server", "--qps", "5", "--sla", "p99=0ms"], "--sla"),
        (["--scenario", "Server", "--qps", "5", "--sizes", "huge"], "sizes: got 'huge'"),
        (["--scenario", "Server", "--qps", "5", "--policy", "best"], "--policy: got 'best'"),
        (
            ["--scenario", "Server", "--qps", "5", "--policy", "slack"],
            "--profile: slack predicts by a service-time table, and none is named",
        ),
        (["--scenario", "Offline", "--policy", "slack"], "--policy: slack goes by a bound"),
        (["--scenario", "Server", "--qps", "5", "--delay", "1ms"], "--delay: got 1000000"),
        (["--scenario", "Server", "--qps", "5", "--batch-items", "0"], "--batch-items: got 0"),
        (["--scenario", "Sideways"], "Sideways"),
        (
            ["--scenario", "Server", "--qps", "5", "--seed", "-1"],
            "--seed: got -1; allowed: a whole",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys, words: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert main(["mlperf", "preset:dlrm-rmc1", *words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_slow_model_answers_all_that_is_issued_at_once(tmp_path: Path, capsys) -> None:
    """RMC2 reads the most rows of all; the run is over once all is answered, not before."""
    words = ["mlperf", "preset:dlrm-rmc2", "--scale", "0.0001", "--scenario", "Offline"]
    short = ["--sizes", "fixed:4", "--duration", "100ms", "--quick"]
    code, result = run_json(capsys, *words, *short, "--out", str(tmp_path / "run"))
    assert code == (0 if result["validity"]["valid"] else 4), "the host may make the books differ"
    assert result["metrics"]["num_unanswered"] == 0
    assert result["metrics"]["num_queries"] >= 100


def test_without_loadgen_the_extra_is_named(tmp_path: Path, capsys, monkeypatch) -> None:
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "mlperf_loadgen":
            raise ImportError("No module named 'mlperf_loadgen'")
        return real_import(name, *args, **kwargs)

    for module in ("loadgen", "loadgen_system"):
        monkeypatch.delitem(sys.modules, f"tailrank.characterization.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    words = ["mlperf", "preset:dlrm-rmc1", "--scenario", "Offline", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "pip install 'tailrank[mlperf]'" in capsys.readouterr().err
