"""Scores a split with a model and collects the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tailrank.data.dataset import Dataset, Split
from tailrank.metrics import BinaryMetrics
from tailrank.models import RankingModel

_BATCH_ITEMS = 4096  # larger ones leave the L2 cache and are no faster


def evaluate(model: RankingModel, dataset: Dataset, splits: Sequence[Split]) -> BinaryMetrics:
    """Metrics of `model` on the rows of these splits, in time order.

    Raises:
        ConfigError: there is no such split.
    """
    metrics = BinaryMetrics()
    with torch.inference_mode():
        for batch, labels in dataset.batches(splits, _BATCH_ITEMS):
            # In double precision, or confident scores would round to equal probabilities.
            scores_BT = model(batch).double().sigmoid().numpy()
            groups_B = None if labels.group_B is None else labels.group_B.numpy()
            metrics.update(scores_BT, labels.values_BT.numpy(), groups_B)
    return metrics
