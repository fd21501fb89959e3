"""Updates of table rows: against formulas in NumPy, row by row, and torch's own optimisers."""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tailrank.kernels.sparse_reference import (
    RowGradients,
    RowRule,
    new_state,
    row_gradients,
    update_rows,
)

RULES = get_args(RowRule)
NUM_ROWS = 30


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here: updates on one are NOT TESTED")
    return torch.device(request.param)


class Bags(NamedTuple):
    """Bags of ids and the gradients of their sums."""

    ids_L: Tensor
    offsets: Tensor
    grad_GD: Tensor
    weights_L: Tensor | None = None


def random_bags(seed: int, dim: int = 4, weighted: bool = False) -> Bags:
    """20 bags of 0 to 3 ids below 9, so that many ids repeat."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (20,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    ids_L = torch.randint(0, 9, (int(offsets[-1]),), generator=generator)
    grad_GD = torch.randn(20, dim, generator=generator)
    weights_L = torch.rand(len(ids_L), generator=generator) if weighted else None
    return Bags(ids_L, offsets, grad_GD, weights_L)


def summed(bags: Bags) -> dict[int, np.ndarray]:
    """The gradient of each row that was read, in fp64, one occurrence after the other."""
    total: dict[int, np.ndarray] = {}
    for bag, gradient in enumerate(bags.grad_GD.double().numpy()):
        for position in range(int(bags.offsets[bag]), int(bags.offsets[bag + 1])):
            factor = 1.0 if bags.weights_L is None else float(bags.weights_L[position])
            row = int(bags.ids_L[position])
            total[row] = total.get(row, 0.0) + factor * gradient
    return total


class Statement:
    """One table under one rule in fp64: the formulas of `update_rows`, a row at a time."""

    def __init__(self, rule: str, weight_VD: Tensor) -> None:
        self.rule, self.num_steps = rule, 0
        self.weight_VD = weight_VD.double().numpy().copy()
        self.memory = np.zeros((3, *self.weight_VD.shape))  # mean, square, largest

    def step(self, gradients: dict[int, np.ndarray], lr: float) -> None:
        self.num_steps += 1
        for row, g in gradients.items():
            mean, square, largest = (self.memory[kind, row] for kind in range(3))
            if self.rule == "sgd":
                change = g
            elif self.rule.endswith("adagrad"):
                square += np.mean(g * g) if self.rule == "rowwise_adagrad" else g * g
                change = g / (np.sqrt(square) + 1e-10)
            else:
                mean[:] = 0.9 * mean + 0.1 * g
                square[:] = 0.999 * square + 0.001 * g * g
                largest[:] = np.maximum(largest, square)
                second = largest if self.rule == "amsgrad" else square
                correction = np.sqrt(1 - 0.999**self.num_steps) / (1 - 0.9**self.num_steps)
                change = correction * mean / (np.sqrt(second) + 1e-8)
            self.weight_VD[row] -= lr * change


def random_table(dim: int = 4) -> Tensor:
    return torch.randn(NUM_ROWS, dim, generator=torch.Generator().manual_seed(0))


def on(device: torch.device, bags: Bags) -> Bags:
    return Bags(*(None if tensor is None else tensor.to(device) for tensor in bags))


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_all_occurrences_are_added_up(device: torch.device, weighted: bool) -> None:
    bags = random_bags(1, weighted=weighted)
    rows_K, grad_KD = row_gradients(*on(device, bags))
    expected = summed(bags)
    assert rows_K.tolist() == sorted(expected)
    for row, gradient in zip(rows_K.tolist(), grad_KD.cpu().numpy(), strict=True):
        np.testing.assert_allclose(gradient, expected[row], rtol=1e-5, atol=1e-6)


def test_single_ids_and_no_ids(device: torch.device) -> None:
    ids_L, offsets, grad_GD, _ = on(
        device, Bags(torch.tensor([7, 2, 7]), torch.arange(4), torch.eye(3, 4))
    )
    rows_K, grad_KD = row_gradients(ids_L, offsets, grad_GD)
    assert rows_K.tolist() == [2, 7]
    assert torch.equal(grad_KD, torch.stack([grad_GD[1], grad_GD[0] + grad_GD[2]]))
    none = row_gradients(ids_L[:0], torch.zeros_like(offsets[:3]), grad_GD[:2])
    assert none.rows_K.shape == (0,)
    assert none.grad_KD.shape == (0, 4)


@pytest.mark.parametrize("rule", RULES)
def test_steps_are_the_formula_and_touch_nothing_else(device: torch.device, rule: RowRule) -> None:
    weight_VD = random_table().to(device)
    before, statement = weight_VD.clone(), Statement(rule, weight_VD.cpu())
    state = new_state(rule, weight_VD)
    for seed in range(6):
        bags = random_bags(seed, weighted=seed % 2 == 1)
        update_rows(rule, weight_VD, state, row_gradients(*on(device, bags)), lr=0.1)
        statement.step(summed(bags), lr=0.1)
    mine = weight_VD.cpu().double().numpy()
    np.testing.assert_allclose(mine, statement.weight_VD, rtol=1e-5, atol=2e-6)
    assert torch.equal(weight_VD[9:], before[9:])
    assert not any(tensor[9:].any() for tensor in state.values() if tensor.dim())


@pytest.mark.parametrize("rule", ["adagrad", "adam"])
def test_steps_are_those_of_torch_on_sparse_gradients(rule: RowRule) -> None:
    weight_VD = random_table()
    bag = nn.EmbeddingBag.from_pretrained(
        weight_VD.clone(), freeze=False, mode="sum", sparse=True, include_last_offset=True
    )
    kinds = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.SparseAdam}
    optimizer = kinds[rule](bag.parameters(), lr=0.1)
    state = new_state(rule, weight_VD)
    for seed in range(6):
        bags = random_bags(seed)
        update_rows(rule, weight_VD, state, row_gradients(*bags), lr=0.1)
        optimizer.zero_grad()
        with torch.sparse.check_sparse_tensor_invariants():
            bag(bags.ids_L, bags.offsets).backward(bags.grad_GD)
            optimizer.step()
    torch.testing.assert_close(weight_VD, bag.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_row_that_was_read_without_effect_stays_at_first(
    device: torch.device, rule: RowRule
) -> None:
    weight_VD = torch.ones(3, 4, device=device)
    nothing = RowGradients(torch.tensor([1], device=device), torch.zeros(1, 4, device=device))
    update_rows(rule, weight_VD, new_state(rule, weight_VD), nothing, lr=0.1)
    assert torch.equal(weight_VD, torch.ones(3, 4, device=device))


@pytest.mark.parametrize("rule", RULES)
def test_a_gradient_that_is_no_number_reaches_its_row_only(
    device: torch.device, rule: RowRule
) -> None:
    weight_VD = random_table().to(device)
    bags = random_bags(0)
    bags.grad_GD[int(bags.offsets.diff().argmax())] = torch.nan
    reached = {row for row, gradient in summed(bags).items() if np.isnan(gradient).any()}
    assert 0 < len(reached) < len(set(bags.ids_L.tolist()))
    update_rows(rule, weight_VD, new_state(rule, weight_VD), row_gradients(*on(device, bags)), 0.1)
    assert {int(row) for row in weight_VD.isnan().any(dim=1).nonzero()} == reached
