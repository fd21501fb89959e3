"""Models of sequences against independent NumPy statements, written from the papers alone."""

import numpy as np
import pytest
import torch

from tailrank.features import Feature, FeatureBatch, FeatureSpec, Labels, SideFeatures, TableSpec
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import config_for
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep, loss_of

SPEC = FeatureSpec(
    features=(
        Feature(name="age", side="user", kind="dense", width=2),
        Feature(name="clicks", side="user", kind="sequence", table="items"),
        Feature(name="country", side="user", kind="bag", table="countries"),
        Feature(name="shops", side="user", kind="sequence", table="shops"),
        Feature(name="price", side="item", kind="dense", width=1),
        Feature(name="shop", side="item", kind="bag", table="shops"),
        Feature(name="item", side="item", kind="bag", table="items"),
    ),
    tables=tuple(
        TableSpec(name=name, num_embeddings=rows, embedding_dim=3)
        for name, rows in (("countries", 3), ("items", 7), ("shops", 4))
    ),
)
FIRST = {"countries": 0, "items": 3, "shops": 10}
# Users: three behaviours, none, one, two. The first has three candidates, the others one or two.
CLICKS, SHOPS = [[1, 6, 1], [], [4], [0, 5]], [[0, 3, 0], [], [2], [1, 1]]
COUNTRIES, AGES = [[0], [2, 1], [1], []], [[0.3, -1.0], [1.2, 0.4], [0.0, 0.9], [-0.7, 0.1]]
USERS, ITEMS, SHOP_OF_ITEM = [0, 0, 0, 1, 2, 3, 3], [6, 2, 0, 3, 4, 5, 1], [3, 1, 0, 2, 2, 1, 3]
PRICES = [0.5, -0.2, 1.5, 0.1, -1.1, 0.7, 0.0]

CASES = {
    "mean_pooling": ("mean_pooling", {"top_mlp": (5,), "activation": "dice"}),
    "din-dice": ("din", {"attention_mlp": (5, 4), "top_mlp": (6, 5), "activation": "dice"}),
    "din-prelu": ("din", {"attention_mlp": (4,), "top_mlp": (6,), "activation": "prelu"}),
}
# Logits of seed 7, moved as `moved` does. They pin the initial weights too: whoever changes those
# changes what every published seed means.
GOLDEN_LOGITS = {
    "mean_pooling": [0.248546, -0.371365, 0.841482, 2.781273, 0.688465, 2.808651, 2.610122],
    "din-dice": [0.16063, 0.292686, -0.311629, 0.848998, 0.301391, 0.630552, 0.824098],
    "din-prelu": [-1.000698, -3.895757, -0.680529, -0.458053, -1.232415, -0.965485, -0.271361],
}


def make_batch(dtype: torch.dtype = torch.float32) -> FeatureBatch:
    bags = [b for row in zip(CLICKS, COUNTRIES, SHOPS, strict=True) for b in row]
    offsets = np.cumsum([0, *(len(bag) for bag in bags)])
    user = SideFeatures(
        dense_RN=torch.tensor(AGES, dtype=dtype),
        values_L=torch.tensor([i for bag in bags for i in bag]),
        offsets=torch.from_numpy(offsets),
    )
    pairs = [i for pair in zip(SHOP_OF_ITEM, ITEMS, strict=True) for i in pair]
    item = SideFeatures(
        dense_RN=torch.tensor(PRICES, dtype=dtype).unsqueeze(1),
        values_L=torch.tensor(pairs),
        offsets=torch.arange(len(pairs) + 1),
    )
    return FeatureBatch(user=user, item=item, item_to_user_B=torch.tensor(USERS))


def moved(case: str) -> RankingModel:
    """Seed 7, with what starts at zero or near it moved away."""
    architecture, sizes = CASES[case]
    model = build_model(config_for(architecture, SPEC, sizes), seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for value in (*model.dense_parameters(), model.tables.weight_VD):
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
        for value in model.statistics():
            value.add_(torch.rand(value.shape, generator=generator))
    return model


class Statement:
    """The papers' formulas in float64, user by user and behaviour by behaviour."""

    def __init__(self, case: str, model: RankingModel, training: bool) -> None:
        self.case, self.training = case, training
        state = model.state_dict().items()
        self.state = {name: value.numpy().astype(np.float64) for name, value in state}
        self.config = model.config

    def row(self, table: str, index: int) -> np.ndarray:
        return self.state["tables.weight_VD"][FIRST[table] + index]

    def behaviours(self, user: int) -> np.ndarray:
        rows = [
            np.concatenate([self.row("items", i), self.row("shops", s)])
            for i, s in zip(CLICKS[user], SHOPS[user], strict=True)
        ]
        return np.array(rows).reshape(len(rows), 6)

    def candidate(self, item: int) -> np.ndarray:
        return np.concatenate(
            [self.row("items", ITEMS[item]), self.row("shops", SHOP_OF_ITEM[item])]
        )

    def activation(self, name: str, s: np.ndarray) -> np.ndarray:
        """Equations 2 (PReLU) and 3 (Dice) of the DIN paper."""
        if f"{name}.weight" in self.state:
            return np.where(s > 0, s, self.state[f"{name}.weight"] * s)
        alpha, mean, variance = (
            self.state[f"{name}.{part}"] for part in ("alpha_M", "mean_M", "variance_M")
        )
        if self.training:
            mean, variance = s.mean(axis=0), ((s - s.mean(axis=0)) ** 2).mean(axis=0)
        p = 1 / (1 + np.exp(-(s - mean) / np.sqrt(variance + 1e-8)))
        return p * s + (1 - p) * alpha * s

    def stack(self, name: str, x: np.ndarray) -> np.ndarray:
        """The layers of a stack in turn."""
        number = 0
        while any(key.startswith(f"{name}.{number}.") for key in self.state):
            weight = self.state.get(f"{name}.{number}.weight", np.zeros(1))
            if weight.ndim == 2:
                x = x @ weight.T + self.state[f"{name}.{number}.bias"]
            else:
                x = self.activation(f"{name}.{number}", x)
            number += 1
        return x

    def din_interests(self) -> np.ndarray:
        """Equation 5: sum of a(e_j, v_A) e_j, the weights a not normalised."""
        pairs = [(i, e) for i, user in enumerate(USERS) for e in self.behaviours(user)]
        inputs = []
        for item, e in pairs:
            v = self.candidate(item)
            inputs.append(np.concatenate([e, v, e - v, e * v]))
        weight, bias = (self.state[f"attention.first.{part}"] for part in ("weight", "bias"))
        hidden = np.array(inputs) @ weight.T + bias
        interests = np.zeros((len(USERS), 6))
        for (item, e), a in zip(pairs, self.stack("attention.rest", hidden)[:, 0], strict=True):
            interests[item] += a * e
        return interests

    def top_inputs(self) -> np.ndarray:
        interests = self.din_interests() if self.case.startswith("din") else None
        rows = []
        for item, user in enumerate(USERS):
            country = sum((self.row("countries", c) for c in COUNTRIES[user]), np.zeros(3))
            if interests is None:
                mean = self.behaviours(user).sum(axis=0) / max(1, len(CLICKS[user]))
                parts = [mean[:3], country, mean[3:], AGES[user]]
            else:
                parts = [country, AGES[user], interests[item]]
            candidate = self.candidate(item)
            rows.append(np.concatenate([*parts, candidate[3:], candidate[:3], [PRICES[item]]]))
        return np.array(rows)

    def logits(self) -> np.ndarray:
        first = [self.state[f"top.{side}.0.weight"] for side in ("user", "item")]
        hidden = self.top_inputs() @ np.concatenate(first, axis=1).T + self.state["top.item.0.bias"]
        return self.stack("top.rest", self.activation("top.between", hidden))[:, 0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_forward_equals_the_numpy_statement(case: str, training: bool) -> None:
    model = moved(case)
    expected = Statement(case, model, training).logits()
    with torch.inference_mode():
        logits = model.train(training)(make_batch()).squeeze(1).numpy()
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-6)
    if not training:
        np.testing.assert_allclose(logits, GOLDEN_LOGITS[case], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_step_follows_the_finite_differences(case: str) -> None:
    model, batch = moved(case).double(), make_batch(torch.float64)
    labels = Labels(values_BT=torch.tensor([[1.0, 0, 0, 1, 0, 1, 0]]).double().T)
    weights = [*model.dense_parameters(), model.tables.weight_VD]

    def loss() -> float:
        logits_BT, auxiliary = model.score_and_auxiliary(batch, model.embed(batch))
        return float(loss_of(logits_BT, labels) + (0.0 if auxiliary is None else auxiliary))

    expected = []
    with torch.no_grad():
        for weight in weights:
            slope = torch.zeros_like(weight)
            for index in np.ndindex(*weight.shape):
                value, losses = float(weight[index]), []
                for move in (1e-6, -1e-6):
                    weight[index] = value + move
                    losses.append(loss())
                weight[index] = value
                slope[index] = (losses[0] - losses[1]) / 2e-6
            expected.append(slope)
    before = [weight.detach().clone() for weight in weights]
    settings = TrainingConfig(lr=1.0, table_lr=1.0, dense_optimizer="sgd", table_optimizer="sgd")
    TrainStep(model, settings)(batch, labels)
    assert sum(float(slope.abs().max()) > 1e-4 for slope in expected) >= len(expected) - 1
    for weight, old, slope in zip(weights, before, expected, strict=True):
        torch.testing.assert_close(old - weight.detach(), slope, rtol=1e-5, atol=1e-8)
