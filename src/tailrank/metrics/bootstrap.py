"""How sure a difference of two models' metrics on the same rows is.

Knows no model and no data set. Every draw only weighs the rows, or groups, anew: rows are sorted
once, and a block of draws is weighed at once.

Legend: B rows, G groups (users or queries; rows, where there are none), D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
    """A metric of `scores` minus that of `other_scores` on the same rows: see `paired_bootstraps`.

    Returns:
        (difference, low, high).
    """
    (found,) = paired_bootstraps(
        scores,
        other_scores,
        labels,
        groups,
        metrics=[metric],
        num_resamples=num_resamples,
        seed=seed,
        confidence=confidence,
        progress=progress,
    )
    return found


def paired_bootstraps(
    scores: ArrayLike,
    other_scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    metrics: Sequence[PairedMetric],
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Callable[[int], None] = lambda done: None,
) -> list[tuple[float, float, float]]:
    """Metrics of `scores` minus those of `other_scores` on the same rows, with intervals.

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
        metrics: what to compare, all by the same draws; those of `GROUP_METRICS` need groups.
        num_resamples: draws of as many rows, or groups, as there are.
        seed: of the draws.
        confidence: of the interval.
        progress: told the draws done, after each block of them.

    Returns:
        (difference, low, high) of each metric.

    Raises:
        ConfigError: they differ in length, or classes or groups that a metric needs are missing.
    """
    positive = np.asarray(labels).reshape(-1) == 1
    both = [np.atleast_2d(np.asarray(s, dtype=np.float64)) for s in (scores, other_scores)]
    if any(runs.shape[1] != len(positive) for runs in both):
        raise ConfigError("scores", [runs.shape for runs in both], f"{len(positive)} rows each")
    for metric in metrics:
        _check(metric, positive, groups)
    group_B = np.arange(len(positive)) if groups is None else np.asarray(groups).reshape(-1)
    if len(group_B) != len(positive):
        raise ConfigError("groups", len(group_B), f"{len(positive)}, as many as rows")
    if groups is not None:
        group_B = np.unique(group_B, return_inverse=True)[1]
    first, second = (
        [_reweighted(metrics, run, positive, group_B) for run in runs] for runs in both
    )

    def differences(weight_GD: Floats) -> Floats:
        """Of every metric and draw."""
        mine, other = (
            np.mean([[of(weight_GD) for of in run] for run in runs], axis=0)
            for runs in (first, second)
        )
        apart: Floats = mine - other
        return apart

    rng, count = np.random.default_rng(seed), int(group_B.max()) + 1
    block = min(_DRAWS, max(1, _BLOCK_WEIGHTS // count))
    drawn = np.empty((len(metrics), num_resamples))
    for start in range(0, num_resamples, block):
        stop = min(start + block, num_resamples)
        weight_GD = np.empty((count, stop - start))
        for draw in range(stop - start):
            weight_GD[:, draw] = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn[:, start:stop] = differences(weight_GD)
        progress(stop)
    tail = 50.0 * (1.0 - confidence)
    whole = differences(np.ones((count, 1)))[:, 0]
    bounds = [np.nanpercentile(of_metric, [tail, 100.0 - tail]) for of_metric in drawn]
    return [
        (float(value), float(low), float(high))
        for value, (low, high) in zip(whole, bounds, strict=True)
    ]


def _check(metric: PairedMetric, positive: Bools, groups: ArrayLike | None) -> None:
    """Refuse rows that cannot have the metric."""
    if metric in ("auc", "grouped_auc") and (positive.all() or not positive.any()):
        raise ConfigError("labels", "one class", f"both classes, for {metric}")
    if metric not in get_args(PairedMetric):
        raise ConfigError("metric", metric, " or ".join(get_args(PairedMetric)))
    if groups is None and metric in GROUP_METRICS:
        raise ConfigError("groups", None, f"the group of each row, which {metric} needs")


def _reweighted(
    metrics: Sequence[PairedMetric], scores: Floats, labels: Bools, group_B: Ints
) -> list[Callable[[Floats], Floats]]:
    """Each metric of these rows as a function of draws: (G, D) weights of groups to (D,)."""
    found: list[Callable[[Floats], Floats]] = []
    groups = per_group(scores, labels, group_B) if {*metrics} & {*GROUP_METRICS} else None
    for metric in metrics:
        if metric == "auc":
            found.append(RankedRows(scores, labels, group_B).auc)
            continue
        if groups is None or metric == "logloss":
            loss_G = np.bincount(group_B, row_losses(scores, labels))
            value_G, size_G = loss_G / np.bincount(group_B), np.bincount(group_B)
        elif metric == "grouped_auc":
            value_G, size_G = groups.auc_G, groups.num_rows_G
        else:
            at_10 = metric == "ndcg_at_10"
            value_G = groups.ndcg_at_10_G if at_10 else groups.hit_rate_at_10_G
            size_G = np.ones(len(value_G), dtype=np.int64)
        found.append(partial(means_of_known, value_G, size_G))
    return found
