"""The yardstick models against independent NumPy statements, written from the papers alone."""

from itertools import combinations

import numpy as np
import pytest
import torch

from tailrank.features import Feature, FeatureBatch, FeatureSpec, Labels, SideFeatures, TableSpec
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import config_for
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep, loss_of

# Logits of seed 7, moved as `perturbed` does. They pin the initial weights too: whoever changes
# those changes what every published seed means.
GOLDEN_LOGITS = {
    "logistic_regression": [0.105724, -1.642681, -0.101862, 0.073056, -2.177029],
    "matrix_factorization": [-0.599706, 0.622119, 0.554229, 0.135638, -0.572478],
    "factorization_machine": [16.88744, -0.688041, 14.188773, -0.53427, -0.837965],
}
DIM = {"logistic_regression": 1, "matrix_factorization": 4, "factorization_machine": 4}


def make_spec(architecture: str) -> FeatureSpec:
    dim = DIM[architecture]
    bags = (
        Feature(name="history", side="user", kind="bag", table="items"),
        Feature(name="item", side="item", kind="bag", table="items"),
    )
    items = TableSpec(name="items", num_embeddings=11, embedding_dim=dim)
    if architecture == "matrix_factorization":
        return FeatureSpec(features=bags, tables=(items,))
    return FeatureSpec(
        features=(
            Feature(name="age", side="user", kind="dense", width=2),
            Feature(name="price", side="item", kind="dense", width=3),
            *bags,
            Feature(name="genres", side="item", kind="bag", table="genres"),
        ),
        tables=(TableSpec(name="genres", num_embeddings=5, embedding_dim=dim), items),
    )


def make_batch(architecture: str, dtype: torch.dtype = torch.float32) -> FeatureBatch:
    rng = np.random.default_rng(3)
    few = architecture == "matrix_factorization"
    floats = lambda *shape: torch.from_numpy(rng.normal(size=shape)).to(dtype)  # noqa: E731
    user = SideFeatures(
        dense_RN=floats(2, 0 if few else 2),
        values_L=torch.tensor([3, 3, 10, 0]),
        offsets=torch.tensor([0, 4, 4]),  # the second user has no history
    )
    values = torch.tensor([0, 4, 1, 10, 2, 0, 0, 5, 7, 3])
    offsets = torch.tensor([0, 1, 3, 4, 5, 6, 7, 8, 8, 9, 10])
    if few:
        values, offsets = torch.tensor([0, 10, 2, 0, 5]), torch.tensor([0, 1, 2, 3, 3, 5])
    item = SideFeatures(dense_RN=floats(5, 0 if few else 3), values_L=values, offsets=offsets)
    return FeatureBatch(user=user, item=item, item_to_user_B=torch.tensor([0, 0, 0, 1, 1]))


def perturbed(architecture: str) -> RankingModel:
    """Seed 7, with the weights that start at zero or near it moved away."""
    model = build_model(config_for(architecture, make_spec(architecture), {}), seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        model.tables.weight_VD.mul_(50.0)
        for parameter in (*model.dense_parameters(), model.tables.weight_VD[:, 0]):
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def bag(side: SideFeatures, row: int, column: int, width: int, table: np.ndarray) -> np.ndarray:
    first, last = side.offsets.numpy()[row * width + column :][:2]
    return sum((table[i] for i in side.values_L.numpy()[first:last]), np.zeros(table.shape[1]))


def variables(architecture: str, model: torch.nn.Module, batch: FeatureBatch, row: int):
    """(x, weight row) of every variable of one item: bags count as x = 1; and the bias."""
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    stacked, user = state["tables.weight_VD"], int(batch.item_to_user_B[row])
    if architecture == "matrix_factorization":
        bags = [bag(batch.user, user, 0, 1, stacked), bag(batch.item, row, 0, 1, stacked)]
        return [(1.0, vector) for vector in bags], state["bias"]
    genres, items = stacked[:5], stacked[5:]
    dense = np.concatenate([batch.user.dense_RN[user].numpy(), batch.item.dense_RN[row].numpy()])
    weights = state["weight_ND"] if "weight_ND" in state else state["weight_N"][:, None]
    found = list(zip(dense.astype(np.float64), weights, strict=True))
    found.append((1.0, bag(batch.user, user, 0, 1, items)))
    found.append((1.0, bag(batch.item, row, 0, 2, items)))
    found.append((1.0, bag(batch.item, row, 1, 2, genres)))
    return found, state["bias"]


def numpy_logit(architecture: str, model: torch.nn.Module, batch: FeatureBatch, row: int) -> float:
    """Bias, linear part and every pair of variables one by one, in float64."""
    found, logit = variables(architecture, model, batch, row)
    for x, weight in found:
        logit = logit + x * weight[0]
    for (x, one), (y, other) in combinations(found, 2):
        logit = logit + x * y * (one[1:] @ other[1:])  # no factor, no pair: logistic regression
    return float(logit)


@pytest.mark.parametrize("architecture", sorted(GOLDEN_LOGITS))
def test_forward_equals_the_numpy_statement(architecture: str) -> None:
    model, batch = perturbed(architecture), make_batch(architecture)
    with torch.inference_mode():
        logits = model(batch).squeeze(1).numpy()
    expected = [numpy_logit(architecture, model, batch, row) for row in range(5)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, GOLDEN_LOGITS[architecture], rtol=1e-5)


@pytest.mark.parametrize("architecture", sorted(GOLDEN_LOGITS))
def test_a_step_follows_the_finite_differences(architecture: str) -> None:
    batch = make_batch(architecture, torch.float64)
    assert_step_follows_differences(perturbed(architecture).double(), batch)


LABELS = Labels(values_BT=torch.tensor([[1.0], [0.0], [0.0], [1.0], [0.0]]).double())


def assert_step_follows_differences(
    model: RankingModel,
    batch: FeatureBatch,
    labels: Labels = LABELS,
    task_weights: tuple[float, ...] | None = None,
) -> None:
    weights = [*model.dense_parameters(), model.tables.weight_VD]
    expected = []
    with torch.no_grad():
        for weight in weights:
            slope = torch.zeros_like(weight)
            for index in np.ndindex(*weight.shape):
                value, losses = float(weight[index]), []
                for side in (1e-6, -1e-6):
                    weight[index] = value + side
                    losses.append(float(loss_of(model(batch), labels, task_weights)))
                weight[index] = value
                slope[index] = (losses[0] - losses[1]) / 2e-6
            expected.append(slope)
    before = [weight.detach().clone() for weight in weights]
    settings = TrainingConfig(
        lr=1.0,
        table_lr=1.0,
        dense_optimizer="sgd",
        table_optimizer="sgd",
        task_weights=task_weights,
    )
    TrainStep(model, settings)(batch, labels)
    for weight, old, slope in zip(weights, before, expected, strict=True):
        assert slope.abs().max() > 1e-3
        torch.testing.assert_close(old - weight.detach(), slope, rtol=1e-6, atol=1e-8)
