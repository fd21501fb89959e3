"""Wide & Deep against an independent NumPy statement, written from the paper alone."""

from itertools import product

import numpy as np
import pytest
import torch
from tests.golden.test_yardsticks_numpy import (
    assert_step_follows_differences,
    make_batch,
    make_spec,
)

from tailrank.features import FeatureBatch
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import config_for

# Logits of seed 7, moved as `perturbed` does. They pin the initial weights too: whoever changes
# those changes what every published seed means.
GOLDEN_LOGITS = [-5.038384, 0.706384, -2.871681, 2.236441, 1.86155]
# Two whose tables have a row for every combination, and one of 605 combinations that is hashed.
CROSSES = (("history", "genres"), ("item", "genres"), ("history", "item", "genres"))
ROWS = {"history": 11, "item": 11, "genres": 5}
SIZES = {"top_mlp": (6, 4), "crosses": CROSSES, "cross_rows": 60}


def perturbed(**sizes: object) -> RankingModel:
    """Seed 7, with the weights that start at zero or near it moved away."""
    config = config_for("wide_and_deep", make_spec("factorization_machine"), SIZES | sizes)
    model = build_model(config, seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for weight in (*model.dense_parameters(), model.tables.weight_VD):
            weight.add_(0.5 * torch.randn(weight.shape, generator=generator))
    return model


def bags_of(batch: FeatureBatch, row: int) -> dict[str, list[int]]:
    """Ids of one item and its user, by feature."""
    user = int(batch.item_to_user_B[row])
    bounds = [(batch.user, user), (batch.item, 2 * row), (batch.item, 2 * row + 1)]
    return {
        name: side.values_L[side.offsets[bag] : side.offsets[bag + 1]].tolist()
        for name, (side, bag) in zip(ROWS, bounds, strict=True)
    }


def cross_row(names: tuple[str, ...], ids: tuple[int, ...]) -> int:
    """The row of a combination, in whole numbers of any size."""
    combinations = int(np.prod([ROWS[name] for name in names]))
    if combinations <= SIZES["cross_rows"]:
        number, value = 0, 1
        for name, i in zip(names, ids, strict=True):
            number, value = number + i * value, value * ROWS[name]
        return number
    number = 0
    for i in ids:
        number = (number + i + 1) * 48271 % (2**31 - 1)
    return number % min(SIZES["cross_rows"], combinations)


def numpy_logit(model: RankingModel, batch: FeatureBatch, row: int) -> float:
    """One item, in float64."""
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    names = ["genres", "items", *map("*".join, CROSSES)]
    sizes = [5, 11, 55, 55, 60]
    tables = dict(
        zip(names, np.split(state["tables.weight_VD"], np.cumsum(sizes)[:-1]), strict=True)
    )
    tables["history"] = tables["item"] = tables["items"]
    user, bags = int(batch.item_to_user_B[row]), bags_of(batch, row)
    age, price = batch.user.dense_RN[user].numpy(), batch.item.dense_RN[row].numpy()
    wide = state["bias_T"] + age @ state["wide_user_MT"] + price @ state["wide_item_MT"]
    for name, ids in bags.items():
        wide += sum(tables[name][i][0] for i in ids)
    for cross in CROSSES:
        for ids in product(*(bags[name] for name in cross)):
            wide += tables["*".join(cross)][cross_row(cross, ids)][0]
    pooled = {
        name: sum((tables[name][i][1:] for i in ids), np.zeros(3)) for name, ids in bags.items()
    }
    inputs = [pooled["history"], age, pooled["item"], pooled["genres"], price]
    first = [state["deep.user.0.weight"], state["deep.item.0.weight"]]
    hidden = np.hstack(first) @ np.concatenate(inputs) + state["deep.item.0.bias"]
    hidden = state["deep.rest.0.weight"] @ np.maximum(hidden, 0) + state["deep.rest.0.bias"]
    deep = state["deep.rest.2.weight"] @ np.maximum(hidden, 0) + state["deep.rest.2.bias"]
    return float((wide + deep).item())


def test_forward_equals_the_numpy_statement() -> None:
    model, batch = perturbed(), make_batch("factorization_machine")
    with torch.inference_mode():
        logits = model(batch).squeeze(1).numpy()
    expected = [numpy_logit(model, batch, row) for row in range(5)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)


@pytest.mark.parametrize("crosses", [(), CROSSES])
def test_a_step_follows_the_finite_differences(crosses) -> None:
    batch = make_batch("factorization_machine", torch.float64)
    assert_step_follows_differences(perturbed(crosses=crosses).double(), batch)
