"""What a model derives from a batch is there before every lookup, whoever scores or trains."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailrank.core.files import replace_directory
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import FeatureBatch
from tailrank.inference import Ranker, load
from tailrank.inference.artifact import read_record, save_artifact
from tailrank.models import RankingModel, build_model
from tailrank.models.factorization_machine import FactorizationMachine
from tailrank.models.registry import config_for
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep

DATASET = SyntheticDataset(SyntheticConfig(rows=560, num_embeddings=20, embedding_dim=5))


def next_ids(batch: FeatureBatch) -> FeatureBatch:
    """Every item id but the last of its table becomes the next one."""
    values_L = (batch.item.values_L + 1).clamp(max=19)
    return replace(batch, item=replace(batch.item, values_L=values_L))


def make_model() -> RankingModel:
    return build_model(config_for("factorization_machine", DATASET.spec, {}), seed=1)


def ranker_of(name: str, path: Path) -> Ranker:
    if name != "cuda-interpreted":
        return load(path, device=name)[0]
    if torch.cuda.is_available():
        pytest.skip("Triton compiles here: a process has either its compiler or its interpreter")
    pytest.importorskip("triton", reason="Triton is not installed: the cuda ranker is NOT TESTED")
    from tailrank.inference.cuda import load_cuda

    return load_cuda(path, read_record(path), torch.device("cpu"))


@pytest.mark.parametrize("name", ["eager", "cpu", "cuda-interpreted"])
def test_every_ranker_prepares_before_it_looks_up(name: str, tmp_path: Path, monkeypatch) -> None:
    with replace_directory(tmp_path / "model") as folder:
        save_artifact(folder, make_model(), training={})
    batch, _ = next(iter(DATASET.batches(("test",), 4)))
    expected = ranker_of(name, tmp_path / "model").rank(next_ids(batch))
    monkeypatch.setattr(FactorizationMachine, "prepare", lambda self, batch: next_ids(batch))
    assert torch.equal(ranker_of(name, tmp_path / "model").rank(batch), expected)
    assert not torch.equal(next_ids(batch).item.values_L, batch.item.values_L)


def test_a_step_trains_on_what_was_prepared(monkeypatch) -> None:
    batch, labels = next(iter(DATASET.batches(("train",), 64)))
    expected, model = make_model(), make_model()
    TrainStep(expected, TrainingConfig())(next_ids(batch), labels)
    monkeypatch.setattr(FactorizationMachine, "prepare", lambda self, batch: next_ids(batch))
    TrainStep(model, TrainingConfig())(batch, labels)
    assert torch.equal(model.tables.weight_VD, expected.tables.weight_VD)
