"""DeepFM against an independent NumPy statement: every pair of the machine, and the layers."""

from itertools import combinations

import numpy as np
import torch
from tests.golden.test_yardsticks_numpy import (
    assert_step_follows_differences,
    bag,
    make_batch,
    make_spec,
)

from tailrank.features import FeatureBatch
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import config_for

# Logits of seed 7, moved as `perturbed` does: they pin the initial weights too.
GOLDEN_LOGITS = [3.343063, -1.519245, 1.743663, 3.672334, 3.814616]


def perturbed() -> RankingModel:
    """Seed 7, with the weights that start at zero or near it moved away."""
    spec = make_spec("factorization_machine")
    model = build_model(config_for("deepfm", spec, {"top_mlp": (6, 4)}), seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for weight in (*model.dense_parameters(), model.tables.weight_VD):
            weight.add_(0.5 * torch.randn(weight.shape, generator=generator))
    return model


def numpy_machine(model: RankingModel, batch: FeatureBatch, row: int) -> float:
    """Bias, linear part and every pair of bags of one item, in float64."""
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    user, rows = int(batch.item_to_user_B[row]), state["tables.weight_VD"]
    bags = [
        bag(batch.user, user, 0, 1, rows[5:]),
        bag(batch.item, row, 0, 2, rows[5:]),
        bag(batch.item, row, 1, 2, rows[:5]),
    ]
    dense = np.concatenate([batch.user.dense_RN[user].numpy(), batch.item.dense_RN[row].numpy()])
    logit = state["bias"] + dense @ state["weight_ND"][:, 0] + sum(vector[0] for vector in bags)
    return float(logit + sum(one[1:] @ other[1:] for one, other in combinations(bags, 2)))


def numpy_deep(model: RankingModel, batch: FeatureBatch, row: int) -> float:
    """The deep part of one item, in float64."""
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    user, factors = int(batch.item_to_user_B[row]), state["tables.weight_VD"][:, 1:]
    genres, items = factors[:5], factors[5:]
    inputs = np.concatenate(
        [
            bag(batch.user, user, 0, 1, items),
            batch.user.dense_RN[user].numpy(),
            bag(batch.item, row, 0, 2, items),
            bag(batch.item, row, 1, 2, genres),
            batch.item.dense_RN[row].numpy(),
        ]
    )
    first = np.hstack([state["deep.user.0.weight"], state["deep.item.0.weight"]])
    hidden = np.maximum(first @ inputs + state["deep.item.0.bias"], 0)
    hidden = np.maximum(state["deep.rest.0.weight"] @ hidden + state["deep.rest.0.bias"], 0)
    return float((state["deep.rest.2.weight"] @ hidden + state["deep.rest.2.bias"])[0])


def test_forward_equals_the_numpy_statement() -> None:
    model, batch = perturbed(), make_batch("factorization_machine")
    with torch.inference_mode():
        logits = model(batch).squeeze(1).numpy()
    expected = [
        numpy_machine(model, batch, row) + numpy_deep(model, batch, row) for row in range(5)
    ]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)


def test_a_step_follows_the_finite_differences() -> None:
    batch = make_batch("factorization_machine", torch.float64)
    assert_step_follows_differences(perturbed().double(), batch)
