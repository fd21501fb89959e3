"""Updates of the table rows that a batch read, in plain torch: the contract of faster ones.

A step costs what the batch read, never what the table holds: it touches only rows whose ids occur,
and adds up the gradients of an id's occurrences before anything is squared. Knows tensors only, on
any device.

Legend: L ids of a batch, G bags, K different ids, V table rows, D dim.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

RowRule = Literal["sgd", "rowwise_adagrad", "adagrad", "adam", "amsgrad"]

ADAGRAD_EPS = 1e-10  # as torch.optim.Adagrad and the released DLRM code
ADAM_EPS, BETA_1, BETA_2 = 1e-8, 0.9, 0.999  # as torch.optim.SparseAdam
_ELEMENT_STATE: dict[RowRule, tuple[str, ...]] = {
    "adagrad": ("sum_VD",),
    "adam": ("mean_VD", "square_VD"),
    "amsgrad": ("mean_VD", "square_VD", "largest_VD"),
}


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
        num_bags = torch.arange(offsets.shape[0] - 1, device=offsets.device)
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


def new_state(rule: RowRule, weight_VD: Tensor) -> dict[str, Tensor]:
    """What a rule remembers of a table before the first step, by name, on the table's device.

    `num_steps`, where there is one, lies on the CPU: it enters the arithmetic as a number.
    """
    if rule == "rowwise_adagrad":
        return {"sum_V": weight_VD.new_zeros(weight_VD.shape[0])}
    state = {name: torch.zeros_like(weight_VD) for name in _ELEMENT_STATE.get(rule, ())}
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


def adam_correction(state: dict[str, Tensor]) -> float:
    """Factor of the rate that makes up for means that began at zero, after `num_steps` steps."""
    num_steps = int(state["num_steps"])
    return math.sqrt(1.0 - BETA_2**num_steps) / (1.0 - BETA_1**num_steps)


def _changed(state: Tensor, rows_K: Tensor, change: Tensor) -> Tensor:
    """Add `change` to these rows of a state; returns what they are now, a copy."""
    now = state.index_select(0, rows_K).add_(change)
    state.index_copy_(0, rows_K, now)
    return now
