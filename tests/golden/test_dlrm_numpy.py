"""DLRM's forward against an independent NumPy statement, written from the paper alone."""

import numpy as np
import pytest
import torch

from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig

# Logits of seed 7 on the batch below, by interaction. They pin the initial weights too: whoever
# changes those changes what every published seed means.
GOLDEN_FIRST_LOGITS = {
    "dot": [0.9724747, 1.0389594, 1.0719693, 0.7828106, 0.9036064],
    "cat": [0.1501955, 0.2027984, 0.1913877, 0.1077501, 0.270428],
}


def make_spec() -> FeatureSpec:
    return FeatureSpec(
        features=(
            Feature(name="age", side="user", kind="dense", width=2),
            Feature(name="price", side="item", kind="dense", width=3),
            Feature(name="history", side="user", kind="bag", table="items"),
            Feature(name="item", side="item", kind="bag", table="items"),
            Feature(name="genres", side="item", kind="bag", table="genres"),
        ),
        tables=(
            TableSpec(name="genres", num_embeddings=5, embedding_dim=4),
            TableSpec(name="items", num_embeddings=11, embedding_dim=4),
        ),
    )


def make_batch() -> FeatureBatch:
    rng = np.random.default_rng(3)
    floats = lambda *shape: torch.from_numpy(rng.normal(size=shape).astype(np.float32))  # noqa: E731
    user = SideFeatures(
        dense_RN=floats(2, 2),
        values_L=torch.tensor([3, 3, 10, 0]),
        offsets=torch.tensor([0, 4, 4]),  # the second user has no history
    )
    item = SideFeatures(
        dense_RN=floats(5, 3),
        values_L=torch.tensor([0, 4, 1, 10, 2, 0, 0, 5, 7, 3]),
        offsets=torch.tensor([0, 1, 3, 4, 5, 6, 7, 8, 8, 9, 10]),
    )
    return FeatureBatch(user=user, item=item, item_to_user_B=torch.tensor([0, 0, 0, 1, 1]))


def numpy_logits(model: torch.nn.Module, batch: FeatureBatch, interaction: str) -> np.ndarray:
    """One item at a time, one bag at a time, in float64."""
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    stacked = state["tables.weight_VD"]
    genres, items = stacked[:5], stacked[5:]

    def layers(x, prefix, last_linear):
        names = sorted(n for n in state if n.startswith(prefix) and n.endswith("weight"))
        for position, name in enumerate(names):
            x = state[name] @ x + state[name.replace("weight", "bias")]
            if not (last_linear and position == len(names) - 1):
                x = np.maximum(x, 0.0)
        return x

    def bag(side, row, column, width, table):
        offsets = side.offsets.numpy()
        ids = side.values_L.numpy()[
            offsets[row * width + column] : offsets[row * width + column + 1]
        ]
        return sum((table[i] for i in ids), np.zeros(4))

    logits = []
    for row, user in enumerate(batch.item_to_user_B.tolist()):
        dense = np.concatenate(
            [batch.user.dense_RN[user].numpy(), batch.item.dense_RN[row].numpy()]
        )
        bottom = layers(dense.astype(np.float64), "bottom", False)
        vectors = [
            bottom,
            bag(batch.user, user, 0, 1, items),
            bag(batch.item, row, 0, 2, items),
            bag(batch.item, row, 1, 2, genres),
        ]
        if interaction == "dot":
            pairs = [vectors[i] @ vectors[j] for i in range(4) for j in range(i)]
            top_input = np.concatenate([bottom, pairs])
        else:
            top_input = np.concatenate(vectors)
        logits.append(layers(top_input, "top", True)[0])
    return np.array(logits)


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_forward_equals_the_numpy_statement(interaction: str) -> None:
    config = DLRMConfig(
        spec=make_spec(), bottom_mlp=(6, 4), top_mlp=(7, 3, 1), interaction=interaction
    )
    model = build_model(config, seed=7)
    with torch.inference_mode():
        logits = model(make_batch()).squeeze(1).numpy()
    np.testing.assert_allclose(logits, numpy_logits(model, make_batch(), interaction), rtol=1e-5)
    np.testing.assert_allclose(logits, GOLDEN_FIRST_LOGITS[interaction], rtol=1e-5)
