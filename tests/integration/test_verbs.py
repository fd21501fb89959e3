"""The verbs as a user types them: the whole way in small, and what each says to bad input."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from tests.integration.verbs import charts, run_json

from tailrank.cli import main
from tailrank.reporting.result import read_result

ROW = "\t".join(["1", *(str(i) for i in range(13)), *(f"{i:08x}" for i in range(26))])


def test_train_writes_a_result_and_evaluate_agrees_with_it(model: Path, capsys) -> None:
    trained = read_result(model / "result.json")
    assert {"auc_test", "logloss_test", "auc_attainable", "train_samples_per_s"} <= set(
        trained.metrics
    )
    steps = [trained.metrics[name] for name in ("step_chosen", "num_steps", "num_steps_planned")]
    assert steps == [5, 5, 5], "one pass over 5,000 rows"
    code, result = run_json(
        capsys,
        "evaluate", str(model),
        "--data", "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3",
    )  # fmt: skip
    assert code == 0
    assert result["metrics"]["auc_test"] == pytest.approx(trained.metrics["auc_test"], abs=1e-9)


def test_rows_that_the_model_never_saw_are_all_scored(model: Path, tmp_path: Path, capsys) -> None:
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    page = tmp_path / "all.html"
    code, result = run_json(
        capsys, "evaluate", str(model), "--data", data, "--split", "all", "--report", str(page)
    )
    assert (code, result["metrics"]["num_rows_all"]) == (0, 7000)
    assert "on all rows" in page.read_text()


def test_a_run_that_failed_at_once_does_not_stand_in_the_way(tmp_path: Path, capsys) -> None:
    rates = ["--lr", "900", "--table-lr", "900", "--optimizer", "sgd", "--table-optimizer", "sgd"]
    words = ["train", "dlrm", "--data", "synthetic:rows=800", "--batch-items", "16"]
    words += ["--out", str(tmp_path / "run"), "--quiet"]
    assert main([*words, *rates]) == 2
    assert "no longer finite" in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.parametrize("key", ["recipe", "fitted_fingerprint"])
def test_a_model_of_another_version_is_refused_in_one_line(
    model: Path, tmp_path: Path, capsys, key: str
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    record = json.loads((other / "model.json").read_text())
    del record["training"][key]
    (other / "model.json").write_text(json.dumps(record))
    assert main(["evaluate", str(other), "--data", "synthetic:rows=7000"]) == 2
    assert "another version of tailrank" in capsys.readouterr().err


def test_train_writes_a_report_and_evaluate_on_demand(model: Path, tmp_path: Path, capsys) -> None:
    assert {"reliability", "score-counts", "learning-curve"} <= set(charts(model / "report.html"))
    page = tmp_path / "pages/quality.html"
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    words = ["evaluate", str(model), "--data", data, "--report", str(page)]
    capsys.readouterr()
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert charts(page)[0] == "reliability"
    assert all(f"<span>{word}</span>" in page.read_text() for word in ["tailrank", *words])


def test_a_refusal_of_huge_pages_is_said(model: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    words = ["profile", str(model), "--workers", "1", "--quick"]
    assert main([*words, "--out", str(tmp_path / "first.json")]) == 0
    assert "more slowly" not in capsys.readouterr().out
    refusal = "0 B of 4 MB on huge pages, the kernel gave no more"
    monkeypatch.setattr("tailrank.inference.arena.Arena.refusal", lambda self: refusal)
    assert main([*words, "--out", str(tmp_path / "second.json")]) == 0
    said = capsys.readouterr().out
    assert f"{refusal}: random rows are read more slowly, see tailrank doctor" in said


def test_profile_writes_a_table(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "profile.json"
    code, result = run_json(
        capsys, "profile", str(model), "--workers", "1", "--budget", "3s", "--out", str(out),
        "--report", str(tmp_path / "profile.html"),
    )  # fmt: skip
    assert code == 0
    assert result["artifacts"] == [str(out), str(tmp_path / "profile.html")]
    assert charts(tmp_path / "profile.html") == ["service-time", "throughput-by-batch"]
    assert result["metrics"]["profile.service_time_ms_items_128"] > 0
    words = ["profile", str(model), "--quick", "--workers", "1", "--out", str(out)]
    assert main([*words, "--budget", "0.001ms", "--quiet"]) == 2
    assert "1e-06 s hold one batch of 1 of the " in capsys.readouterr().err


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return f"criteo:{path}"


CRITEO_FAULTS = {
    "38 columns": (("\n".join([ROW] * 9 + [ROW.rsplit("\t", 2)[0]]) + "\n").encode(), "log:10"),
    "a label of 2": (("\n".join([ROW] * 4 + ["2" + ROW[1:]] + [ROW] * 9) + "\n").encode(), "log:5"),
    "binary rubbish": (bytes(range(256)) * 20, "log:"),
    "an empty file": (b"", "log"),
}


@pytest.mark.parametrize("fault", sorted(CRITEO_FAULTS))
def test_a_faulty_log_is_named_by_line_and_leaves_nothing(
    fault: str, tmp_path: Path, capsys
) -> None:
    content, place = CRITEO_FAULTS[fault]
    data = write(tmp_path / "log", content)
    out = tmp_path / "out"
    assert main(["train", "dlrm", "--data", data, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert place in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_a_faulty_line_in_gzip_is_named_too(tmp_path: Path, capsys) -> None:
    data = write(tmp_path / "log.gz", gzip.compress(CRITEO_FAULTS["a label of 2"][0]))
    assert main(["train", "dlrm", "--data", data, "--out", str(tmp_path / "out")]) == 2
    assert "log.gz:5" in capsys.readouterr().err


TUNE = ["tune", "preset:dlrm-rmc1", "--scale", "0.0001", "--sla", "p95=10ms"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "dlrm", "--data", "criteo:/nowhere/log.tsv"], "/nowhere/log.tsv"),
        (["train", "dlrm", "--data", "parquet:x"], "criteo:PATH"),
        (["train", "transformer", "--data", "synthetic:"], "dlrm"),
        (["train", "dlmr", "--data", "synthetic:"], "did you mean 'dlrm'?"),
        (["train", "dlrm", "--data", "critoe:log.tsv"], "did you mean 'criteo'?"),
        (["tune", "preset:dlrm-rcm1", "--sla", "p95=10ms"], "did you mean 'dlrm-rmc1'?"),
        ([*TUNE, "--policy", "colaescing"], "did you mean 'coalescing'?"),
        (["train", "dlrm", "--data", "synthetic:", "--resume"], "--resume: no checkpoint in "),
        (["train", "dlrm", "--data", "table:t.csv"], "tailrank schema t.csv --out schema.toml"),
        (["compare"], "RUNS: no folder is named; name two or more"),
        (["compare", "/nowhere/a", "/nowhere/b"], "/nowhere/a: no such folder; expected one that"),
        (["train", "dlrm", "--data", "synthetic:rows=banana"], "banana"),
        (
            ["train", "dlrm", "--data", "synthetic:rows=800", "--bottom-mlp", "0-4"],
            "whole numbers from 1 joined",
        ),
        (["train", "dlrm", "--data", "synthetic:rows=800", "--features", "item_0"], "two features"),
        (["tune", "preset:dlrm-rmc9", "--sla", "p95=10ms"], "dlrm-rmc1"),
        (["tune", "/nowhere/model", "--sla", "p95=10ms"], "/nowhere/model: no such folder"),
        (["tune", "preset:dlrm-rmc1", "--scale", "1e4", "--sla", "p95=10ms"], "on this host"),
        (["tune", "preset:dlrm-rmc1", "--scale", "-1", "--sla", "p95=10ms"], "above 0"),
        (["tune", "preset:dlrm-rmc1", "--sla", "p101=10ms"], "below 100"),
        (["tune", "preset:dlrm-rmc1", "--sla", "p95"], "p95=10ms"),
        (["tune", "preset:dlrm-rmc1", "--sla", "p95=10"], "got 'p95=10'; allowed"),
        ([*TUNE, "--sizes", "banana"], "production"),
        ([*TUNE, "--workers", "0"], "1 to "),
        ([*TUNE, "--workers", "999"], "999"),
        ([*TUNE, "--policy", "magic"], "coalescing"),
        ([*TUNE, "--precision", "int3"], "bf16"),
        (
            ["export", "runs/a", "--precision", "int2", "--data", "synthetic"],
            "rows=fp32|bf16|fp16|int8|int4, dense=fp32|bf16|int8, or auto",
        ),
        ([*TUNE, "--profile", "/nowhere/profile.json"], "/nowhere/profile.json"),
        ([*TUNE, "--colour", "red"], "colour"),
        ([*TUNE, "--sizes", "fixed:nan"], "whole N"),
        ([*TUNE, "--seed", "-1"], "from 0"),
        ([*TUNE, "--budget", "0s"], "above 0"),
        ([*TUNE, "--also", "p99"], "--also: got 'p99'; allowed: pPERCENTILE=LIMIT"),
        ([*TUNE, "--devices", "cuda"], "--devices: got 'cuda'; allowed: cpu, or cpu,cuda"),
        ([*TUNE, "--policy", "kairos"], "--policy: got 'kairos'; allowed: a policy of the cores"),
        ([*TUNE, "--search", "girdle"], "halving, grid, hill-climb or optuna"),
        ([*TUNE, "--delay", "1ms"], "none of these policies waits"),
        ([*TUNE, "--threads", "2"], "a query is split over workers instead"),
        ([*TUNE, "--resume"], "--resume: no finished stage in "),
        ([*TUNE, "--ids", "zipf"], "zipf:ALPHA"),
        ([*TUNE, "--ids", "reuse:/nowhere/stats.txt"], "/nowhere/stats.txt"),
        ([*TUNE, "--data", "x", "--ids", "zipf:1"], "--ids: the rows of --data bring their own"),
        (["tune", "preset:dlrm-rmc1", "--scale", "inf", "--sla", "p95=10ms"], "finite"),
    ],
)
def test_bad_words_get_one_clear_line_and_leave_nothing(
    words: list[str], said: str, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert main([*words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tailrank: error: ")
    assert error.count("\n") == 1, error
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_artifact_is_refused(model: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tables = broken / "tables.safetensors"
    tables.write_bytes(tables.read_bytes()[:-4])
    code = main(["tune", str(broken), "--sla", "p95=10ms", "--out", str(tmp_path / "out")])
    assert code == 2
    assert "tables.safetensors: damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_is_not_touched_unasked(model: Path, capsys) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in model.iterdir())
    words = ["train", "dlrm", "--data", "synthetic:rows=7000", "--out", str(model)]
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in model.iterdir()) == before
