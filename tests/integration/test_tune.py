"""`tailrank tune` on a small model: found, proven, interrupted, taken up again, refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from tests.integration.verbs import charts, run_json, with_time

from tailrank.characterization.load_test import LoadTest
from tailrank.cli import main
from tailrank.core.service_time import ServiceTimeTable
from tailrank.inference import load
from tailrank.inference.eager import EagerRanker
from tailrank.reporting.result import read_result

WORDS = ["--sla", "p90=500ms", "--sizes", "fixed:20", "--workers", "1"]


@pytest.fixture(scope="module")
def profile(model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model's service times, so that not every test has to measure them."""
    path = str(tmp_path_factory.mktemp("profile") / "profile.json")
    words = ["profile", str(model), "--workers", "1", "--quiet", "--out", path]
    if main([*words, "--budget", "2s"]):  # the machine is busy
        assert main([*words, "--budget", "60s"]) == 0
    return path


def test_tune_finds_proves_and_reports(model: Path, profile: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "tuned"
    words = ["tune", str(model), *WORDS, "--policy", "static", "--out", str(out)]
    code = with_time(words, 3, capsys)
    result = read_result(out / "result.json")
    # On a machine that somebody else is using a run may be late, which is said, not hidden.
    assert code == (0 if result.validity.valid else 4)
    metrics = result.metrics
    assert metrics["tuned.capacity_qps"] > 0
    assert metrics["tuned.capacity_items_per_s"] > 0
    assert metrics["tuned.latency_ms_p90"] <= 500
    assert (
        metrics["best_static.simulated_capacity_qps"] >= metrics["baseline.simulated_capacity_qps"]
    )
    assert {path.name for path in out.iterdir()} == {
        "result.json", "report.html", "report_data.json", "profile.json", "queries.parquet",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [out], "no stage is left behind"
    assert charts(out / "report.html")[-2:] == ["promises", "busy-batches"]
    queries = pl.read_parquet(out / "queries.parquet")
    assert set(queries["contender"].unique()) <= {"static baseline", "best static"}
    assert queries.filter(outcome="answered")["num_items"].unique().to_list() == [20]
    assert main(["report", str(out), "--out", str(tmp_path / "again.html")]) == 0
    profiled = ["--profile", str(out / "profile.json"), "--simulate-only", "--budget", "4s"]
    code, simulated = run_json(
        capsys, "tune", str(model), *WORDS, *profiled, "--out", str(tmp_path / "again")
    )
    assert code == 0
    assert "tuned.capacity_qps" not in simulated["metrics"]
    assert {"deeprecsched.simulated_capacity_qps", "baseline.simulated_latency_ms_p99"} <= set(
        simulated["metrics"]
    )
    foreign = ["tune", "preset:dlrm-rmc1", "--scale", "0.0001", "--out", str(tmp_path / "no")]
    assert main([*foreign, *WORDS, *profiled]) == 2
    assert "a profile of cpu dlrm-rmc1" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_known_and_resume_goes_on(
    model: Path, profile: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    out = tmp_path / "out"
    words = ["tune", str(model), *WORDS, "--profile", profile, "--policy", "static"]
    words += ["--out", str(out)]

    def interrupted(self, policy, qps):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LoadTest, "live", interrupted)
        assert with_time(words, 3, capsys) == 130
    assert "Go on with --resume" in capsys.readouterr().out
    result = read_result(out / "result.json")
    assert result.config["interrupted"]
    assert result.metrics["tuned.simulated_capacity_qps"] > 0
    assert (out / "report.html").exists()
    stages = tmp_path / "out.partial"
    assert {"settings.json", "simulated-baseline.json"} <= {path.name for path in stages.iterdir()}
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    other = [word.replace("fixed:20", "fixed:10") for word in words]
    assert main([*other, "--resume"]) == 2
    assert "had sizes fixed:20, this one has fixed:10" in capsys.readouterr().err
    # 4: the machine was busy
    assert main([*words, "--resume", "--budget", "6s"]) in (0, 4)
    assert not read_result(out / "result.json").config["interrupted"]
    assert not stages.exists()


def test_an_sla_that_nothing_meets_is_a_result_with_exit_3(
    model: Path, profile: str, tmp_path: Path
) -> None:
    out = tmp_path / "hopeless"
    words = [word.replace("p90=500ms", "p95=1us") for word in WORDS]
    assert main(["tune", str(model), *words, "--profile", profile, "--out", str(out)]) == 3
    result = read_result(out / "result.json")
    assert result.metrics["tuned.simulated_capacity_qps"] == 0
    assert "tuned.capacity_qps" not in result.metrics


def test_coalescing_can_be_tuned(model: Path, profile: str, tmp_path: Path) -> None:
    out = tmp_path / "coalescing"
    words = ["--policy", "coalescing", "--delay", "1ms", "--profile", profile, "--simulate-only"]
    words += ["--budget", "4s"]
    assert main(["tune", str(model), *WORDS, *words, "--out", str(out)]) == 0
    assert read_result(out / "result.json").metrics["coalescing.simulated_capacity_qps"] > 0


def test_large_queries_are_offloaded_to_a_second_device(
    model: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    """A CPU ranker stands in for the GPU: what is tested is the way from the flag to the result."""

    class Standin(EagerRanker):
        device = "cuda"

    def load_either(path: Path, *, device: str, **options):
        if device != "cuda":
            return load(path, device=device, **options)
        ranker, record = load(path, device="eager", **options)
        return Standin(ranker.model), record

    monkeypatch.setattr("tailrank.kernels.cuda.why_unavailable", lambda: None)
    monkeypatch.setattr("tailrank.characterization.target.load", load_either)
    monkeypatch.setattr("tailrank.characterization.service_time._REPEATS_MAX", 1)
    out = tmp_path / "out"
    words = ["tune", str(model), "--sla", "p50=500ms", "--sizes", "fixed:20", "--workers", "1"]
    words += ["--devices", "cpu,cuda", "--policy", "offload", "--simulate-only", "--out", str(out)]
    assert with_time(words, 6, capsys) == 0
    result = read_result(out / "result.json")
    assert result.metrics["best_offload.offload_threshold_items"] == 20
    assert result.metrics["best_offload.simulated_capacity_qps"] > 0
    assert result.config["operating_point"]["accelerators"] == ["cuda"]
    tables = [ServiceTimeTable.load(out / name) for name in ("profile.json", "profile-cuda.json")]
    assert [table.device.split()[0] for table in tables] == ["cpu", "cuda"]
    assert main([*words, "--profile", str(out / "profile.json"), "--overwrite"]) == 2
    assert "--profile: is of one device" in capsys.readouterr().err


def test_devices_that_are_not_here_are_refused_before_anything_is_loaded(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("tailrank.kernels.cuda.why_unavailable", lambda: "torch finds no GPU")
    words = ["tune", "preset:dlrm-rmc1", "--sla", "p95=10ms", "--devices", "cpu,cuda"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("tailrank: error: --devices: no cuda here: torch finds no GPU; leave")
    assert error.count("\n") == 1
    assert not out
    assert list(tmp_path.iterdir()) == []


def test_a_ranker_that_fails_is_an_error_and_not_a_missed_sla(
    model: Path, profile: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    def fail(self, batch):
        raise ValueError("broken ranker")

    out = tmp_path / "out"
    monkeypatch.setattr("tailrank.inference.cpu.CpuRanker.rank", fail)
    words = ["tune", str(model), *WORDS, "--profile", profile, "--policy", "static"]
    assert main([*words, "--budget", "4s", "--out", str(out)]) == 2
    assert "queries failed; the first: broken ranker" in capsys.readouterr().err
    assert not out.exists()


def test_a_budget_too_short_to_measure_anything_leaves_nothing(
    model: Path, tmp_path: Path, capsys
) -> None:
    words = ["tune", str(model), *WORDS, "--budget", "0.01ms", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--budget: 20% of 1e-05 s do not hold one batch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
