"""NCF from the authors' files to a model that starts from two others, by the command line."""

from pathlib import Path

import pytest
from tests.integration.verbs import run_json
from tests.unit.data.ncf_files import write_ncf


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("ncf")
    write_ncf(folder, num_users=30, likes=(20, 35))
    return f"ncf:{folder}"


def train(capsys, data: str, out: Path, *words: str) -> tuple[int, dict]:
    quick = ["--epochs", "6", "--batch-items", "64", "--lr", "0.02", "--patience", "6"]
    return run_json(capsys, "train", "ncf", "--data", data, "--out", str(out), *quick, *words)


def test_neumf_starts_from_a_trained_gmf_and_mlp(data: str, tmp_path: Path, capsys) -> None:
    parts = [tmp_path / "gmf", tmp_path / "mlp"]
    for part, dim in zip(parts, ("8", "16"), strict=True):
        words = ("--size", f"variant={part.name}", "--embedding-dim", dim)
        code, result = train(capsys, data, part, *words)
        assert code == 0
        assert result["config"]["recipe"]["pretrained"] == []
        # Ten of 21 candidates are a user's best, and a third of all items are such as it likes.
        assert result["metrics"]["hit_rate_at_10_test"] > 0.8
    both = ",".join(map(str, parts))
    words = ("--embedding-dim", "24", "--pretrained", both)
    code, result = train(capsys, data, tmp_path / "neumf", *words)
    assert code == 0
    assert result["config"]["recipe"]["pretrained"] == list(map(str, parts))
    assert result["config"]["recipe"]["training"]["table_optimizer"] == "sgd"
    assert result["metrics"]["hit_rate_at_10_test"] > 0.8
    code, again = run_json(capsys, "evaluate", str(tmp_path / "neumf"), "--data", data)
    assert code == 0
    assert again["metrics"]["ndcg_at_10_test"] == result["metrics"]["ndcg_at_10_test"]


def test_models_that_are_no_parts_are_refused_before_training(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = train(capsys, data, tmp_path / "gmf", "--size", "variant=gmf", "--embedding-dim", "4")
    assert code == 0
    from tailrank.cli import main

    common = ["train", "ncf", "--data", data, "--out", str(tmp_path / "out"), "--quiet"]
    for words, said in (
        (["--pretrained", str(tmp_path / "gmf")], "two models: a GMF, then an MLP"),
        (["--pretrained", f"{tmp_path}/gmf,{tmp_path}/nowhere"], "nowhere"),
        (["--pretrained", f"{tmp_path}/gmf,{tmp_path}/nowhere", "--dry-run"], "nowhere"),
        (["--embedding-dim", "13"], "a multiple of 3 for neumf"),
    ):
        assert main([*common, *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    # Before rows are read, which may take minutes.
    no_data = ["train", "ncf", "--data", f"ncf:{tmp_path}/no-data", "--out", str(tmp_path / "out")]
    assert main([*no_data, "--pretrained", f"{tmp_path}/gmf,{tmp_path}/nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
