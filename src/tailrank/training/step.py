"""One training step: look up, forward, backward, update.

Autograd sees the dense part only. Its gradient ends at the pooled embeddings, a leaf; from there
the rows that the batch read are updated by hand, so no step ever holds a gradient of a table's
size, dense or sparse.

Legend: B items, T tasks, L ids, G bags, D dim.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import SIDES, FeatureBatch, Labels, Side, SideFeatures
from tailrank.kernels.reference import pooled_lookup
from tailrank.kernels.sparse_reference import RowGradients, row_gradients
from tailrank.models import RankingModel
from tailrank.training.averaging import WeightAverage
from tailrank.training.config import TrainingConfig
from tailrank.training.optimizers import TableOptimizer, dense_optimizer


def loss_of(logits_BT: Tensor, labels: Labels) -> Tensor:
    """Mean cross entropy in nats over known labels, weighted where samples carry weights."""
    if labels.mask_BT is None and labels.weights_B is None:
        return F.binary_cross_entropy_with_logits(logits_BT, labels.values_BT)
    weight_BT = torch.ones_like(labels.values_BT)
    if labels.mask_BT is not None:
        weight_BT = weight_BT * labels.mask_BT
    if labels.weights_B is not None:
        weight_BT = weight_BT * labels.weights_B.unsqueeze(1)
    total = F.binary_cross_entropy_with_logits(
        logits_BT, labels.values_BT, weight=weight_BT, reduction="sum"
    )
    return total / weight_BT.sum()


class TrainStep:
    """Trains `model` in place, batch by batch.

    Args:
        model: its tables take no gradient from autograd.
        config: optimisers and rates.

    Attributes:
        average: the mean of the weights after each step; None where the config wants none.
        gradient_norm: L2 norm of the last step's gradients, before clipping; None without it.
    """

    def __init__(self, model: RankingModel, config: TrainingConfig) -> None:
        self.model, self.config = model, config
        self.gradient_norm: float | None = None
        fraction = config.average_fraction
        self.average = WeightAverage(model, fraction) if fraction else None
        self._table_lr = config.lr if config.table_lr is None else config.table_lr
        self._dense_parameters = model.dense_parameters()
        self.tables = TableOptimizer(
            config.table_optimizer, model.tables.weight_VD.detach(), self._table_lr
        )
        self.dense = dense_optimizer(
            config.dense_optimizer, self._dense_parameters, config.lr, config.weight_decay
        )

    def scale_rates(self, factor: float) -> None:
        """Set the learning rates that follow the schedule to `factor` times the config's."""
        for group in self.dense.param_groups:
            group["lr"] = self.config.lr * factor
        if self.config.schedule_tables:
            self.tables.lr = self._table_lr * factor

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the weights to judge and keep, in here: their mean, if there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    def __call__(self, batch: FeatureBatch, labels: Labels) -> float:
        """One step; returns the loss before it.

        Raises:
            ConfigError: an id is outside its table, or gradients to clip are no longer finite.
        """
        batch = self.model.prepare(batch)
        sides = [self._look_up(batch, side) for side in SIDES]
        pooled = Pooled(*(side.leaf_RFD for side in sides))
        loss = loss_of(self.model.score(batch, pooled), labels)
        self.dense.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        rows = _table_gradients(sides)
        if self.config.clip_norm is not None:
            self._clip(rows, self.config.clip_norm)
        if self.config.table_l2:
            weight_KD = self.model.tables.weight_VD.detach().index_select(0, rows.rows_K)
            rows.grad_KD.add_(weight_KD, alpha=self.config.table_l2)
        if self.average is not None:
            self.average.before_step(rows.rows_K)
        self.dense.step()
        self.tables.step(rows)
        return loss.item()

    def _clip(self, rows: RowGradients, norm_max: float) -> None:
        """Scale all gradients together, so that their norm is `norm_max` at most."""
        gradients = [p.grad for p in self._dense_parameters if p.grad is not None]
        gradients.append(rows.grad_KD)
        self.gradient_norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(self.gradient_norm):
            raise ConfigError("lr", self.config.lr, "less: the gradient is no longer finite")
        factor = norm_max / (self.gradient_norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
        if factor < 1.0:
            for gradient in gradients:
                gradient.mul_(factor)

    def _look_up(self, batch: FeatureBatch, side: Side) -> _LookedUp:
        """Pooled embeddings of one side, as a leaf."""
        tables, features = self.model.tables, getattr(batch, side)
        num_features = len(tables.spec.sparse(side))
        shape = (features.num_rows, num_features, tables.embedding_dim)
        if not num_features:
            return _LookedUp(features, features.values_L, torch.zeros(shape))
        ids_L = tables.merged_ids(features, side)
        pooled_GD = pooled_lookup(tables.weight_VD, ids_L, features.offsets, features.weights_L)
        return _LookedUp(features, ids_L, pooled_GD.view(shape).requires_grad_())


class _LookedUp(NamedTuple):
    """One side of a batch after the lookup, its ids as rows of the merged weight."""

    features: SideFeatures
    ids_L: Tensor
    leaf_RFD: Tensor


def _table_gradients(sides: list[_LookedUp]) -> RowGradients:
    """Row gradients of both sides together, as sides may share tables."""
    ids, offsets, gradients, weights, start = [], [torch.zeros(1, dtype=torch.int64)], [], [], 0
    for features, ids_L, leaf_RFD in sides:
        if leaf_RFD.grad is None:  # a side without sparse features
            continue
        ids.append(ids_L)
        offsets.append(features.offsets[1:] + start)
        gradients.append(leaf_RFD.grad.flatten(0, 1))
        start += features.num_ids
        factor_L = features.weights_L
        weights.append(torch.ones(features.num_ids) if factor_L is None else factor_L)
    weighted = any(features.weights_L is not None for features, _, _ in sides)
    return row_gradients(
        torch.cat(ids),
        torch.cat(offsets),
        torch.cat(gradients),
        torch.cat(weights) if weighted else None,
    )
