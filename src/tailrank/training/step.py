"""One training step: look up, forward, backward, update.

Autograd sees the dense part only. Its gradient ends at what the lookups gave, its leaves; from
there the rows that the batch read are updated by hand, so no step ever holds a gradient of a
table's size, dense or sparse.

Legend: B items, T tasks, L ids, G bags, D dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, Labels, SideFeatures
from tailrank.kernels.sparse_reference import Bags
from tailrank.kernels.sparse_update import RowsRead
from tailrank.models import RankingModel
from tailrank.training.averaging import WeightAverage
from tailrank.training.config import TrainingConfig
from tailrank.training.optimizers import TableOptimizer, dense_optimizer


def loss_of(
    logits_BT: Tensor, labels: Labels, task_weights: Sequence[float] | None = None
) -> Tensor:
    """Cross entropy in nats: mean over a task's known labels, weighted sum over tasks.

    Args:
        logits_BT: what the model says.
        labels: of samples that may carry weights. A task without a known label adds nothing, and
            what stands where a label is unknown does not matter.
        task_weights: one per task; None: all 1.
    """
    plain = labels.mask_BT is None and labels.weights_B is None and task_weights is None
    if plain and logits_BT.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits_BT, labels.values_BT)
    weight_BT, value_BT = torch.ones_like(logits_BT), labels.values_BT
    if labels.mask_BT is not None:
        weight_BT = weight_BT * labels.mask_BT
        value_BT = value_BT.where(labels.mask_BT, 0.0)
    if labels.weights_B is not None:
        weight_BT = weight_BT * labels.weights_B.unsqueeze(1)
    loss_BT = F.binary_cross_entropy_with_logits(
        logits_BT, value_BT, weight=weight_BT, reduction="none"
    )
    weight_T = weight_BT.sum(0)
    loss_T = loss_BT.sum(0) / weight_T.where(weight_T > 0.0, 1.0)
    return loss_T.sum() if task_weights is None else loss_T @ loss_T.new_tensor(task_weights)


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
        """One step; returns the loss before it, without a model's auxiliary loss.

        Raises:
            ConfigError: an id is outside its table, or gradients to clip are no longer finite.
        """
        if not self.model.training:
            self.model.train()
        if self.average is not None:
            self.average.before_forward()
        batch = self.model.prepare(batch)
        reads: list[_Read] = []
        pooled = self._embed(batch, reads)
        logits_BT, auxiliary = self.model.score_and_auxiliary(batch, pooled)
        loss = loss_of(logits_BT, labels, self.config.task_weights)
        self.dense.zero_grad(set_to_none=True)
        torch.autograd.backward(loss if auxiliary is None else loss + auxiliary)
        rows = self.tables.read([read.gradient() for read in reads if read.is_used()])
        scale = 1.0
        if self.config.clip_norm is not None:
            scale = self._clip(rows, self.config.clip_norm)
        if self.average is not None:
            self.average.before_step(rows.rows())
        self.dense.step()
        self.tables.step(rows, scale=scale, l2=self.config.table_l2)
        return loss.item()

    def _clip(self, rows: RowsRead, norm_max: float) -> float:
        """Scale the gradients so that the norm of all together is `norm_max` at most.

        Returns:
            The factor for those of the rows; the dense ones have it already.
        """
        gradients = [p.grad for p in self._dense_parameters if p.grad is not None]
        dense_norm = float(torch.nn.utils.get_total_norm(gradients))
        self.gradient_norm = math.sqrt(dense_norm**2 + rows.squared_norm())
        if not math.isfinite(self.gradient_norm):
            raise ConfigError("lr", self.config.lr, "less: the gradient is no longer finite")
        factor = norm_max / (self.gradient_norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
        if factor >= 1.0:
            return 1.0
        for gradient in gradients:
            gradient.mul_(factor)
        return factor

    def _embed(self, batch: FeatureBatch, reads: list[_Read]) -> Pooled:
        """Embeddings of a batch; what each lookup gave is added to `reads`, as a leaf."""
        tables = self.model.tables

        def look_up(number: int, bags: SideFeatures) -> Tensor:
            reads.append(_Read(bags, tables.look_up(number, bags).requires_grad_()))
            return reads[-1].leaf_GD

        return tables.pool(tables.merged(batch), look_up)


class _Read(NamedTuple):
    """What one lookup read, its ids as rows of the merged weight, and what it gave."""

    bags: SideFeatures
    leaf_GD: Tensor

    def is_used(self) -> bool:
        """Whether the model made use of it."""
        return self.leaf_GD.grad is not None

    def gradient(self) -> Bags:
        """What the tables' optimiser has to know of it after the backward pass."""
        assert self.leaf_GD.grad is not None
        bags = self.bags
        return Bags(bags.values_L, bags.offsets, self.leaf_GD.grad, bags.weights_L)
