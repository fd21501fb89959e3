"""`tailrank export` as a user types it: what it keeps, chooses and refuses."""

import json
import re
import tempfile
from pathlib import Path

import pytest
import torch
from tests.integration.verbs import charts, run_json

from tailrank.cli import main
from tailrank.core.errors import BackendUnavailable
from tailrank.reporting.report_data import ReportData
from tailrank.reporting.result import read_result


def test_an_export_without_both_classes_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    log, schema = tmp_path / "t.csv", tmp_path / "schema.toml"
    text = [f"{int(row % 2 and row < 60)},{row % 3},{row % 5}\n" for row in range(70)]
    log.write_text("y,a,b\n" + "".join(text))
    schema.write_text('label = "y"\n[[feature]]\nname = "a"\n[[feature]]\nname = "b"\n')
    data, run = f"table:{log}", str(tmp_path / "run")
    words = ["train", "dlrm", "--data", data, "--schema", str(schema), "--out", run, "--quiet"]
    assert main(words) == 0
    said = "AUC is undefined: all 10 rows have label 0, and ranking needs both"
    assert said in capsys.readouterr().err
    # A later log of any length can be scored as a whole, whatever its labels are.
    (tmp_path / "later.csv").write_text("y,a,b\n1,2,3\n\n")
    later = ["evaluate", run, "--data", f"table:{tmp_path}/later.csv"]
    code, result = run_json(capsys, *later, "--split", "all")
    assert (code, result["metrics"]["num_rows_all"]) == (0, 1)
    assert "auc_all" not in result["metrics"]
    assert main([*later, "--split", "all"]) == 0
    said = f"columns lie in nameless files in {tempfile.gettempdir()} (see TMPDIR) meanwhile"
    assert said in capsys.readouterr().out
    assert main([*later, "--split", "train"]) == 2
    assert "no train rows: 1 rows are too few to cut into three" in capsys.readouterr().err
    words = ["export", run, "--precision", "rows=bf16", "--data", data]
    assert main([*words, "--out", str(tmp_path / "b"), "--quiet"]) == 2
    assert "both classes" in capsys.readouterr().err


def test_export_keeps_quality_or_refuses(model: Path, tmp_path: Path, capsys) -> None:
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    out = tmp_path / "bf16"
    words = ["export", str(model), "--precision", "rows=bf16", "--data", data, "--out", str(out)]
    code, result = run_json(capsys, *words, "--max-auc-drop", "0.01")
    assert code == 0
    assert result["metrics"]["auc_drop_fraction"] <= 0.01
    assert charts(out / "report.html")[0] == "reliability"
    code, evaluated = run_json(capsys, "evaluate", str(out), "--data", data)
    assert code == 0
    assert evaluated["metrics"]["auc_test"] == pytest.approx(
        result["metrics"]["auc_test"], abs=1e-4
    )
    assert main([*words, "--overwrite"]) in (0, 3)
    refused = tmp_path / "refused"
    words[-1] = str(refused)
    # fp32 to fp32 drops nothing and passes even a bound of zero.
    words[words.index("rows=bf16")] = "fp32"
    assert main([*words, "--max-auc-drop", "0"]) == 0


def test_an_export_that_ranks_worse_is_refused(
    model: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    def ruin(rows_VD: torch.Tensor, row_format: str, first_row: int) -> torch.Tensor:
        return torch.randn(rows_VD.shape, generator=torch.Generator().manual_seed(0)).bfloat16()

    monkeypatch.setattr("tailrank.inference.table_file.write_rows", ruin)
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    out = tmp_path / "refused"
    words = ["export", str(model), "--precision", "rows=bf16", "--data", data, "--out", str(out)]
    code, result = run_json(capsys, *words)
    assert code == 3
    assert result["metrics"]["auc_drop_fraction"] > 0.001
    assert main([*words, "--quiet"]) == 3
    assert re.search(r"a drop of \d+\.\d+%, of 0\.1000% allowed", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_search_says_which_precisions_it_left_out_and_why(
    model: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise BackendUnavailable("no such instructions")

    monkeypatch.setattr("tailrank.training.quality_gate.load", refuse)
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    out = tmp_path / "auto"
    words = ["export", str(model), "--precision", "auto", "--data", data, "--out", str(out)]
    assert main(words) == 0
    assert "rows=int4,dense=bf16: not tried, no such instructions" in capsys.readouterr().out
    assert len(read_result(out / "result.json").config["unavailable"]) == 11


def test_an_exported_model_is_evaluated_by_the_ranker_that_serves_it(
    model: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    words = ["export", str(model), "--precision", "dense=bf16", "--data", data]
    assert main([*words, "--out", str(tmp_path / "bf16"), "--max-auc-drop", "0.5"]) == 0

    def half(self, batch):
        return torch.full((batch.num_items,), 0.5)

    monkeypatch.setattr("tailrank.inference.cpu.CpuRanker.rank", half)
    _, exported = run_json(capsys, "evaluate", str(tmp_path / "bf16"), "--data", data)
    assert exported["metrics"]["auc_test"] == 0.5
    _, trained = run_json(capsys, "evaluate", str(model), "--data", data)
    assert trained["metrics"]["auc_test"] != 0.5


def test_export_finds_the_fastest_precision_that_passes(
    model: Path, tmp_path: Path, capsys
) -> None:
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    out = tmp_path / "fastest"
    words = ["export", str(model), "--precision", "auto", "--data", data, "--out", str(out)]
    code, result = run_json(capsys, *words, "--max-auc-drop", "0.01")
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["fastest"]
    metrics, chosen = result["metrics"], result["config"]["precision"]
    speedups = {
        name.partition(".")[0]: value
        for name, value in metrics.items()
        if name.endswith(".speedup_over_fp32")
        and metrics[name.replace("speedup_over_fp32", "auc_drop_fraction")] <= 0.01
    }
    rows, dense = json.loads((out / "model.json").read_text())["precision"].values()
    assert metrics["speedup_over_fp32"] == speedups[f"rows_{rows}_dense_{dense}"]
    assert 1.03 * metrics["speedup_over_fp32"] >= max(speedups.values()) >= 1
    assert metrics["rows_int8_dense_fp32.table_bytes"] < metrics["rows_fp32_dense_fp32.table_bytes"]
    table = ReportData.load(out).precisions
    assert [row.precision for row in table if row.chosen] == [chosen]
    assert len(table) + len(result["config"]["unavailable"]) == 12


def test_a_search_that_is_interrupted_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tailrank.training.precision_search.time_rankers", interrupt)
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    words = ["export", str(model), "--precision", "auto", "--data", data]
    assert main([*words, "--out", str(tmp_path / "never")]) == 130
    assert list(tmp_path.iterdir()) == []
