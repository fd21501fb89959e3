"""A running mean of all weights: at a constant rate their last values are one noisy sample.

A row that no batch reads keeps its weights, so its mean is brought up to date when it is read next,
or when the mean is asked for: a step costs what the batch read, never what the table holds.

Legend: K different rows that a batch reads, V table rows, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tailrank.models import RankingModel

# Brought up to date at once: shares of all rows, in double precision, could outweigh small rows.
_BLOCK_ROWS = 1 << 18


class WeightAverage:
    """Mean of a model's weights after each step, later steps weighing more.

    Of n steps the first a weigh (a / n) ** (1 / fraction) together, whatever n is, so that about
    the last `fraction` of a run counts.

    Args:
        model: its weights are read, and changed inside `applied` only. Statistics of activations
            count as weights: those of other weights would not fit the mean.
        fraction: above 0; 1 is the plain mean.

    Source: Shamir and Zhang, Stochastic Gradient Descent for Non-smooth Optimization, ICML 2013,
    section 4, polynomial-decay averaging, with weights that add up exactly over any stretch of
    steps.
    """

    def __init__(self, model: RankingModel, fraction: float) -> None:
        self._power = 1.0 / fraction
        self._table = model.tables.weight_VD
        self._dense = [*model.dense_parameters(), *model.statistics()]
        self._mean_VD = self._table.detach().clone()
        self._dense_means = [parameter.detach().clone() for parameter in self._dense]
        # How many steps each mean has seen; all a tensor, as all of it goes into checkpoints.
        self._seen_V = torch.zeros(self._table.shape[0], dtype=torch.int32)
        self._dense_seen = torch.zeros((), dtype=torch.int64)
        self._num_steps = torch.zeros((), dtype=torch.int64)

    def before_forward(self) -> None:
        """Take in all dense weights, which are about to change, statistics of activations first."""
        self._catch_up_dense()

    @torch.no_grad()
    def before_step(self, rows_K: Tensor) -> None:
        """Take in the weights of these rows, which are about to change; after `before_forward`."""
        new_K = self._new(self._seen_V.index_select(0, rows_K))
        mean_KD = self._mean_VD.index_select(0, rows_K)
        mean_KD.lerp_(self._table.index_select(0, rows_K), new_K.unsqueeze(1))
        self._mean_VD.index_copy_(0, rows_K, mean_KD)
        self._seen_V.index_fill_(0, rows_K, int(self._num_steps))
        self._num_steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the mean for its weights, in here."""
        self._catch_up()
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Tensors to put into a checkpoint, by name; the mean's own, not copies."""
        tensors = {"mean_VD": self._mean_VD, "seen_V": self._seen_V}
        tensors |= {"dense_seen": self._dense_seen, "num_steps": self._num_steps}
        return tensors | {f"dense.{i}": mean for i, mean in enumerate(self._dense_means)}

    @torch.no_grad()
    def _catch_up(self) -> None:
        """Bring every mean up to the last step."""
        self._catch_up_dense()
        whole = (self._mean_VD, self._table, self._seen_V)
        for mean_KD, row_KD, seen_K in zip(
            *(torch.split(t, _BLOCK_ROWS) for t in whole), strict=True
        ):
            mean_KD.lerp_(row_KD, self._new(seen_K).unsqueeze(1))
        self._seen_V.copy_(self._num_steps)

    @torch.no_grad()
    def _catch_up_dense(self) -> None:
        """Bring the means of the dense parameters up to the last step."""
        new = self._new(self._dense_seen)
        for mean, parameter in zip(self._dense_means, self._dense, strict=True):
            mean.lerp_(parameter, new)
        self._dense_seen.copy_(self._num_steps)

    def _new(self, seen: Tensor) -> Tensor:
        """How much the weights since weigh in a mean that has seen so many steps."""
        old = (seen.double() / self._num_steps.clamp(min=1)).pow_(self._power)
        return old.neg_().add_(1.0).float()

    def _swap(self) -> None:
        """Exchange weights and means, without a copy."""
        self._table.data, self._mean_VD = self._mean_VD, self._table.data
        for i, parameter in enumerate(self._dense):
            parameter.data, self._dense_means[i] = self._dense_means[i], parameter.data
