"""Scores a split with a model and collects the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailrank.core.errors import RequestError
from tailrank.data.dataset import SPLITS, Dataset, Split
from tailrank.features import FeatureBatch, Labels
from tailrank.inference import Ranker
from tailrank.metrics import BinaryMetrics
from tailrank.models import RankingModel

_BATCH_ITEMS = 4096  # larger ones leave the L2 cache and are no faster


def evaluate(
    model: RankingModel,
    dataset: Dataset,
    splits: Sequence[Split],
    progress: Callable[[int, int], None] = lambda done, total: None,
    seen: Callable[[FeatureBatch], None] = lambda batch: None,
) -> dict[str, BinaryMetrics]:
    """Rows of these splits scored by `model`, in time order: for each task those of known label.

    The model is left in `eval` mode.

    Args:
        model: to score with.
        dataset: holds the rows.
        splits: which of them.
        progress: told the rows scored so far, and all.
        seen: told every batch that was scored.

    Raises:
        ConfigError: there is no such split.
        RequestError: it has no rows.
    """
    model.eval()

    def probabilities(batch: FeatureBatch) -> Tensor:
        # In double precision, or confident scores would round to equal probabilities.
        logits_BT: Tensor = model(batch)
        return logits_BT.double().sigmoid()

    return _collect(probabilities, dataset, splits, progress, seen)


def evaluate_ranker(
    ranker: Ranker,
    dataset: Dataset,
    splits: Sequence[Split],
    progress: Callable[[int, int], None] = lambda done, total: None,
    seen: Callable[[FeatureBatch], None] = lambda batch: None,
) -> dict[str, BinaryMetrics]:
    """The same with the probabilities that a ranker gives, as they are."""

    def probabilities(batch: FeatureBatch) -> Tensor:
        return ranker.rank(batch).double().view(batch.num_items, len(dataset.tasks))

    return _collect(probabilities, dataset, splits, progress, seen)


def mean_over_tasks(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the tasks that have it.

    Args:
        values: of each task, those metrics that its rows have.
    """
    found: dict[str, list[float]] = {}
    for of_task in values.values():
        for name, value in of_task.items():
            found.setdefault(name, []).append(value)
    return {name: sum(of_tasks) / len(of_tasks) for name, of_tasks in found.items()}


def _collect(
    probabilities: Callable[[FeatureBatch], Tensor],
    dataset: Dataset,
    splits: Sequence[Split],
    progress: Callable[[int, int], None],
    seen: Callable[[FeatureBatch], None],
) -> dict[str, BinaryMetrics]:
    """The rows of these splits with their scores, for each task."""
    scored = {task: BinaryMetrics() for task in dataset.tasks}
    done, total = 0, dataset.num_rows(splits)
    if not total:
        of = f"{dataset.num_rows(SPLITS)} rows are too few to cut into three"
        otherwise = "name a longer log, or score every row with evaluate --split all"
        reason = f"no {' or '.join(splits)} rows: {of}; {otherwise}"
        raise RequestError("--split", reason)
    with torch.inference_mode():
        for batch, labels in dataset.batches(splits, _BATCH_ITEMS):
            scores_BT = probabilities(batch).numpy()
            for column, rows in enumerate(scored.values()):
                _add_known(rows, scores_BT[:, column], labels, column)
            seen(batch)
            done += batch.num_items
            progress(done, total)
    return scored


def _add_known(
    rows: BinaryMetrics, scores_B: NDArray[np.float64], labels: Labels, column: int
) -> None:
    """Add the rows whose label of this task is known."""
    label_B = labels.values_BT[:, column].numpy()
    group_B = None if labels.group_B is None else labels.group_B.numpy()
    if labels.mask_BT is not None:
        known_B = labels.mask_BT[:, column].numpy()
        scores_B, label_B = scores_B[known_B], label_B[known_B]
        group_B = None if group_B is None else group_B[known_B]
    if len(scores_B):
        rows.update(scores_B, label_B, group_B)
