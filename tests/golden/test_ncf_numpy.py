"""GMF, MLP and NeuMF against a NumPy statement of the paper's equations, one pair at a time."""

import numpy as np
import pytest
import torch

from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.models import build_model
from tailrank.models.registry import config_for

# Logits of seed 7 with tables times 50. They pin the initial weights too: whoever changes those
# changes what every published seed means.
GOLDEN_LOGITS = {
    "gmf": [-0.064258, -0.142292, -0.144758, 0.064108, 0.096733],
    "mlp": [-0.034094, -0.032042, 0.079083, -0.051633, 0.065823],
    "neumf": [0.046703, -0.009043, -0.004956, 0.01683, 0.003534],
}
DIM = {"gmf": 4, "mlp": 8, "neumf": 12}  # four factors each
USERS, ITEMS, TO_USER = [2, 0], [6, 0, 3, 6, 1], [0, 0, 0, 1, 1]


def make_model(variant: str) -> torch.nn.Module:
    spec = FeatureSpec(
        features=(
            Feature(name="user", side="user", kind="bag", table="users"),
            Feature(name="item", side="item", kind="bag", table="items"),
        ),
        tables=(
            TableSpec(name="users", num_embeddings=3, embedding_dim=DIM[variant]),
            TableSpec(name="items", num_embeddings=7, embedding_dim=DIM[variant]),
        ),
    )
    model = build_model(config_for("ncf", spec, {"variant": variant}), seed=7)
    with torch.no_grad():
        model.tables.weight_VD.mul_(50.0)
    return model


def one_id(ids: list[int]) -> SideFeatures:
    return SideFeatures(
        dense_RN=torch.zeros(len(ids), 0),
        values_L=torch.tensor(ids),
        offsets=torch.arange(len(ids) + 1),
    )


def stated(variant: str, state: dict[str, np.ndarray], user: int, item: int) -> float:
    """Equations 8 (GMF), 10 (MLP) and 12 (NeuMF) before the sigmoid, with the output's bias."""
    p, q = state["tables.weight_VD"][user], state["tables.weight_VD"][3 + item]
    factors = {"gmf": 4, "mlp": 0, "neumf": 4}[variant]
    last = list(p[:factors] * q[:factors])
    if variant != "gmf":
        z = np.concatenate([p[factors:], q[factors:]])
        first = np.hstack([state["tower.user.0.weight"], state["tower.item.0.weight"]])
        weights = [first, state["tower.rest.0.weight"], state["tower.rest.2.weight"]]
        assert [weight.shape for weight in weights] == [(16, 16), (8, 16), (4, 8)]
        for name, weight in zip(("item.0", "rest.0", "rest.2"), weights, strict=True):
            z = np.maximum(weight @ z + state[f"tower.{name}.bias"], 0.0)
        last += list(z)
    return float(state["last.0.weight"][0] @ np.array(last) + state["last.0.bias"][0])


@pytest.mark.parametrize("variant", GOLDEN_LOGITS)
def test_logits_equal_the_equations_and_the_golden_values(variant: str) -> None:
    model = make_model(variant)
    batch = FeatureBatch(
        user=one_id(USERS), item=one_id(ITEMS), item_to_user_B=torch.tensor(TO_USER)
    )
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    expected = [stated(variant, state, USERS[u], i) for u, i in zip(TO_USER, ITEMS, strict=True)]
    logits = model(batch).detach().squeeze(1).tolist()
    assert logits == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert logits == pytest.approx(GOLDEN_LOGITS[variant], rel=1e-4)


def test_weights_start_as_the_released_code_draws_them() -> None:
    spec = FeatureSpec(
        features=(
            Feature(name="user", side="user", kind="bag", table="t"),
            Feature(name="item", side="item", kind="bag", table="t"),
        ),
        tables=(TableSpec(name="t", num_embeddings=4000, embedding_dim=96),),
    )
    model = build_model(config_for("ncf", spec, {}), seed=3)
    rows = model.tables.weight_VD
    assert float(rows.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(rows.std()) == pytest.approx(0.01, rel=0.01)
    weights = {name: value for name, value in model.state_dict().items() if "tables" not in name}
    assert {name: tuple(value.shape) for name, value in weights.items() if "weight" in name} == {
        "tower.user.0.weight": (128, 64),
        "tower.item.0.weight": (128, 64),
        "tower.rest.0.weight": (64, 128),
        "tower.rest.2.weight": (32, 64),
        "last.0.weight": (1, 64),
    }
    for name, (num_in, num_out) in {
        "user.0": (128, 128),
        "item.0": (128, 128),
        "rest.0": (128, 64),
        "rest.2": (64, 32),
    }.items():
        std = float(weights[f"tower.{name}.weight"].std())
        assert std == pytest.approx(np.sqrt(2.0 / (num_in + num_out)), rel=0.05)
    bound = np.sqrt(3.0 / 64)
    assert 0.9 * bound < float(weights["last.0.weight"].abs().max()) <= bound
    assert not any(value.any() for name, value in weights.items() if name.endswith("bias"))
