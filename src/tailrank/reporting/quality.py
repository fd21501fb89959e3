"""Scored rows as the columns of a report: calibration, separation of the classes, users.

Knows no model and no data set.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tailrank.metrics import DEPTH, BinaryMetrics
from tailrank.reporting.report_data import GroupBin, ReliabilityBin, ReportData, ScoreBin

_Z_95 = 1.959964  # two-sided 95 % point of the normal distribution
_NUM_SCORE_BINS, _NUM_GROUP_BINS = 40, 20


def quality_columns(scored: Mapping[str, BinaryMetrics]) -> ReportData:
    """What there is to draw about scored rows; per-group columns only where rows have groups.

    Args:
        scored: the rows of each task; a bin names its task where there are several.
    """
    columns = ReportData()
    for name, rows in scored.items():
        if not len(rows.scores):
            continue
        task, groups = name if len(scored) > 1 else "", rows.per_group()
        columns.reliability.extend(reliability(rows.scores, rows.labels, task=task))
        columns.score_counts.extend(score_counts(rows.scores, rows.labels, task))
        columns.group_auc.extend([] if groups is None else group_auc(groups.auc_G, task))
    return columns


def undefined_metrics(scored: Mapping[str, BinaryMetrics]) -> list[str]:
    """Which metrics the rows of each task do not have, and why, a line each."""
    found = []
    for task, rows in scored.items():
        of = f" of {task}" if len(scored) > 1 else ""
        labels, groups = rows.labels, rows.per_group()
        if not len(labels):
            found.append(f"every metric{of} is undefined: no row has a label of it")
        elif labels.all() or not labels.any():
            which = f"all {len(labels):,} rows have label {int(labels[0])}"
            found.append(f"AUC{of} is undefined: {which}, and ranking needs both")
        elif groups is not None and np.isnan(groups.auc_G).all():
            why = "no user or query has rows of both classes"
            found.append(f"grouped AUC{of} is undefined: {why}")
    return found


def certain_metrics(scored: Mapping[str, BinaryMetrics]) -> list[str]:
    """Which metrics of each task are 1 in any order of the rows, and why, a line each."""
    found = []
    for task, rows in scored.items():
        of = f" of {task}" if len(scored) > 1 else ""
        if rows.groups is None or not rows.labels.any():
            continue
        group_B = np.unique(rows.groups, return_inverse=True)[1]
        positive_G = np.bincount(group_B, rows.labels)
        num_negatives = int((np.bincount(group_B) - positive_G)[positive_G > 0].max())
        who = "no user or query with a positive row has"
        if num_negatives == 0:
            found.append(f"NDCG@10 and HR@10{of} are 1 whatever the scores: {who} a negative one")
        elif num_negatives < DEPTH:  # they leave one of the ten best places to a positive row
            found.append(f"HR@10{of} is 1 whatever the scores: {who} ten negative ones")
    return found


def reliability(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], num_bins: int = 10, task: str = ""
) -> list[ReliabilityBin]:
    """Rows in bins of equal number by rising score, with Wilson's interval of each rate.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.

    Args:
        scores: float64, predicted probabilities.
        labels: whether each row is positive.
        num_bins: bins; fewer where there are fewer rows.
        task: that every bin names.
    """
    order = np.argsort(scores, kind="stable")
    found = []
    for rows in np.array_split(order, min(num_bins, len(order))):
        count, rate = len(rows), float(labels[rows].mean())
        spread = _Z_95**2 / count
        middle = (rate + spread / 2) / (1 + spread)
        half = np.sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
        found.append(
            ReliabilityBin(
                score=float(scores[rows].mean()),
                rate=rate,
                rate_low=max(0.0, float(middle - half)),
                rate_high=min(1.0, float(middle + half)),
                num_rows=count,
                task=task,
            )
        )
    return found


def score_counts(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], task: str = ""
) -> list[ScoreBin]:
    """How the scores of either class spread, from the least score to the largest."""
    low, high = float(scores.min()), float(scores.max())
    if high - low <= _NUM_SCORE_BINS * np.spacing(high):  # as good as equal: no bins in between
        low, high = low - 0.5, high + 0.5
    edges = np.histogram_bin_edges(scores, _NUM_SCORE_BINS, (low, high))
    shares = []
    for rows in (labels, ~labels):
        counts, _ = np.histogram(scores[rows], edges)
        shares.append(counts / max(1, int(rows.sum())))
    return [
        ScoreBin(
            low=low,
            high=high,
            positive_fraction=positive,
            negative_fraction=negative,
            task=task,
        )
        for low, high, positive, negative in zip(
            edges[:-1].tolist(), edges[1:].tolist(), *(s.tolist() for s in shares), strict=True
        )
    ]


def group_auc(auc_G: NDArray[np.float64], task: str = "") -> list[GroupBin]:
    """How the groups' own AUC spreads.

    Args:
        auc_G: float64, NaN for groups of one class, which have none.
        task: that every bin names.
    """
    counts, edges = np.histogram(auc_G[~np.isnan(auc_G)], _NUM_GROUP_BINS, (0.0, 1.0))
    return [
        GroupBin(low=low, high=high, num_groups=count, task=task)
        for low, high, count in zip(
            edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True
        )
        if counts.any()
    ]
