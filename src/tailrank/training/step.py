"""One training step: look up, forward, backward, update.

Autograd sees the dense part only. Its gradient ends at the pooled embeddings, a leaf; from there
the rows that the batch read are updated by hand, so no step ever holds a gradient of a table's
size, dense or sparse.

Legend: B items, T tasks, L ids, G bags, D dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.embeddings import Pooled
from tailrank.features import SIDES, FeatureBatch, Labels
from tailrank.kernels.reference import pooled_lookup
from tailrank.models.dlrm import DLRM
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

    def __init__(self, model: DLRM, config: TrainingConfig) -> None:
        self.model, self.config = model, config
        table_lr = config.lr if config.table_lr is None else config.table_lr
        self.tables = table_optimizer(
            config.table_optimizer, model.tables.weight_VD.detach(), table_lr
        )
        self.dense = dense_optimizer(
            config.dense_optimizer, model.dense_parameters(), config.lr, config.weight_decay
        )
        self._rates = (config.lr, table_lr)

    def scale_rates(self, factor: float) -> None:
        """Set both learning rates to `factor` times those of the config."""
        for group in self.dense.param_groups:
            group["lr"] = self._rates[0] * factor
        self.tables.lr = self._rates[1] * factor

    def __call__(self, batch: FeatureBatch, labels: Labels) -> float:
        """One step; returns the loss before it.

        Raises:
            ConfigError: an id is outside its table.
        """
        tables = self.model.tables
        ids, leaves = [], []
        for side in SIDES:
            features = getattr(batch, side)
            num_features = len(tables.spec.sparse(side))
            ids_L = tables.merged_ids(features, side)
            if num_features:
                pooled_GD = pooled_lookup(
                    tables.weight_VD, ids_L, features.offsets, features.weights_L
                )
            else:
                pooled_GD = features.dense_RN.new_empty(0, tables.embedding_dim)
            ids.append(ids_L)
            shape = (features.num_rows, num_features, tables.embedding_dim)
            leaves.append(pooled_GD.view(shape).requires_grad_())
        loss = loss_of(self.model.score(batch, Pooled(*leaves)), labels)
        self.dense.zero_grad(set_to_none=True)
        loss.backward()
        self.dense.step()
        self.tables.step(_table_gradients(batch, ids, leaves))
        return loss.item()


def _table_gradients(batch: FeatureBatch, ids: list[Tensor], leaves: list[Tensor]) -> RowGradients:
    """Row gradients of both sides together, as sides may share tables."""
    used = [
        (getattr(batch, side), ids_L, leaf)
        for side, ids_L, leaf in zip(SIDES, ids, leaves, strict=True)
        if leaf.grad is not None and ids_L.shape[0]
    ]
    offsets, weights, start = [torch.zeros(1, dtype=torch.int64)], [], 0
    for features, ids_L, _ in used:
        offsets.append(features.offsets[1:] + start if start else features.offsets[1:])
        start += features.num_ids
        if features.weights_L is not None:
            weights.append(features.weights_L)
        elif any(other.weights_L is not None for other, _, _ in used):
            weights.append(torch.ones(ids_L.shape[0]))
    if len(used) == 1:
        features, ids_L, leaf = used[0]
        return row_gradients(ids_L, features.offsets, leaf.grad.flatten(0, 1), features.weights_L)
    return row_gradients(
        torch.cat([ids_L for _, ids_L, _ in used]),
        torch.cat(offsets),
        torch.cat([leaf.grad.flatten(0, 1) for _, _, leaf in used]),
        torch.cat(weights) if weights else None,
    )
