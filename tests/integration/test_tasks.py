"""Two tasks from files to a served model: every verb names each, and says what one lacks."""

import json
from pathlib import Path

import pytest
import torch
from tests.unit.data.adult_files import people, write_adult

from tailrank.cli import main
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.inference import load
from tailrank.reporting.report_data import ReportData
from tailrank.reporting.result import read_result

SIZES = ["--bottom-mlp", "8", "--top-mlp", "4", "--embedding-dim", "6", "--epochs", "3"]
QUICK = [*SIZES, "--batch-items", "64", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Countries tell one label, ages the other."""
    place = tmp_path_factory.mktemp("adult")
    return write_adult(place, people(1400), people(300, dot="."))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of both tasks, and one of the first."""
    both, income = (tmp_path_factory.mktemp("runs") / name for name in ("both", "income"))
    words = ["train", "mt_wide_and_deep", "--data", f"adult:{folder}", *QUICK]
    assert main([*words, "--refit", "--out", str(both), "--task-weights", "1,0.5"]) == 0
    assert main([*words, "--out", str(income), "--tasks", "income"]) == 0
    return both, income


def test_a_run_has_the_metrics_of_each_task(trained) -> None:
    both, income = (read_result(run / "result.json").metrics for run in trained)
    for name in ("auc_test", "logloss_test", "num_rows_test", "auc_validation"):
        assert {f"income.{name}", f"never_married.{name}"} <= both.keys()
        assert name in income
    each = [both[f"{task}.auc_validation"] for task in ("income", "never_married")]
    assert both["auc_validation"] == pytest.approx(sum(each) / 2)
    assert "auc_test" not in both
    page = (trained[0] / "report.html").read_text()
    assert "(income)" in page
    assert "(never_married)" in page
    assert {row.task for row in ReportData.load(trained[0]).score_counts} == {
        "income",
        "never_married",
    }


def test_rankers_give_a_column_for_each_task(trained, folder: Path) -> None:
    dataset = open_dataset(f"adult:{folder}", DataSettings(embedding_dim=6), fitted=trained[0])
    batch, _ = next(iter(dataset.batches(("test",), 16)))
    scores = [load(trained[0], device=device)[0].rank(batch) for device in ("cpu", "eager")]
    assert scores[0].shape == (16, 2)
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-6)
    assert load(trained[1])[0].rank(batch).shape == (16,)


def test_evaluate_and_export_judge_each_task(trained, folder: Path, tmp_path: Path, capsys) -> None:
    words = [str(trained[0]), "--data", f"adult:{folder}", "--json"]
    assert main(["evaluate", *words]) == 0
    judged = json.loads(capsys.readouterr().out)["metrics"]
    tested = read_result(trained[0] / "result.json").metrics
    assert judged["never_married.auc_test"] == pytest.approx(tested["never_married.auc_test"])
    out = ["--out", str(tmp_path / "int4"), "--precision", "rows=int4", "--max-auc-drop", "0.9"]
    assert main(["export", *words, *out]) == 0
    printed = capsys.readouterr()
    metrics = json.loads(printed.out)["metrics"]
    drops = {
        task: 1.0 - metrics[f"{task}.auc_test"] / metrics[f"{task}.auc_test_fp32"]
        for task in ("income", "never_married")
    }
    assert metrics["auc_drop_fraction"] == pytest.approx(max(drops.values()))
    assert f"AUC of {max(drops, key=drops.get)}, which loses most, on the test" in printed.err


def test_runs_are_compared_by_the_tasks_that_they_share(trained, tmp_path: Path, capsys) -> None:
    assert main(["compare", *map(str, trained), "--resamples", "100", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert {"both.auc", "income.auc", "income.auc_difference"} <= metrics.keys()
    other = tmp_path / "other"
    other.mkdir()
    for file in trained[0].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    out = tmp_path / "compared"
    words = ["compare", str(trained[0]), str(other), "--resamples", "100", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["other.never_married.auc_difference"] == 0.0
    assert "never_married AUC" in (out / "report.html").read_text()


def test_a_model_of_one_task_wants_to_know_which(folder: Path, tmp_path: Path, capsys) -> None:
    words = ["train", "dlrm", "--data", f"adult:{folder}", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "--tasks: dlrm predicts one task, and the data have income, never_married" in said
    assert main([*words, "--tasks", "incom"]) == 2
    assert "did you mean 'income'?" in capsys.readouterr().err
    assert main([*words, "--tasks", "income", "--dry-run"]) == 0


def test_a_task_of_one_class_in_the_test_has_no_auc_and_says_so(
    folder: Path, tmp_path: Path, capsys
) -> None:
    poor = [row.replace(">50K", "<=50K") for row in people(300, dot=".")]
    place = write_adult(tmp_path / "adult", people(1400), poor)
    words = ["train", "mt_wide_and_deep", "--data", f"adult:{place}", *SIZES]
    assert main([*words, "--out", str(tmp_path / "run"), "--json"]) == 0
    printed = capsys.readouterr()
    metrics = json.loads(printed.out)["metrics"]
    assert "income.auc_test" not in metrics
    assert "never_married.auc_test" in metrics
    assert "test part: AUC of income is undefined: all 300 rows have label 0" in printed.err
