"""Optimisers: row-wise for embedding tables, torch's own for dense parameters.

A table step costs what the batch read, never what the table holds: it touches only rows whose ids
occur, and adds up the gradients of an id's occurrences before anything is squared.

Legend: L ids of a batch, G bags, K different ids, V table rows, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailrank.core.errors import ConfigError

TableOptimizerName = Literal["rowwise_adagrad", "sgd"]
DenseOptimizerName = Literal["adagrad", "sgd", "adam"]

_EPS = 1e-10  # as torch.optim.Adagrad and the released DLRM code


class RowGradients(NamedTuple):
    """Gradient of a table, just the rows that were read.

    Args:
        rows_K: int64, rising, no row twice.
        grad_KD: float32, summed over all occurrences of the row.
    """

    rows_K: Tensor
    grad_KD: Tensor


def row_gradients(
    ids_L: Tensor, offsets: Tensor, pooled_grad_GD: Tensor, weights_L: Tensor | None = None
) -> RowGradients:
    """Gradient of the rows from that of their sum-pooled bags.

    Args:
        ids_L: int64 rows of the table, in bag order.
        offsets: int64, G + 1 positions of the bags in `ids_L`.
        pooled_grad_GD: float32 gradient of each bag's sum.
        weights_L: float32 factor of each id in its bag; None: all 1.
    """
    if ids_L.shape[0] == 0:
        return RowGradients(ids_L, pooled_grad_GD.new_zeros(0, pooled_grad_GD.shape[1]))
    # Stable, so that occurrences are added in the order of the batch and runs repeat exactly.
    sorted_L, position_L = torch.sort(ids_L, stable=True)
    changes = torch.nonzero(sorted_L[1:] != sorted_L[:-1]).flatten() + 1
    starts_K = torch.cat([changes.new_zeros(1), changes])
    bag_L = position_L
    if ids_L.shape[0] != offsets.shape[0] - 1 or not bool((offsets.diff() == 1).all()):
        num_bags = torch.arange(offsets.shape[0] - 1)
        bag_L = torch.repeat_interleave(num_bags, offsets.diff())[position_L]
    # A sum over runs of equal ids is itself a pooled lookup: of the bags' gradients.
    grad_KD = F.embedding_bag(
        bag_L,
        pooled_grad_GD,
        starts_K,
        mode="sum",
        per_sample_weights=None if weights_L is None else weights_L[position_L],
    )
    return RowGradients(sorted_L[starts_K], grad_KD)


class TableOptimizer(Protocol):
    """Changes the rows of one table that a batch has read."""

    lr: float

    def step(self, gradients: RowGradients) -> None:
        """Apply one step in place."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Tensors to put into a checkpoint, by name; the optimiser's own, not copies."""
        ...


class RowWiseAdagrad:
    """Adagrad with one accumulator per row.

    state += mean over D of gradient ** 2;  row -= lr * gradient / (sqrt(state) + eps)

    Args:
        weight_VD: the table, float32, changed in place.
        lr: learning rate.
        eps: keeps the first step of a row finite.

    Source: Naumov et al., arXiv 1906.00091 (released code, RWSAdagrad), as FBGEMM's rowwise
    Adagrad.
    """

    def __init__(self, weight_VD: Tensor, lr: float, eps: float = _EPS) -> None:
        self.lr, self.eps = lr, eps
        self._weight_VD = weight_VD
        self._sum_V = torch.zeros(weight_VD.shape[0])

    @torch.no_grad()
    def step(self, gradients: RowGradients) -> None:
        """Apply one step in place."""
        rows_K, grad_KD = gradients
        sum_K = self._sum_V.index_select(0, rows_K) + grad_KD.square().mean(dim=1)
        self._sum_V.index_copy_(0, rows_K, sum_K)
        scale_K = -self.lr / (sum_K.sqrt_() + self.eps)
        self._weight_VD.index_add_(0, rows_K, grad_KD * scale_K.unsqueeze(1))

    def state(self) -> dict[str, Tensor]:
        """The accumulators, (V,)."""
        return {"sum_V": self._sum_V}


class RowWiseSGD:
    """row -= lr * gradient, without state.

    Args:
        weight_VD: the table, float32, changed in place.
        lr: learning rate.
    """

    def __init__(self, weight_VD: Tensor, lr: float) -> None:
        self.lr = lr
        self._weight_VD = weight_VD

    @torch.no_grad()
    def step(self, gradients: RowGradients) -> None:
        """Apply one step in place."""
        self._weight_VD.index_add_(0, gradients.rows_K, gradients.grad_KD, alpha=-self.lr)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


def table_optimizer(name: TableOptimizerName, weight_VD: Tensor, lr: float) -> TableOptimizer:
    """The table optimiser of that name.

    Raises:
        ConfigError: unknown name.
    """
    if name == "rowwise_adagrad":
        return RowWiseAdagrad(weight_VD, lr)
    if name == "sgd":
        return RowWiseSGD(weight_VD, lr)
    raise ConfigError("table_optimizer", name, "rowwise_adagrad or sgd")


def dense_optimizer(
    name: DenseOptimizerName, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The torch optimiser of that name, in its fused form (one pass over each parameter).

    Raises:
        ConfigError: unknown name.
    """
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, weight_decay=weight_decay, fused=True)
    if name == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)
    raise ConfigError("dense_optimizer", name, "adagrad, sgd or adam")


def state_bytes(
    num_rows: int,
    num_dense: int,
    table_name: TableOptimizerName,
    dense_name: DenseOptimizerName,
) -> int:
    """Bytes of optimiser state and dense gradients, for the check before anything is allocated."""
    row_floats = num_rows if table_name == "rowwise_adagrad" else 0
    dense_floats = {"adagrad": 2, "sgd": 1, "adam": 3}[dense_name] * num_dense
    return 4 * (row_floats + dense_floats)
