"""The yardstick models go the whole way: trained, evaluated, exported, tuned, as typed."""

import json
from pathlib import Path

import pytest
import torch
from tests.integration.verbs import with_time

from tailrank.cli import main
from tailrank.reporting.result import read_result

DATA = "synthetic:rows=14000,num_embeddings=20,seed=3"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "architecture", ["logistic_regression", "matrix_factorization", "factorization_machine"]
)
def test_a_yardstick_goes_the_whole_way(architecture: str, tmp_path: Path, capsys) -> None:
    run, served, tuned = tmp_path / "run", tmp_path / "served", tmp_path / "tuned"
    assert main(["train", architecture, "--data", DATA, "--out", str(run)]) == 0
    trained = read_result(run / "result.json").metrics
    assert trained["auc_test"] > 0.55
    words = ["--precision", "rows=bf16", "--data", DATA, "--max-auc-drop", "0.01"]
    assert main(["export", str(run), *words, "--out", str(served)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", DATA, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["metrics"]
    assert evaluated["auc_test"] == pytest.approx(trained["auc_test"], abs=1e-9)
    assert main(["evaluate", str(served), "--data", DATA]) == 0
    search = ["--sla", "p90=500ms", "--sizes", "fixed:20", "--workers", "1"]
    search += ["--policy", "static", "--out", str(tuned)]
    # 4: the machine was busy
    assert with_time(["tune", str(served), *search], 2, capsys) in (0, 4)
    assert read_result(tuned / "result.json").metrics["tuned.capacity_qps"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logistic_regression", "--top-mlp", "64-32"], "it has none"),
        (["logistic_regression", "--embedding-dim", "16"], "1: one weight per category"),
        (["matrix_factorization", "--features", "user_0,user_1,item_0"], "user_0, user_1"),
        (["matrix_factorization", "--interaction", "dot"], "it has none"),
        (["factorization_machine", "--embedding-dim", "1"], "at least 2"),
    ],
)
def test_what_a_yardstick_cannot_do_is_one_line(words, message, tmp_path: Path, capsys) -> None:
    assert main(["train", *words, "--data", DATA, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
