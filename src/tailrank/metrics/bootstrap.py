"""How sure a difference of two models' metrics on the same rows is.

Knows no model and no data set. Every draw only weighs the rows, or groups, anew: rows are sorted
once, and a block of draws is weighed at once.

Legend: B rows, G groups (users or queries; rows, where there are none), D draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from tailrank.core.errors import ConfigError
from tailrank.metrics.ranking import (
    Bools,
    Floats,
    Ints,
    RankedRows,
    means_of_known,
    per_group,
    row_losses,
)

PairedMetric = Literal["auc", "logloss", "grouped_auc", "ndcg_at_10", "hit_rate_at_10"]
GROUP_METRICS = ("grouped_auc", "ndcg_at_10", "hit_rate_at_10")
"""Metrics that only rows with groups have."""

_DRAWS = 32
"""Draws of the bootstrap that are weighed together; fewer where their weights would be large."""

_BLOCK_WEIGHTS = 1 << 22
"""Weights of rows or groups held at once, 32 MiB."""


def paired_bootstrap(
    scores: ArrayLike,
    other_scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    metric: PairedMetric = "auc",
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[float, float, float]:
    """A metric of `scores` minus that of `other_scores` on the same rows, with an interval.

    Rows are resampled with replacement, the same ones for both models, so the luck of the draw
    that both share cancels. Rows of a group resemble one another, so where there are groups whole
    groups are resampled instead. The interval is that of percentiles.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 13.3; Davison and Hinkley,
    Bootstrap Methods and Their Application, 3.8 (groups).

    Args:
        scores: one score per row; or one line per run of a model trained from several seeds,
            whose metric is then the mean over its runs.
        other_scores: likewise, of the model to compare with.
        labels: 0 or 1 per row.
        groups: the group of each row; None: every row is its own.
        metric: what to compare; those of `GROUP_METRICS` need groups.
        num_resamples: draws of as many rows, or groups, as there are.
        seed: of the draws.
        confidence: of the interval.
        progress: told the draws done, after each block of them.

    Returns:
        (difference, low, high).

    Raises:
        ConfigError: they differ in length, or classes or groups that the metric needs are missing.
    """
    positive = np.asarray(labels).reshape(-1) == 1
    both = [np.atleast_2d(np.asarray(s, dtype=np.float64)) for s in (scores, other_scores)]
    if any(runs.shape[1] != len(positive) for runs in both):
        raise ConfigError("scores", [runs.shape for runs in both], f"{len(positive)} rows each")
    if metric in ("auc", "grouped_auc") and (positive.all() or not positive.any()):
        raise ConfigError("labels", "one class", f"both classes, for {metric}")
    if metric not in get_args(PairedMetric):
        raise ConfigError("metric", metric, " or ".join(get_args(PairedMetric)))
    if groups is None and metric in GROUP_METRICS:
        raise ConfigError("groups", None, f"the group of each row, which {metric} needs")
    group_B = np.arange(len(positive)) if groups is None else np.asarray(groups).reshape(-1)
    if len(group_B) != len(positive):
        raise ConfigError("groups", len(group_B), f"{len(positive)}, as many as rows")
    if groups is not None:
        group_B = np.unique(group_B, return_inverse=True)[1]
    first, second = ([_reweighted(metric, run, positive, group_B) for run in runs] for runs in both)

    def difference(weight_GD: Floats) -> Floats:
        mine, other = (np.stack([run(weight_GD) for run in runs]) for runs in (first, second))
        apart: Floats = mine.mean(axis=0) - other.mean(axis=0)
        return apart

    rng, count = np.random.default_rng(seed), int(group_B.max()) + 1
    block, drawn = min(_DRAWS, max(1, _BLOCK_WEIGHTS // count)), np.empty(num_resamples)
    for start in range(0, num_resamples, block):
        stop = min(start + block, num_resamples)
        weight_GD = np.empty((count, stop - start))
        for draw in range(stop - start):
            weight_GD[:, draw] = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn[start:stop] = difference(weight_GD)
        progress(stop)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.nanpercentile(drawn, [tail, 100.0 - tail])
    return float(difference(np.ones((count, 1)))[0]), float(low), float(high)


def _reweighted(
    metric: PairedMetric, scores: Floats, labels: Bools, group_B: Ints
) -> Callable[[Floats], Floats]:
    """The metric of these rows as a function of draws: (G, D) weights of their groups to (D,)."""
    if metric == "auc":
        return RankedRows(scores, labels, group_B).auc
    if metric == "logloss":
        loss_G, rows_G = np.bincount(group_B, row_losses(scores, labels)), np.bincount(group_B)
        return lambda weight_GD: loss_G @ weight_GD / (rows_G @ weight_GD)
    groups = per_group(scores, labels, group_B)
    if metric == "grouped_auc":
        return lambda weight_GD: means_of_known(groups.auc_G, groups.num_rows_G, weight_GD)
    value_G = groups.ndcg_at_10_G if metric == "ndcg_at_10" else groups.hit_rate_at_10_G
    return lambda weight_GD: means_of_known(value_G, np.ones(len(value_G)), weight_GD)
