"""From data to a tested model: learns what can be learned, writes whole folders, resumes."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tailrank.cli import main
from tailrank.core.files import locked_directory
from tailrank.data.registry import open_dataset
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.inference.ranker import load_model
from tailrank.kernels.sparse_update import kernels_for
from tailrank.training.evaluation import evaluate
from tailrank.training.procedure import train_and_test
from tailrank.training.recipe import RECIPES

SMALL = "synthetic:rows=5600,num_embeddings=40"


@pytest.mark.parametrize("seed", [0, 1])
def test_synthetic_labels_are_learned_within_two_hundredths(seed: int) -> None:
    dataset = SyntheticDataset(SyntheticConfig(seed=seed))
    trained = train_and_test(dataset, RECIPES["dlrm", "synthetic"])
    assert trained is not None
    metrics = trained.metrics()
    assert metrics["auc_attainable"] - 0.02 < metrics["auc_test"] < metrics["auc_attainable"]
    assert metrics["normalised_entropy_test"] < 0.82
    assert 0.9 < metrics["calibration_test"] < 1.1


def test_refit_scores_the_test_with_the_refitted_model(tmp_path: Path) -> None:
    dataset = SyntheticDataset(SyntheticConfig(rows=5600, num_embeddings=40))
    trained = train_and_test(
        dataset, RECIPES["dlrm", "synthetic"], refit=True, checkpoints=tmp_path
    )
    assert trained is not None
    assert trained.refit is not None
    assert trained.refit.step == trained.recipe.training.steps
    again = evaluate(trained.model, dataset, ("test",))["label"]
    assert again.compute() == trained.test.compute()
    assert json.loads(json.dumps(trained.record()))["refit"]["step"] == trained.refit.step


def test_train_writes_an_artifact_that_evaluate_reproduces(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    command = ["train", "dlrm", "--data", SMALL, "--out", str(out), "--seed", "3", "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((out / "result.json").read_text())
    assert {"auc_test", "auc_attainable", "logloss_test", "train_samples_per_s"} <= set(
        result["metrics"]
    )
    assert result["config"]["table_kernels"] == kernels_for(torch.zeros(1, 1))
    assert result["seed"] == result["config"]["recipe"]["training"]["seed"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    for name in result["artifacts"]:
        assert Path(name).is_file()
    assert main(["evaluate", str(out), "--data", SMALL, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["metrics"]
    assert again["auc_test"] == result["metrics"]["auc_test"]
    assert again["logloss_test"] == result["metrics"]["logloss_test"]
    _, record = load_model(out)
    assert record.training["metrics"]["auc_test"] == again["auc_test"]


def criteo_file(path: Path, rows: int = 350) -> Path:
    generator = torch.Generator().manual_seed(0)
    lines = []
    for _ in range(rows):
        draws = torch.randint(0, 9, (40,), generator=generator).tolist()
        fields = [str(draws[0] % 2), *map(str, draws[1:14]), *(f"{d:08x}" for d in draws[14:])]
        lines.append("\t".join(fields))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_criteo_model_keeps_its_vocabulary(tmp_path: Path, capsys) -> None:
    log, out = criteo_file(tmp_path / "log.tsv"), tmp_path / "run"
    data = f"criteo:{log}"
    assert main(["train", "dlrm", "--data", data, "--refit", "--out", str(out), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    # Another file than it was trained on: only the stored vocabulary can give its ids.
    tail = tmp_path / "tail.tsv"
    tail.write_text("".join(log.read_text().splitlines(keepends=True)[-70:]))
    assert main(["evaluate", str(out), "--data", f"criteo:{tail}", "--json"]) == 0
    assert main(["evaluate", str(out), "--data", data, "--json"]) == 0
    lines = capsys.readouterr().out
    assert json.loads(lines[lines.rindex("\n{") :])["metrics"]["auc_test"] == metrics["auc_test"]
    (out / "vocabulary.safetensors").write_bytes(b"spoiled")
    assert main(["evaluate", str(out), "--data", data]) == 2
    assert "vocabulary" in capsys.readouterr().err


def test_ctrl_c_saves_and_resume_ends_as_if_nothing_happened(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    settings = ["train", "dlrm", "--data", SMALL, "--batch-items", "64", "--refit", "--json"]
    assert main([*settings, "--out", str(whole)]) == 0
    expected = json.loads(capsys.readouterr().out)["metrics"]

    from tailrank.training.step import TrainStep

    plain, calls = TrainStep.__call__, iter(range(10_000))

    def interrupted(self, batch, labels):
        if next(calls) == 20:
            signal.raise_signal(signal.SIGINT)
        return plain(self, batch, labels)

    monkeypatch.setattr(TrainStep, "__call__", interrupted)
    assert main([*settings, "--out", str(out)]) == 130
    assert "--resume" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(TrainStep, "__call__", plain)
    assert main([*settings, "--out", str(out)]) == 2  # neither --resume nor --overwrite
    assert "--resume" in capsys.readouterr().err
    with locked_directory(tmp_path / "run.checkpoint", "--out"):
        assert main([*settings, "--out", str(out), "--resume"]) == 2
        assert f"process {os.getpid()} on " in capsys.readouterr().err
    assert main([*settings, "--out", str(out), "--resume", "--top-mlp", "9"]) == 2
    assert "--resume: sizes is {'top_mlp': [9]" in capsys.readouterr().err
    assert main([*settings, "--out", str(out), "--resume"]) == 0
    resumed = json.loads(capsys.readouterr().out)["metrics"]
    del expected["train_samples_per_s"], resumed["train_samples_per_s"]
    assert resumed == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "whole"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "criteo:nowhere.tsv"], "nowhere.tsv: No such file"),
        (["--data", "parquet:x"], "--data"),
        (["--data", SMALL, "--lr", "-1"], "lr"),
        (["--data", SMALL, "--bottom-mlp", "64x32"], "--bottom-mlp"),
        (["--data", SMALL, "--size", "top_mlp=64x32"], "--size top_mlp: got '64x32'"),
        (["--data", SMALL, "--size", "top=64"], "bottom_mlp, top_mlp, interaction"),
        (["--data", SMALL, "--size", "top_mlp"], "NAME=VALUE"),
        (["--data", SMALL, "--top-mlp", "8", "--size", "top_mlp=8"], "each size once"),
        (["--data", SMALL, "--resume"], "--resume"),
        (["--data", "synthetic:num_embeddings=4000000000"], "memory"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys, arguments: list[str], message: str
) -> None:
    assert main(["train", "dlrm", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_not_overwritten(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["train", "dlrm", "--data", SMALL, "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_evaluate_refuses_other_data(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["train", "dlrm", "--data", SMALL, "--out", str(out)]) == 0
    assert main(["evaluate", str(out), "--data", "synthetic:rows=5600,num_embeddings=41"]) == 2
    assert "features" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--data", "criteo:x.tsv"]) == 2
    assert "synthetic:" in capsys.readouterr().err


def test_the_real_log_is_learned(shared_data: Path) -> None:
    recipe = RECIPES["dlrm", "criteo"]
    path = shared_data / "criteo_kaggle" / "train.tsv"
    dataset = open_dataset(f"criteo:{path}", recipe.data)
    trained = train_and_test(dataset, recipe, refit=True)
    assert trained is not None
    metrics = trained.metrics()
    assert metrics["auc_test"] > 0.757
    assert metrics["logloss_test"] < 0.490
