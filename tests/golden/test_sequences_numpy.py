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
    "dien": ("dien", {"top_mlp": (5,), "activation": "dice", "auxiliary": 0.7}),
    "dien-narrow": ("dien", {"hidden": 2, "top_mlp": (5,), "activation": "prelu", "auxiliary": 0}),
}
# Logits of seed 7, moved as `moved` does. They pin the initial weights too: whoever changes those
# changes what every published seed means.
GOLDEN_LOGITS = {
    "mean_pooling": [0.248546, -0.371365, 0.841482, 2.781273, 0.688465, 2.808651, 2.610122],
    "din-dice": [0.16063, 0.292686, -0.311629, 0.848998, 0.301391, 0.630552, 0.824098],
    "din-prelu": [-1.000698, -3.895757, -0.680529, -0.458053, -1.232415, -0.965485, -0.271361],
    "dien": [2.624209, 2.470423, 2.486607, 2.177732, 2.086209, 2.368423, 2.372731],
    "dien-narrow": [-0.185451, -0.13087, 0.262909, -0.230421, -0.559836, -0.031274, -0.170146],
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


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


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
        """PReLU and Dice, section 5.2 of the DIN paper."""
        if f"{name}.weight" in self.state:
            return np.where(s > 0, s, self.state[f"{name}.weight"] * s)
        alpha, mean, variance = (
            self.state[f"{name}.{part}"] for part in ("alpha_M", "mean_M", "variance_M")
        )
        if self.training:
            mean, variance = s.mean(axis=0), ((s - s.mean(axis=0)) ** 2).mean(axis=0)
        p = sigmoid((s - mean) / np.sqrt(variance + 1e-8))
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
        """Section 4.3: sum of a(e_j, v_A) e_j, the weights a not normalised."""
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

    def gated(self, name: str, x: np.ndarray, h: np.ndarray, a: float = 1.0) -> np.ndarray:
        """The next state of a GRU, or with `a` of an AUGRU."""
        weight, bias = (self.state[f"{name}.inputs.0.{part}"] for part in ("weight", "bias"))
        width = len(h)
        of_x, of_h = weight @ x + bias, self.state[f"{name}.recurrent.0.weight"] @ h
        u, r = (sigmoid(of_x[k] + of_h[k]) for k in (slice(width), slice(width, 2 * width)))
        candidate = np.tanh(of_x[2 * width :] + r * of_h[2 * width :])
        return (1 - a * u) * h + a * u * candidate

    def interest_states(self, user: int) -> list[np.ndarray]:
        states = [np.zeros(self.config.hidden)]
        for e in self.behaviours(user):
            states.append(self.gated("extraction", e, states[-1]))
        return states[1:]

    def dien_interests(self) -> np.ndarray:
        """A softmax of h_t W e_a over the states scales the updates of the AUGRU."""
        interests = []
        for item, user in enumerate(USERS):
            states = self.interest_states(user)
            wanted = self.state["attention.weight"] @ self.candidate(item)
            shares = np.exp([h @ wanted for h in states])
            final = np.zeros(self.config.hidden)
            for h, share in zip(states, shares, strict=True):
                final = self.gated("evolution", h, final, share / shares.sum())
            interests.append(final)
        return np.array(interests)

    def auxiliary(self) -> float:
        """Mean of -log s(h_t e_t+1) - log(1 - s(h_t e')), e' half a batch of behaviours away."""
        places = [(user, t) for user in range(4) for t in range(len(CLICKS[user]))]
        rows = [self.behaviours(user)[t] for user, t in places]
        losses = []
        for number, (user, t) in enumerate(places):
            if t + 1 == len(CLICKS[user]):
                continue
            other = rows[(number + 1 + len(rows) // 2) % len(rows)]
            if (other == rows[number + 1]).all():
                continue
            h = self.interest_states(user)[t]
            losses.append(-np.log(sigmoid(h @ rows[number + 1])) - np.log(sigmoid(-h @ other)))
        return float(np.mean(losses))

    def top_inputs(self) -> np.ndarray:
        architecture = self.case.split("-")[0]
        made = {"din": self.din_interests, "dien": self.dien_interests}
        interests = made[architecture]() if architecture in made else None
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


def test_the_auxiliary_loss_equals_the_numpy_statement() -> None:
    model, batch = moved("dien"), make_batch()
    with torch.inference_mode():
        found = model.score_and_auxiliary(batch, model.embed(batch))[1]
        without = moved("dien-narrow").score_and_auxiliary(batch, model.embed(batch))[1]
    assert without is None
    expected = 0.7 * Statement("dien", model, True).auxiliary()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1


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
            indices = list(np.ndindex(*weight.shape))
            for index in indices[:: 1 + len(indices) // 30]:  # all of most, a spread of large ones
                value, losses = float(weight[index]), []
                for move in (1e-6, -1e-6):
                    weight[index] = value + move
                    losses.append(loss())
                weight[index] = value
                expected.append((weight, index, value, (losses[0] - losses[1]) / 2e-6))
    settings = TrainingConfig(lr=1.0, table_lr=1.0, dense_optimizer="sgd", table_optimizer="sgd")
    TrainStep(model, settings)(batch, labels)
    assert sum(abs(slope) > 1e-6 for *_, slope in expected) > len(expected) / 2
    for weight, index, value, slope in expected:
        assert value - weight[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
