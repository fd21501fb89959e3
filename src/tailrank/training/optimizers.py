"""Optimisers by name: row-wise for embedding tables, torch's own for dense parameters.

Legend: V table rows, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.kernels.sparse_reference import Bags, RowRule, new_state
from tailrank.kernels.sparse_update import RowsRead, sparse_update

TableOptimizerName = RowRule
DenseOptimizerName = Literal["adagrad", "sgd", "adam"]


class TableOptimizer:
    """Changes the rows of one table that a batch has read.

    Args:
        name: `sgd`, `rowwise_adagrad`, `adagrad`, `adam` or `amsgrad`; see
            `kernels.sparse_reference.update_rows`.
        weight_VD: the table, float32, changed in place.
        lr: learning rate.

    Raises:
        ConfigError: unknown name.
    """

    def __init__(self, name: TableOptimizerName, weight_VD: Tensor, lr: float) -> None:
        if name not in get_args(TableOptimizerName):
            raise ConfigError("table_optimizer", name, " or ".join(get_args(TableOptimizerName)))
        self.lr = lr
        self._state = new_state(name, weight_VD)
        self._update = sparse_update(name, weight_VD, self._state)

    def read(self, lookups: Sequence[Bags]) -> RowsRead:
        """The rows that a batch read; good for one step, before the next batch is read."""
        return self._update.read(lookups)

    def step(self, rows: RowsRead, *, scale: float = 1.0, l2: float = 0.0) -> None:
        """Apply one step in place, with gradients `scale` times as large plus `l2` of each row."""
        rows.update(self.lr, scale=scale, l2=l2)

    def state(self) -> dict[str, Tensor]:
        """Tensors to put into a checkpoint, by name; the optimiser's own, not copies."""
        return self._state


def dense_optimizer(
    name: DenseOptimizerName, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The torch optimiser of that name, in its fused form (one pass over each parameter).

    It has all its state from the start, so that every checkpoint has: by itself Adam would make a
    parameter's with its first gradient, which for DIEN's recurrences is the first user's with a
    history.

    Raises:
        ConfigError: unknown name.
    """
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, weight_decay=weight_decay, fused=True)
    if name == "adam":
        adam = torch.optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)
        _make_state(adam)
        return adam
    raise ConfigError("dense_optimizer", name, "adagrad, sgd or adam")


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Have it make its state, all zeros as before a first step, without changing a parameter."""
    for group in optimizer.param_groups:
        rate, group["lr"] = group["lr"], 0.0
        decay, group["weight_decay"] = group["weight_decay"], 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for parameter in group["params"]:
            parameter.grad = None
        group["lr"], group["weight_decay"] = rate, decay
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()


def state_bytes(
    num_rows: int,
    embedding_dim: int,
    num_dense: int,
    table_name: TableOptimizerName,
    dense_name: DenseOptimizerName,
) -> int:
    """Bytes of optimiser state and dense gradients, for the check before anything is allocated."""
    state = new_state(table_name, torch.empty(num_rows, embedding_dim, device="meta"))
    dense_floats = {"adagrad": 2, "sgd": 1, "adam": 3}[dense_name] * num_dense
    return sum(tensor.nbytes for tensor in state.values()) + 4 * dense_floats
