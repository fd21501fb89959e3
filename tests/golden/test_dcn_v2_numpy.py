"""DCN-V2 against an independent NumPy statement, written from the paper alone."""

import numpy as np
import pytest
import torch
from tests.golden.test_yardsticks_numpy import (
    assert_step_follows_differences,
    bag,
    make_batch,
    make_spec,
)

from tailrank.core.errors import ConfigError
from tailrank.features import FeatureBatch
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import config_for, config_from_dict, config_to_dict

# Sizes, and logits of seed 7, moved as `perturbed` does: they pin the initial weights too.
GOLDEN = {
    "stacked": (
        {"top_mlp": (6, 4), "num_crosses": 3},
        [0.599056, 4.70987, 1.114494, 1.502979, 1.52854],
    ),
    "parallel": (
        {"top_mlp": (6, 4), "structure": "parallel"},
        [6.346261, 15.403593, 3.457424, -0.271216, 0.074243],
    ),
    "low rank": (
        {"top_mlp": (6,), "rank": 2, "structure": "parallel"},
        [1.345227, -2.35784, -0.461934, 0.247156, -0.427526],
    ),
    "crosses alone": (
        {"top_mlp": (), "num_crosses": 1},
        [2.235946, -0.096988, 3.842623, 1.810157, 1.641569],
    ),
}


def perturbed(sizes: dict[str, object]) -> RankingModel:
    """Seed 7, with the tables, which start near zero, moved away."""
    config = config_for("dcn_v2", make_spec("factorization_machine"), sizes)
    assert config_from_dict(config_to_dict(config)) == config
    model = build_model(config, seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        model.tables.weight_VD.normal_(0.0, 0.5, generator=generator)
    return model


def numpy_logit(model: RankingModel, batch: FeatureBatch, row: int) -> float:
    """One item, in float64."""
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    genres, items = state["tables.weight_VD"][:5], state["tables.weight_VD"][5:]
    user = int(batch.item_to_user_B[row])
    x_0 = np.concatenate(
        [
            bag(batch.user, user, 0, 1, items),
            batch.user.dense_RN[user].numpy(),
            bag(batch.item, row, 0, 2, items),
            bag(batch.item, row, 1, 2, genres),
            batch.item.dense_RN[row].numpy(),
        ]
    )

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        """A layer by its name; one with a user's half by that of its part."""
        if f"{name}.user.0.weight" in state:
            weight = np.hstack([state[f"{name}.user.0.weight"], state[f"{name}.item.0.weight"]])
            return weight @ x + state[f"{name}.item.0.bias"]
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    x = x_0
    for index in range(model.config.num_crosses):
        mapped = linear(f"down.{index}" if index == 0 else f"down.{index}.0", x)
        if model.config.rank is not None:
            mapped = linear(f"up.{index}.0", mapped)
        x = x_0 * mapped + x
    hidden_layers = len(model.config.top_mlp) - 1
    if model.config.structure == "parallel":
        hidden = np.maximum(linear("deep", x_0), 0)
        for index in range(hidden_layers - 1):
            hidden = np.maximum(linear(f"deep.rest.{2 * index}", hidden), 0)
        return float(linear("top.0", np.concatenate([x, hidden]))[0])
    for index in range(hidden_layers):
        x = np.maximum(linear(f"top.{2 * index}", x), 0)
    return float(linear(f"top.{2 * hidden_layers}", x)[0])


@pytest.mark.parametrize("name", GOLDEN)
def test_forward_equals_the_numpy_statement(name: str) -> None:
    sizes, golden = GOLDEN[name]
    model, batch = perturbed(sizes), make_batch("factorization_machine")
    with torch.inference_mode():
        logits = model(batch).squeeze(1).numpy()
    expected = [numpy_logit(model, batch, row) for row in range(5)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, golden, rtol=1e-5)


@pytest.mark.parametrize("name", ["stacked", "low rank"])
def test_a_step_follows_the_finite_differences(name: str) -> None:
    batch = make_batch("factorization_machine", torch.float64)
    assert_step_follows_differences(perturbed(GOLDEN[name][0]).double(), batch)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"top_mlp": (), "structure": "parallel"}, "a hidden layer or more"),
        ({"structure": "side by side"}, "stacked or parallel"),
        ({"num_crosses": 0}, "at least 1"),
        ({"rank": 0}, "at least 1"),
        ({"top_mlp": (0,)}, "positive widths"),
    ],
)
def test_a_wrong_size_is_refused(sizes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for("dcn_v2", make_spec("factorization_machine"), sizes)
