"""The running mean of weights, against all weights kept and weighed as the definition says."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.metrics import MetricValues
from tailrank.models import RankingModel, build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.models.mean_pooling import MeanPoolingConfig
from tailrank.training.checkpoint import load_checkpoint
from tailrank.training.config import TrainingConfig
from tailrank.training.evaluation import evaluate
from tailrank.training.loop import fit
from tailrank.training.step import TrainStep

DATASET = SyntheticDataset(SyntheticConfig(rows=7 * 8 * 60, num_embeddings=400, seed=5))


def small_model() -> RankingModel:
    return build_model(DLRMConfig(spec=DATASET.spec, bottom_mlp=(8, 16), top_mlp=(16, 1)), 3)


def model_with_statistics() -> RankingModel:
    return build_model(MeanPoolingConfig(spec=DATASET.spec, top_mlp=(8, 1), activation="dice"), 3)


def weights_of(model: RankingModel) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("asked_at", [set(), {1}, {4, 5, 13}])
@pytest.mark.parametrize("make_model", [small_model, model_with_statistics])
def test_it_is_the_mean_of_the_weights_after_each_step(
    fraction: float, asked_at: set, make_model, monkeypatch
) -> None:
    monkeypatch.setattr("tailrank.training.averaging._BLOCK_ROWS", 999)
    model = make_model()
    step = TrainStep(model, TrainingConfig(lr=0.1, average_fraction=fraction))
    after = []
    for number, (batch, labels) in enumerate(islice(DATASET.batches(("train",), 64), 20), 1):
        step(batch, labels)
        after.append(weights_of(model))
        if number in asked_at:  # asking in between changes nothing
            with step.averaged():
                pass
    share = torch.linspace(0.0, 1.0, 21, dtype=torch.float64).pow(1.0 / fraction).diff()
    expected = [
        (torch.stack(history).double() * share.view(-1, *[1] * history[0].dim())).sum(0).float()
        for history in zip(*after, strict=True)
    ]
    assert not torch.allclose(expected[0], after[-1][0], atol=1e-3)
    with step.averaged():
        assert_close(weights_of(model), expected)
    assert all(map(torch.equal, weights_of(model), after[-1]))


def test_training_goes_on_from_the_last_weights() -> None:
    plain, averaged = small_model(), small_model()
    steps = [
        TrainStep(model, TrainingConfig(lr=0.1, average_fraction=fraction))
        for model, fraction in ((plain, 0.0), (averaged, 0.2))
    ]
    for batch, labels in islice(DATASET.batches(("train",), 64), 10):
        losses = [step(batch, labels) for step in steps]
        assert losses[0] == losses[1]
        with steps[1].averaged():
            pass
    assert all(map(torch.equal, weights_of(plain), weights_of(averaged)))


def test_an_error_inside_leaves_the_last_weights() -> None:
    model = small_model()
    step = TrainStep(model, TrainingConfig(lr=0.1, average_fraction=0.5))
    for batch, labels in islice(DATASET.batches(("train",), 64), 3):
        step(batch, labels)
    before = weights_of(model)
    with pytest.raises(KeyboardInterrupt), step.averaged():
        raise KeyboardInterrupt
    assert all(map(torch.equal, weights_of(model), before))


def test_the_mean_is_judged_and_kept(tmp_path: Path) -> None:
    config = TrainingConfig(
        batch_items=64, epochs=2, lr=0.1, evaluate_every=20, average_fraction=0.3, patience=9
    )
    model = small_model()
    result = fit(model, DATASET, config, out=tmp_path)
    kept, _ = load_checkpoint(tmp_path / f"best-{result.best_step}.safetensors")
    assert kept.keys() == {f"model.{name}" for name in model.state_dict()}
    assert all(torch.equal(kept[f"model.{n}"], value) for n, value in model.state_dict().items())
    best = next(point for point in result.curve if point.step == result.best_step)
    found: MetricValues = evaluate(model, DATASET, ("validation",))["label"].compute()
    assert found.logloss == best.validation_logloss
    last = small_model()
    others = fit(last, DATASET, TrainingConfig(**{**config.to_dict(), "average_fraction": 0.0}))
    assert [p.train_logloss for p in others.curve] == [p.train_logloss for p in result.curve]
    assert [p.validation_auc for p in others.curve] != [p.validation_auc for p in result.curve]


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="average_fraction"):
        TrainingConfig(average_fraction=fraction)
