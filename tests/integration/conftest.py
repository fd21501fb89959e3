"""Fixtures of several verbs."""

from pathlib import Path

import pytest

from tailrank.cli import main


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model; tests leave its folder as it is."""
    path = tmp_path_factory.mktemp("runs") / "model"
    data = "synthetic:rows=7000,items_per_user=10,num_embeddings=50,seed=3"
    code = main(["train", "dlrm", "--data", data, "--out", str(path), "--epochs", "1"])
    assert code == 0
    return path
