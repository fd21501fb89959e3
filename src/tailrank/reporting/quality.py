"""Scored rows as the columns of a report: calibration, separation of the classes, users.

Knows no model and no data set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tailrank.metrics import BinaryMetrics
from tailrank.reporting.report_data import GroupBin, ReliabilityBin, ReportData, ScoreBin

_Z_95 = 1.959964  # two-sided 95 % point of the normal distribution
_NUM_SCORE_BINS, _NUM_GROUP_BINS = 40, 20


def quality_columns(scored: BinaryMetrics) -> ReportData:
    """What there is to draw about scored rows; per-group columns only where rows have groups."""
    groups = scored.per_group()
    return ReportData(
        reliability=reliability(scored.scores, scored.labels),
        score_counts=score_counts(scored.scores, scored.labels),
        group_auc=[] if groups is None else group_auc(groups.auc_G),
    )


def undefined_metrics(scored: BinaryMetrics) -> str | None:
    """Which metrics the rows do not have, and why, in words; None: they have all of theirs."""
    labels, groups = scored.labels, scored.per_group()
    if labels.all() or not labels.any():
        which = f"all {len(labels):,} rows have label {int(labels[0])}"
        return f"AUC is undefined: {which}, and ranking needs both"
    if groups is not None and np.isnan(groups.auc_G).all():
        return "grouped AUC is undefined: no user or query has rows of both classes"
    return None


def reliability(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], num_bins: int = 10
) -> list[ReliabilityBin]:
    """Rows in bins of equal number by rising score, with Wilson's interval of each rate.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.

    Args:
        scores: float64, predicted probabilities.
        labels: whether each row is positive.
        num_bins: bins; fewer where there are fewer rows.
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
            )
        )
    return found


def score_counts(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> list[ScoreBin]:
    """How the scores of either class spread, from the least score to the largest."""
    edges = np.histogram_bin_edges(scores, _NUM_SCORE_BINS)
    shares = []
    for rows in (labels, ~labels):
        counts, _ = np.histogram(scores[rows], edges)
        shares.append(counts / max(1, int(rows.sum())))
    return [
        ScoreBin(low=low, high=high, positive_fraction=positive, negative_fraction=negative)
        for low, high, positive, negative in zip(
            edges[:-1].tolist(), edges[1:].tolist(), *(s.tolist() for s in shares), strict=True
        )
    ]


def group_auc(auc_G: NDArray[np.float64]) -> list[GroupBin]:
    """How the groups' own AUC spreads.

    Args:
        auc_G: float64, NaN for groups of one class, which have none.
    """
    counts, edges = np.histogram(auc_G[~np.isnan(auc_G)], _NUM_GROUP_BINS, (0.0, 1.0))
    return [
        GroupBin(low=low, high=high, num_groups=count)
        for low, high, count in zip(
            edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True
        )
        if counts.any()
    ]
