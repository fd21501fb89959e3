"""Multi-task Wide & Deep against an independent NumPy statement: tasks, masks, loss weights."""

import numpy as np
import pytest
import torch
from tests.golden.test_wide_and_deep_numpy import bags_of
from tests.golden.test_yardsticks_numpy import (
    assert_step_follows_differences,
    make_batch,
    make_spec,
)

from tailrank.core.errors import ConfigError
from tailrank.features import FeatureBatch, Labels
from tailrank.models import RankingModel, build_model
from tailrank.models.registry import config_for, config_from_dict, config_to_dict
from tailrank.training.step import loss_of

# Logits of seed 7, moved as `perturbed` does; a task a column. They pin the initial weights too.
GOLDEN_LOGITS = [
    [3.41947, -4.041426],
    [-1.687934, -2.720037],
    [1.597898, -5.740983],
    [0.75209, -1.271525],
    [-0.1128866, -0.1536951],
]
TASKS = ("income", "never_married")
SIZES = {"bottom_mlp": (5, 4), "top_mlp": (3,), "crosses": (("item", "genres"),)}


def config_of(tasks: tuple[str, ...] = TASKS, **sizes: object):
    return config_for("mt_wide_and_deep", make_spec("factorization_machine"), SIZES | sizes, tasks)


def perturbed(tasks: tuple[str, ...] = TASKS) -> RankingModel:
    """Seed 7, with the weights that start at zero or near it moved away."""
    model = build_model(config_of(tasks), seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for weight in (*model.dense_parameters(), model.tables.weight_VD):
            weight.add_(0.5 * torch.randn(weight.shape, generator=generator))
    return model


def numpy_logits(model: RankingModel, batch: FeatureBatch, row: int) -> np.ndarray:
    """The logits of one item, a task each, in float64."""
    state = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    genres, items, crossed = np.split(state["tables.weight_VD"], [5, 16])
    tables = {"history": items, "item": items, "genres": genres}
    user, bags = int(batch.item_to_user_B[row]), bags_of(batch, row)
    age, price = batch.user.dense_RN[user].numpy(), batch.item.dense_RN[row].numpy()
    num_tasks = len(state["bias_T"])
    vectors = {name: [tables[name][i][num_tasks:] for i in ids] for name, ids in bags.items()}
    zero = np.zeros(4 - num_tasks)
    pooled = {name: sum(found, zero) for name, found in vectors.items()}
    inputs = [pooled["history"], age, pooled["item"], pooled["genres"], price]

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    first = np.hstack([state["bottom.user.0.weight"], state["bottom.item.0.weight"]])
    hidden = np.maximum(first @ np.concatenate(inputs) + state["bottom.item.0.bias"], 0)
    shared = np.maximum(layer("bottom.rest.0", hidden), 0)
    logits = []
    for task in range(num_tasks):
        wide = state["bias_T"][task]
        wide += age @ state["wide_user_MT"][:, task] + price @ state["wide_item_MT"][:, task]
        wide += sum(tables[name][i][task] for name, ids in bags.items() for i in ids)
        wide += sum(crossed[i + 11 * g][task] for i in bags["item"] for g in bags["genres"])
        own = np.maximum(layer(f"heads.{task}.0", shared), 0)
        logits.append(wide + layer(f"heads.{task}.2", own)[0])
    return np.array(logits)


def test_forward_equals_the_numpy_statement() -> None:
    model, batch = perturbed(), make_batch("factorization_machine")
    with torch.inference_mode():
        logits_BT = model(batch).numpy()
    expected = [numpy_logits(model, batch, row) for row in range(5)]
    np.testing.assert_allclose(logits_BT, expected, rtol=1e-5)
    np.testing.assert_allclose(logits_BT, GOLDEN_LOGITS, rtol=1e-5)


def test_one_task_is_a_model_of_one_score() -> None:
    model, batch = perturbed(("income",)), make_batch("factorization_machine")
    with torch.inference_mode():
        logits_BT = model(batch).numpy()
    assert logits_BT.shape == (5, 1)
    expected = [numpy_logits(model, batch, row) for row in range(5)]
    np.testing.assert_allclose(logits_BT, expected, rtol=1e-5)


def test_one_task_is_wide_and_deep_of_the_same_layers() -> None:
    sizes = {"top_mlp": (5, 4, 3), "crosses": SIZES["crosses"]}
    spec, batch = make_spec("factorization_machine"), make_batch("factorization_machine")
    plain = build_model(config_for("wide_and_deep", spec, sizes), seed=7)
    several = build_model(config_of(("income",)), seed=7)
    with torch.inference_mode():
        torch.testing.assert_close(several(batch), plain(batch))


def test_a_step_follows_the_finite_differences_of_weighted_tasks_with_unknown_labels() -> None:
    labels = Labels(
        values_BT=torch.tensor(
            [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
        ).double(),
        mask_BT=torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [0, 1]]).bool(),
    )
    batch = make_batch("factorization_machine", torch.float64)
    assert_step_follows_differences(perturbed().double(), batch, labels, (1.0, 0.3))


def test_a_task_without_a_label_or_a_weight_leaves_its_head_alone() -> None:
    batch = make_batch("factorization_machine")
    values_BT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    only_first = torch.tensor([True, False]).expand(5, 2)
    for mask_BT, weights in ((only_first, None), (None, (1.0, 0.0))):
        model = perturbed()
        loss_of(model(batch), Labels(values_BT=values_BT, mask_BT=mask_BT), weights).backward()
        first, second = (
            [parameter.grad for parameter in head.parameters()] for head in model.heads
        )
        assert all(gradient.abs().max() > 0 for gradient in first)
        assert not any(gradient.abs().max() > 0 for gradient in second)
        assert model.bias_T.grad[1] == 0 != model.bias_T.grad[0]


def test_a_config_survives_its_record_and_wrong_ones_are_refused() -> None:
    config = config_of()
    assert config_from_dict(config_to_dict(config)) == config
    with pytest.raises(ConfigError, match="each once"):
        config_of(("income", "income"))
    with pytest.raises(ConfigError, match="bottom_mlp"):
        config_of(bottom_mlp=())
    with pytest.raises(ConfigError, match="at least 5: 4 linear weights and one factor"):
        config_of(("a", "b", "c", "d"))
