"""How well scores rank and predict binary labels, and how sure a difference is."""

from tailrank.metrics.binary_metrics import BinaryMetrics, MetricValues, known_by_task
from tailrank.metrics.bootstrap import (
    GROUP_METRICS,
    PairedMetric,
    paired_bootstrap,
    paired_bootstraps,
)
from tailrank.metrics.ranking import DEPTH, PROBABILITY_MIN, GroupValues, auc, logloss, per_group

__all__ = [
    "DEPTH",
    "GROUP_METRICS",
    "PROBABILITY_MIN",
    "BinaryMetrics",
    "GroupValues",
    "MetricValues",
    "PairedMetric",
    "auc",
    "known_by_task",
    "logloss",
    "paired_bootstrap",
    "paired_bootstraps",
    "per_group",
]
