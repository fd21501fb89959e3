"""Clipping and L2 of one step, against whole-table arithmetic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.embeddings import Pooled
from tailrank.features import SIDES, FeatureBatch, Labels
from tailrank.kernels import native
from tailrank.kernels.sparse_update import kernels_for
from tailrank.models import RankingModel, build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep, loss_of

DATASET = SyntheticDataset(SyntheticConfig(rows=7 * 8 * 60, num_embeddings=400, seed=5))
SGD = TrainingConfig(dense_optimizer="sgd", table_optimizer="sgd", lr=0.5, table_lr=2.0)


def model_and_batch() -> tuple[RankingModel, FeatureBatch, Labels]:
    model = build_model(DLRMConfig(spec=DATASET.spec, bottom_mlp=(8, 16), top_mlp=(16, 1)), 3)
    batch, labels = next(iter(DATASET.batches(("train",), 64)))
    return model, batch, labels


def dense_gradients(
    model: RankingModel, batch: FeatureBatch, labels: Labels
) -> tuple[Tensor, list[Tensor]]:
    """What autograd gives for whole tables and for dense parameters, after one backward pass."""
    weight_VD = model.tables.weight_VD.detach().clone().requires_grad_()
    pooled = []
    for side in SIDES:
        features = getattr(batch, side)
        shape = (features.num_rows, len(DATASET.spec.sparse(side)), -1)
        ids_L = model.tables.merged_ids(features, side)
        bags = F.embedding_bag(ids_L, weight_VD, features.offsets[:-1], mode="sum")
        pooled.append(bags.view(shape))
    parameters = [weight_VD, *model.dense_parameters()]
    loss = loss_of(model.score(batch, Pooled(*pooled)), labels)
    gradients = torch.autograd.grad(loss, parameters)
    return gradients[0], list(gradients[1:])


def rows_read(model: RankingModel, batch: FeatureBatch) -> np.ndarray:
    ids = [model.tables.merged_ids(getattr(batch, side), side).numpy() for side in SIDES]
    return np.unique(np.concatenate(ids))


@pytest.mark.parametrize("clip_norm", [0.02, 0.1, 100.0])
def test_clipping_is_that_of_torch_on_a_model_of_dense_gradients(clip_norm: float) -> None:
    model, batch, labels = model_and_batch()
    table_grad_VD, gradients = dense_gradients(model, batch, labels)
    before = [model.tables.weight_VD.detach().clone()]
    before += [parameter.detach().clone() for parameter in model.dense_parameters()]
    stand_ins = [torch.nn.Parameter(value.clone()) for value in before]
    for stand_in, gradient in zip(stand_ins, [table_grad_VD, *gradients], strict=True):
        stand_in.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(stand_ins, clip_norm)
    step = TrainStep(model, TrainingConfig(**{**SGD.to_dict(), "clip_norm": clip_norm}))
    step(batch, labels)
    assert step.gradient_norm == pytest.approx(float(norm), rel=1e-5)
    after = [model.tables.weight_VD.detach(), *(p.detach() for p in model.dense_parameters())]
    for rate, old, new, stand_in in zip([2.0] + [0.5] * 99, before, after, stand_ins, strict=False):
        torch.testing.assert_close(new - old, -rate * stand_in.grad, rtol=1e-4, atol=1e-7)
    assert (clip_norm < norm) == (clip_norm < 1.0), "one limit binds and one does not"


@pytest.mark.parametrize("table_optimizer", ["sgd", "rowwise_adagrad"])
def test_l2_pulls_at_the_rows_that_were_read_each_once(table_optimizer: str) -> None:
    model, batch, labels = model_and_batch()
    read_K = rows_read(model, batch)
    assert len(read_K) < batch.item.num_ids + batch.user.num_ids, "some row is read twice"
    before_VD = model.tables.weight_VD.detach().numpy().copy()
    total_VD = dense_gradients(model, batch, labels)[0].numpy().astype(np.float64)
    total_VD[read_K] += 0.3 * before_VD[read_K]
    expected_VD = before_VD.astype(np.float64)
    if table_optimizer == "sgd":
        expected_VD -= 2.0 * total_VD
    else:
        scale_V = 2.0 / (np.sqrt((total_VD**2).mean(axis=1)) + 1e-10)
        expected_VD -= scale_V[:, None] * total_VD
    config = {**SGD.to_dict(), "table_optimizer": table_optimizer, "table_l2": 0.3}
    TrainStep(model, TrainingConfig(**config))(batch, labels)
    after_VD = model.tables.weight_VD.detach().numpy()
    np.testing.assert_allclose(after_VD[read_K], expected_VD[read_K], rtol=1e-4, atol=1e-5)
    others = np.setdiff1d(np.arange(len(after_VD)), read_K)
    assert len(others) > 0
    assert (after_VD[others].view(np.uint32) == before_VD[others].view(np.uint32)).all()


def test_both_rates_follow_the_schedule_where_tables_are_to() -> None:
    model = model_and_batch()[0]
    for tables_too, expected in ((False, 2.0), (True, 1.0)):
        config = TrainingConfig(**{**SGD.to_dict(), "schedule_tables": tables_too})
        step = TrainStep(model, config)
        step.scale_rates(0.5)
        assert step.dense.param_groups[0]["lr"] == 0.25
        assert step.tables.lr == expected


def test_a_gradient_that_is_not_finite_is_blamed_on_the_rate() -> None:
    model, batch, labels = model_and_batch()
    with torch.no_grad():
        model.dense_parameters()[0][0, 0] = torch.inf
    step = TrainStep(model, TrainingConfig(clip_norm=1.0))
    with pytest.raises(ConfigError, match=r"lr: .* no longer finite"):
        step(batch, labels)


@pytest.mark.parametrize("table_optimizer", ["rowwise_adagrad", "amsgrad"])
def test_steps_without_native_kernels_are_the_same(table_optimizer: str, monkeypatch) -> None:
    """All that a step can ask of the rows: clipping, L2, their mean."""
    settings = {"table_optimizer": table_optimizer, "table_l2": 0.01, "clip_norm": 0.05}
    config = TrainingConfig(lr=0.01, average_fraction=0.5, **settings)
    ends = []
    for reason in (native.why_unavailable(), "as if they were not installed"):
        monkeypatch.setattr(native, "_REASON", reason)
        model, batch, labels = model_and_batch()
        assert (kernels_for(model.tables.weight_VD) == "torch") == (reason is not None)
        step = TrainStep(model, config)
        for _ in range(5):
            step(batch, labels)
        with step.averaged():
            mean_VD = model.tables.weight_VD.detach().clone()
        ends.append([model.tables.weight_VD.detach(), mean_VD, *step.tables.state().values()])
    for mine, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
