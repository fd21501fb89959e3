"""Figures as functions: columns in, plotly figures out. Knows no files and no page."""

from tailrank.reporting.figures.comparison import forest, learning_curves
from tailrank.reporting.figures.host import dense_layers, random_reads
from tailrank.reporting.figures.quality import group_auc, learning_curve, reliability, score_counts
from tailrank.reporting.figures.serving import (
    busy_batches,
    capacity_by_batch,
    latency_cdf,
    promises,
    query_time,
    service_time,
    throughput_by_batch,
)

__all__ = [
    "busy_batches",
    "capacity_by_batch",
    "dense_layers",
    "forest",
    "group_auc",
    "latency_cdf",
    "learning_curve",
    "learning_curves",
    "promises",
    "query_time",
    "random_reads",
    "reliability",
    "score_counts",
    "service_time",
    "throughput_by_batch",
]
