"""Updates of the table rows that a batch read, in plain torch: the contract of faster ones.

A step costs what the batch read, never what the table holds: it touches only rows whose ids occur,
and adds up the gradients of an id's occurrences before anything is squared. Knows tensors only, on
any device.

Legend: L ids of a batch, G bags, K different ids, V table rows, D dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.kernels import huge_pages

RowRule = Literal["sgd", "rowwise_adagrad", "adagrad", "adam", "amsgrad"]

ADAGRAD_EPS = 1e-10  # as torch.optim.Adagrad and the released DLRM code
ADAM_EPS, BETA_1, BETA_2 = 1e-8, 0.9, 0.999  # as torch.optim.SparseAdam
_ELEMENT_STATE: dict[RowRule, tuple[str, ...]] = {
    "adagrad": ("sum_VD",),
    "adam": ("mean_VD", "square_VD"),
    "amsgrad": ("mean_VD", "square_VD", "largest_VD"),
}


class Bags(NamedTuple):
    """A lookup of sums, and what a backward pass said of it.

    Args:
        ids_L: int64 rows of the table, in bag order.
        offsets: int64, G + 1 positions of the bags in `ids_L`, from 0 to L.
        grad_GD: float32 gradient of each bag's sum.
        weights_L: float32 factor of each id in its bag; None: all 1.
    """

    ids_L: Tensor
    offsets: Tensor
    grad_GD: Tensor
    weights_L: Tensor | None = None


class RowGradients(NamedTuple):
    """Gradient of a table, just the rows that were read.

    Args:
        rows_K: int64, rising, no row twice.
        grad_KD: float32, summed over all occurrences of the row.
    """

    rows_K: Tensor
    grad_KD: Tensor


def row_gradients(lookups: Sequence[Bags]) -> RowGradients:
    """Gradient of the rows from that of their sum-pooled bags, of all lookups together."""
    ids_L, offsets, grad_GD, weights_L = _joined(lookups)
    if ids_L.shape[0] == 0:
        return RowGradients(ids_L, grad_GD.new_zeros(0, grad_GD.shape[1]))
    # Stable, so that occurrences are added in the order of the batch and runs repeat exactly.
    sorted_L, position_L = torch.sort(ids_L, stable=True)
    changes = torch.nonzero(sorted_L[1:] != sorted_L[:-1]).flatten() + 1
    starts_K = torch.cat([changes.new_zeros(1), changes])
    bag_L = position_L
    if ids_L.shape[0] != offsets.shape[0] - 1 or not bool((offsets.diff() == 1).all()):
        num_bags = torch.arange(offsets.shape[0] - 1, device=offsets.device)
        bag_L = torch.repeat_interleave(num_bags, offsets.diff())[position_L]
    # A sum over runs of equal ids is itself a pooled lookup: of the bags' gradients.
    grad_KD = F.embedding_bag(
        bag_L,
        grad_GD,
        starts_K,
        mode="sum",
        per_sample_weights=None if weights_L is None else weights_L[position_L],
    )
    return RowGradients(sorted_L[starts_K], grad_KD)


def _joined(lookups: Sequence[Bags]) -> Bags:
    """Several lookups as one, bag after bag."""
    if len(lookups) == 1:
        return lookups[0]
    offsets, weights, start = [lookups[0].offsets[:1]], [], 0
    for bags in lookups:
        offsets.append(bags.offsets[1:] + start)
        start += bags.ids_L.shape[0]
        ones_L = bags.grad_GD.new_ones(bags.ids_L.shape[0])
        weights.append(ones_L if bags.weights_L is None else bags.weights_L)
    return Bags(
        torch.cat([bags.ids_L for bags in lookups]),
        torch.cat(offsets),
        torch.cat([bags.grad_GD for bags in lookups]),
        None if all(bags.weights_L is None for bags in lookups) else torch.cat(weights),
    )


def new_state(rule: RowRule, weight_VD: Tensor) -> dict[str, Tensor]:
    """What a rule remembers of a table before the first step, by name, on the table's device.

    `num_steps`, where there is one, lies on the CPU: it enters the arithmetic as a number.
    """
    if rule == "rowwise_adagrad":
        return {"sum_V": _zeros(weight_VD, weight_VD.shape[:1])}
    names = _ELEMENT_STATE.get(rule, ())
    state = {name: _zeros(weight_VD, weight_VD.shape) for name in names}
    if rule in ("adam", "amsgrad"):
        state["num_steps"] = torch.zeros((), dtype=torch.int64)
    return state


@torch.no_grad()
def update_rows(
    rule: RowRule,
    weight_VD: Tensor,
    state: dict[str, Tensor],
    gradients: RowGradients,
    lr: float,
) -> None:
    """One step of the rows that have a gradient g, in place; the others stay, and so their state.

    - `sgd`: row -= lr * g
    - `rowwise_adagrad`: sum += mean over D of g ** 2; row -= lr * g / (sqrt(sum) + eps)
    - `adagrad`: the same with a sum for each element
    - `adam`: mean += (1 - b1) * (g - mean); square += (1 - b2) * (g ** 2 - square);
      row -= lr * sqrt(1 - b2 ** t) / (1 - b1 ** t) * mean / (sqrt(square) + eps)
    - `amsgrad`: with the largest `square` so far in the place of the last one

    `t` counts the steps of the table, not those that read a row, and a row that no batch reads
    does not move on: "lazy". eps is beside the uncorrected root, as in SparseAdam; in Adam it is
    beside the corrected one.

    Args:
        rule: the name above.
        weight_VD: the table, float32.
        state: from `new_state`, changed in place.
        gradients: rows, no row twice, and their gradients.
        lr: learning rate.

    Source: `rowwise_adagrad`: Naumov et al., arXiv 1906.00091 (released code, RWSAdagrad), as
    FBGEMM's; `adagrad`: Duchi et al., JMLR 2011, as torch.optim.Adagrad on sparse gradients;
    `adam`: Kingma and Ba, arXiv 1412.6980, section 2, as torch.optim.SparseAdam; `amsgrad`: Reddi
    et al., On the Convergence of Adam and Beyond, ICLR 2018, lazily too.
    """
    rows_K, grad_KD = gradients
    if rule == "sgd":
        weight_VD.index_add_(0, rows_K, grad_KD, alpha=-lr)
    elif rule == "rowwise_adagrad":
        sum_K = _changed(state["sum_V"], rows_K, grad_KD.square().mean(dim=1))
        scale_K = -lr / (sum_K.sqrt_() + ADAGRAD_EPS)
        weight_VD.index_add_(0, rows_K, grad_KD * scale_K.unsqueeze(1))
    elif rule == "adagrad":
        sum_KD = _changed(state["sum_VD"], rows_K, grad_KD.square())
        weight_VD.index_add_(0, rows_K, grad_KD / sum_KD.sqrt_().add_(ADAGRAD_EPS), alpha=-lr)
    else:
        state["num_steps"] += 1
        mean_VD, square_VD = state["mean_VD"], state["square_VD"]
        mean_change_KD = grad_KD.sub(mean_VD.index_select(0, rows_K)).mul_(1.0 - BETA_1)
        mean_KD = _changed(mean_VD, rows_K, mean_change_KD)
        square_change_KD = grad_KD.square().sub_(square_VD.index_select(0, rows_K))
        square_KD = _changed(square_VD, rows_K, square_change_KD.mul_(1.0 - BETA_2))
        if rule == "amsgrad":
            square_KD = torch.maximum(square_KD, state["largest_VD"].index_select(0, rows_K))
            state["largest_VD"].index_copy_(0, rows_K, square_KD)
        mean_KD /= square_KD.sqrt_().add_(ADAM_EPS)
        weight_VD.index_add_(0, rows_K, mean_KD, alpha=-lr * adam_correction(state))


def _zeros(weight_VD: Tensor, shape: torch.Size) -> Tensor:
    """Zeros of a table's kind and device; on the CPU large ones ask for huge pages."""
    if weight_VD.is_cpu and weight_VD.dtype is torch.float32:
        return huge_pages.empty(*shape).zero_()
    return weight_VD.new_zeros(shape)


def adam_correction(state: dict[str, Tensor]) -> float:
    """Factor of the rate that makes up for means that began at zero, after `num_steps` steps."""
    num_steps = int(state["num_steps"])
    return math.sqrt(1.0 - BETA_2**num_steps) / (1.0 - BETA_1**num_steps)


def _changed(state: Tensor, rows_K: Tensor, change: Tensor) -> Tensor:
    """Add `change` to these rows of a state; returns what they are now, a copy."""
    now = state.index_select(0, rows_K).add_(change)
    state.index_copy_(0, rows_K, now)
    return now


class TorchUpdate:
    """`sparse_update.SparseUpdate` with what is above; see there."""

    def __init__(self, rule: RowRule, weight_VD: Tensor, state: dict[str, Tensor]) -> None:
        self._rule, self._weight_VD, self._state = rule, weight_VD, state

    def read(self, lookups: Sequence[Bags]) -> TorchRows:
        """The rows that these lookups of one batch read, and their gradients."""
        if not lookups:
            none = torch.zeros(0, dtype=torch.int64, device=self._weight_VD.device)
            return TorchRows(self, RowGradients(none, self._weight_VD[:0].clone()))
        return TorchRows(self, row_gradients(lookups))

    def update(self, gradients: RowGradients, lr: float, scale: float, l2: float) -> None:
        """One step; changes the gradients too."""
        rows_K, grad_KD = gradients
        if scale != 1.0:
            grad_KD.mul_(scale)
        if l2:
            grad_KD.add_(self._weight_VD.index_select(0, rows_K), alpha=l2)
        update_rows(self._rule, self._weight_VD, self._state, gradients, lr)


class TorchRows:
    """`sparse_update.RowsRead`; see there."""

    def __init__(self, owner: TorchUpdate, gradients: RowGradients) -> None:
        self._owner, self._gradients = owner, gradients

    def rows(self) -> Tensor:
        """The rows, int64 (K,)."""
        return self._gradients.rows_K

    def squared_norm(self) -> float:
        """Sum of the squares of all gradients."""
        return float(self._gradients.grad_KD.square().sum())

    def update(self, lr: float, *, scale: float = 1.0, l2: float = 0.0) -> None:
        """Change each row once."""
        self._owner.update(self._gradients, lr, scale, l2)
