"""Optimisers by name, and the memory that they take."""

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.training.optimizers import TableOptimizer, dense_optimizer, state_bytes

NUM_ROWS, DIM = 30, 4
FLOATS_PER_ROW = {"sgd": 0, "rowwise_adagrad": 1, "adagrad": DIM, "adam": 2 * DIM}
FLOATS_PER_ROW["amsgrad"] = 3 * DIM


@pytest.mark.parametrize("name", FLOATS_PER_ROW)
def test_state_is_what_was_announced(name: str) -> None:
    state = TableOptimizer(name, torch.zeros(NUM_ROWS, DIM), 0.1).state()
    of_rows = 4 * NUM_ROWS * FLOATS_PER_ROW[name]
    assert sum(tensor.nbytes for tensor in state.values() if tensor.dim()) == of_rows
    counter = 8 if name.startswith("a") and name != "adagrad" else 0
    assert ("num_steps" in state) == bool(counter)
    assert state_bytes(NUM_ROWS, DIM, 10, name, "adam") == of_rows + counter + 4 * 30
    assert state_bytes(NUM_ROWS, DIM, 10, name, "adagrad") == of_rows + counter + 4 * 20


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="table_optimizer"):
        TableOptimizer("lion", torch.zeros(1, 1), 0.1)
    with pytest.raises(ConfigError, match="dense_optimizer"):
        dense_optimizer("lion", [torch.nn.Parameter(torch.zeros(1))], 0.1, 0.0)
