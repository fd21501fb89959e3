"""One training step: look up, forward, backward, update.

Autograd sees the dense part only. Its gradient ends at the pooled embeddings, a leaf; from there
the rows that the batch read are updated by hand, so no step ever holds a gradient of a table's
size, dense or sparse.

Legend: B items, T tasks, L ids, G bags, D dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.embeddings import Pooled
from tailrank.features import SIDES, FeatureBatch, Labels, Side, SideFeatures
from tailrank.kernels.reference import pooled_lookup
from tailrank.models import RankingModel
from tailrank.training.config import TrainingConfig
from tailrank.training.optimizers import (
    RowGradients,
    dense_optimizer,
    row_gradients,
    table_optimizer,
)


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
    """

    def __init__(self, model: RankingModel, config: TrainingConfig) -> None:
        self.model, self.config = model, config
        table_lr = config.lr if config.table_lr is None else config.table_lr
        self.tables = table_optimizer(
            config.table_optimizer, model.tables.weight_VD.detach(), table_lr
        )
        self.dense = dense_optimizer(
            config.dense_optimizer, model.dense_parameters(), config.lr, config.weight_decay
        )

    def scale_dense_rate(self, factor: float) -> None:
        """Set the dense learning rate to `factor` times that of the config."""
        for group in self.dense.param_groups:
            group["lr"] = self.config.lr * factor

    def __call__(self, batch: FeatureBatch, labels: Labels) -> float:
        """One step; returns the loss before it.

        Raises:
            ConfigError: an id is outside its table.
        """
        sides = [self._look_up(batch, side) for side in SIDES]
        pooled = Pooled(*(side.leaf_RFD for side in sides))
        loss = loss_of(self.model.score(batch, pooled), labels)
        self.dense.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.dense.step()
        self.tables.step(_table_gradients(sides))
        return loss.item()

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
