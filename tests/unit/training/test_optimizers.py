"""Row-wise optimisers against dense restatements of their formulas."""

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.training.optimizers import (
    RowGradients,
    dense_optimizer,
    row_gradients,
    state_bytes,
    table_optimizer,
)

NUM_ROWS, DIM = 30, 4


def jagged_bags(seed: int, weighted: bool) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (20,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    ids_L = torch.randint(0, 9, (int(offsets[-1]),), generator=generator)  # few: many repeat
    grad_GD = torch.randn(20, DIM, generator=generator)
    weights_L = torch.rand(len(ids_L), generator=generator) if weighted else None
    return ids_L, offsets, grad_GD, weights_L


def dense_gradient(ids_L, offsets, grad_GD, weights_L) -> torch.Tensor:
    full = torch.zeros(NUM_ROWS, DIM, dtype=torch.float64)
    for bag in range(len(offsets) - 1):
        for position in range(int(offsets[bag]), int(offsets[bag + 1])):
            factor = 1.0 if weights_L is None else float(weights_L[position])
            full[ids_L[position]] += factor * grad_GD[bag].double()
    return full


@pytest.mark.parametrize("weighted", [False, True])
def test_row_gradients_add_up_all_occurrences(weighted: bool) -> None:
    bags = jagged_bags(1, weighted)
    rows_K, grad_KD = row_gradients(*bags)
    full = dense_gradient(*bags)
    assert rows_K.tolist() == sorted(set(bags[0].tolist()))
    torch.testing.assert_close(grad_KD.double(), full[rows_K], rtol=1e-5, atol=1e-6)


def test_row_gradients_of_single_ids_and_of_no_ids() -> None:
    ids_L, grad_GD = torch.tensor([7, 2, 7]), torch.eye(3, DIM)
    rows_K, grad_KD = row_gradients(ids_L, torch.arange(4), grad_GD)
    assert rows_K.tolist() == [2, 7]
    assert torch.equal(grad_KD, torch.stack([grad_GD[1], grad_GD[0] + grad_GD[2]]))
    none = row_gradients(ids_L[:0], torch.zeros(3, dtype=torch.int64), grad_GD[:2])
    assert none.rows_K.shape == (0,)
    assert none.grad_KD.shape == (0, DIM)


@pytest.mark.parametrize("name", ["rowwise_adagrad", "sgd"])
def test_steps_match_the_formula_and_touch_nothing_else(name: str) -> None:
    weight_VD = torch.randn(NUM_ROWS, DIM, generator=torch.Generator().manual_seed(0))
    expected, squares = weight_VD.double(), torch.zeros(NUM_ROWS, dtype=torch.float64)
    before, optimizer = weight_VD.clone(), table_optimizer(name, weight_VD, 0.1)
    for seed in range(5):
        bags = jagged_bags(seed, weighted=False)
        optimizer.step(row_gradients(*bags))
        gradient = dense_gradient(*bags)
        if name == "sgd":
            expected -= 0.1 * gradient
        else:
            squares += (gradient**2).mean(dim=1)
            expected -= 0.1 * gradient / (squares.sqrt() + 1e-10).unsqueeze(1)
    torch.testing.assert_close(weight_VD.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(weight_VD[9:], before[9:])


def test_state_is_one_float_per_row() -> None:
    weight_VD = torch.zeros(NUM_ROWS, DIM)
    assert table_optimizer("rowwise_adagrad", weight_VD, 0.1).state()["sum_V"].shape == (NUM_ROWS,)
    assert table_optimizer("sgd", weight_VD, 0.1).state() == {}
    assert state_bytes(100, 10, "rowwise_adagrad", "adagrad") == 4 * (100 + 20)
    assert state_bytes(100, 10, "sgd", "adam") == 4 * 30


def test_a_row_whose_gradient_is_zero_stays() -> None:
    weight_VD = torch.ones(3, DIM)
    optimizer = table_optimizer("rowwise_adagrad", weight_VD, 0.1)
    optimizer.step(RowGradients(torch.tensor([1]), torch.zeros(1, DIM)))
    assert torch.equal(weight_VD, torch.ones(3, DIM))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="table_optimizer"):
        table_optimizer("lion", torch.zeros(1, 1), 0.1)
    with pytest.raises(ConfigError, match="dense_optimizer"):
        dense_optimizer("lion", [torch.nn.Parameter(torch.zeros(1))], 0.1, 0.0)
