"""`tailrank compare`: runs on the same rows side by side, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from tailrank.cli import main
from tailrank.metrics import BinaryMetrics
from tailrank.reporting.report_data import ReportData
from tailrank.training.scores import load_scores, save_scores

DATA = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"


def train(out: Path, *more: str, data: str = DATA) -> Path:
    assert main(["train", "dlrm", "--data", data, "--out", str(out), "--quiet", *more]) == 0
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    # One step and few columns against a whole run: the data is the same, the models are not.
    poor = train(folder / "poor", "--batch-items", "5000", "--epochs", "1", "--embedding-dim", "2")
    return poor, train(folder / "good", "--epochs", "4")


def test_the_better_model_is_surely_better(runs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "compared"
    words = ["compare", *map(str, runs), "--resamples", "200", "--out", str(out), "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result == json.loads((out / "result.json").read_text())
    low, high = result["intervals"]["good.auc_difference"]
    difference = result["metrics"]["good.auc"] - result["metrics"]["poor.auc"]
    assert 0.0 < low < difference < high
    assert result["metrics"]["good.auc_difference"] == pytest.approx(difference)
    assert result["intervals"]["good.logloss_difference"][1] < 0.0
    assert "good.grouped_auc_difference" in result["metrics"]
    assert "better" in printed.err
    columns = ReportData.load(out)
    assert [row.run for row in columns.runs] == ["poor", "good"]
    assert [curve.name for curve in columns.learning_curves] == ["poor", "good"]
    assert (out / "report.html").stat().st_size > 0


def test_a_model_and_its_rounded_export_differ_by_no_sure_amount(
    runs, tmp_path: Path, capsys
) -> None:
    _, good = runs
    rounded = tmp_path / "rounded"
    words = ["export", str(good), "--precision", "rows=bf16", "--data", DATA]
    assert main([*words, "--out", str(rounded), "--max-auc-drop", "0.5", "--quiet"]) == 0
    assert main(["compare", str(good), str(rounded), "--resamples", "100"]) == 0
    assert "unclear" in capsys.readouterr().out


def test_runs_of_any_name_are_compared(runs, tmp_path: Path, capsys) -> None:
    good = tmp_path / "My-Runs" / "good"
    shutil.copytree(runs[1], good)
    poor = tmp_path / "1. Versuch"
    shutil.copytree(runs[0], poor)
    words = ["compare", *map(str, (poor, good, runs[1])), "--resamples", "100", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    names = dict(zip(result["config"]["runs"].values(), result["config"]["runs"], strict=True))
    assert list(names) == [str(poor), str(good), str(runs[1])]
    for run in (good, runs[1]):
        assert f"{names[str(run)]}.auc_difference" in result["metrics"]
    words = ["compare", str(poor), str(runs[1]), "--resamples", "100", "--json"]
    assert main(words) == 0
    assert "1_versuch.auc" in json.loads(capsys.readouterr().out)["metrics"]


def test_rows_of_one_class_are_compared_by_what_they_have(runs, tmp_path: Path, capsys) -> None:
    folders = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for folder in folders:
        scored, fingerprint = load_scores(folder)
        (rows,), clicked = scored.values(), BinaryMetrics()
        clicked.update(rows.scores, rows.labels * 0, rows.groups)
        save_scores(folder, {"label": clicked}, fingerprint)
    assert main(["compare", *map(str, folders), "--resamples", "100", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["metrics"].keys() == {
        *(f"{run}.{name}" for run in ("poor", "good") for name in ("logloss", "num_rows")),
        "good.logloss_difference",
    }
    assert "AUC is undefined: all 1,000 rows have label 0" in printed.err


def test_a_task_without_labels_leaves_the_other_to_be_compared(
    runs, tmp_path: Path, capsys
) -> None:
    folders = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for folder in folders:
        scored, fingerprint = load_scores(folder)
        save_scores(folder, {"clicked": scored["label"], "bought": BinaryMetrics()}, fingerprint)
    assert main(["compare", *map(str, folders), "--resamples", "100", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)["metrics"]
    differences = {name for name in found if name.endswith("_difference")}
    assert "good.clicked.auc_difference" in differences
    assert not [name for name in differences if "bought" in name]
    assert "every metric of bought is undefined" in printed.err


def test_other_data_is_refused(runs, tmp_path: Path, capsys) -> None:
    other = train(tmp_path / "other", data=DATA.replace("seed=3", "seed=4"))
    assert main(["compare", str(runs[0]), str(other)]) == 2
    assert "other data" in capsys.readouterr().err


def test_what_is_not_two_trained_models_is_refused(runs, tmp_path: Path, capsys) -> None:
    assert main(["compare", str(runs[0])]) == 2
    assert "two or more" in capsys.readouterr().err
    assert main(["compare", str(runs[0]), str(runs[0])]) == 2
    assert "is named twice" in capsys.readouterr().err
    assert main(["compare", str(runs[0]), str(tmp_path)]) == 2
    assert "no test_scores.parquet in it" in capsys.readouterr().err
