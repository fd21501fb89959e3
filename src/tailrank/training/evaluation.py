"""Scores a split with a model and collects the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tailrank.core.errors import RequestError
from tailrank.data.dataset import SPLITS, Dataset, Split
from tailrank.features import FeatureBatch
from tailrank.inference import Ranker
from tailrank.metrics import BinaryMetrics
from tailrank.models import RankingModel

_BATCH_ITEMS = 4096  # larger ones leave the L2 cache and are no faster


def evaluate(
    model: RankingModel,
    dataset: Dataset,
    splits: Sequence[Split],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinaryMetrics:
    """Metrics of `model` on the rows of these splits, in time order; leaves it in `eval` mode.

    Args:
        model: to score with.
        dataset: holds the rows.
        splits: which of them.
        progress: told the rows scored so far, and all.

    Raises:
        ConfigError: there is no such split.
        RequestError: it has no rows.
    """
    model.eval()

    def probabilities(batch: FeatureBatch) -> Tensor:
        # In double precision, or confident scores would round to equal probabilities.
        logits_BT: Tensor = model(batch)
        return logits_BT.double().sigmoid()

    return _collect(probabilities, dataset, splits, progress)


def evaluate_ranker(
    ranker: Ranker,
    dataset: Dataset,
    splits: Sequence[Split],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinaryMetrics:
    """The same with the probabilities that a ranker gives, as they are."""
    return _collect(lambda b: ranker.rank(b).double().unsqueeze(1), dataset, splits, progress)


def _collect(
    probabilities: Callable[[FeatureBatch], Tensor],
    dataset: Dataset,
    splits: Sequence[Split],
    progress: Callable[[int, int], None],
) -> BinaryMetrics:
    """Metrics of the rows of these splits."""
    metrics, done, total = BinaryMetrics(), 0, dataset.num_rows(splits)
    if not total:
        of = f"{dataset.num_rows(SPLITS)} rows are too few to cut into three"
        otherwise = "name a longer log, or score every row with evaluate --split all"
        reason = f"no {' or '.join(splits)} rows: {of}; {otherwise}"
        raise RequestError("--split", reason)
    with torch.inference_mode():
        for batch, labels in dataset.batches(splits, _BATCH_ITEMS):
            scores_BT = probabilities(batch).numpy()
            groups_B = None if labels.group_B is None else labels.group_B.numpy()
            metrics.update(scores_BT, labels.values_BT.numpy(), groups_B)
            done += batch.num_items
            progress(done, total)
    return metrics
