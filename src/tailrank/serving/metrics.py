"""An engine's counters as Prometheus reads them.

They are read when somebody scrapes; serving itself only adds numbers up (`stats`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator

import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tailrank import __version__
from tailrank.serving.engine import Engine
from tailrank.serving.stats import BOUNDS_S, Histogram


class EngineMetrics(Collector):
    """Everything that is known of an engine.

    Args:
        engine: read at each scrape, never written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        engine, stats = self._engine, self._engine.stats
        for name, histogram, what in (
            ("queue", stats.queue, "from arrival to the start of the first part"),
            ("compute", stats.compute, "from the start of the first part to the end of the last"),
            ("total", stats.total, "from arrival to the end of the last part"),
        ):
            yield _histogram(
                f"tailrank_query_{name}_seconds", f"Answered queries: {what}.", histogram
            )
        totals = (
            ("queries", stats.queries, "Queries answered."),
            ("items", stats.items, "Candidate items of answered queries."),
            ("batches", stats.batches, "Batches run by workers."),
            ("splits", stats.splits, "Answered queries that were ranked in several parts."),
            ("failed", stats.failed, "Queries that could not be ranked."),
            ("slo_violations", stats.slo_violations, "Queries answered after the SLA's limit."),
        )
        for name, total, what in totals:
            yield CounterMetricFamily(f"tailrank_{name}", what, value=total)
        shed = CounterMetricFamily(
            "tailrank_shed", "Queries turned away, by reason.", labels=["reason"]
        )
        for reason, count in sorted(stats.shed.items()):
            shed.add_metric([reason], count)
        yield shed
        now: tuple[tuple[str, float, str], ...] = (
            ("queries_in_flight", engine.num_open, "Queries that wait or are being ranked."),
            ("items_in_flight", engine.items_open, "Candidate items of those."),
            ("queue_depth", engine.queue_depth, "Queries of which no part has been started."),
            ("workers", engine.config.num_workers, "Workers."),
            ("embedding_bytes", engine.model.table_bytes, "Memory of the embedding tables."),
            ("sla_seconds", engine.config.sla.latency_ns / 1e9, "The SLA's limit."),
            ("ready", int(engine.is_ready), "1 while queries are taken."),
        )
        for name, value, what in now:
            yield GaugeMetricFamily(f"tailrank_{name}", what, value=value)
        build = {
            "version": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "model": engine.model.name,
            "model_version": engine.model.version,
            "policy": engine.config.policy.policy,
        }
        yield InfoMetricFamily("tailrank_build", "What runs.", value=build)


def _histogram(name: str, what: str, histogram: Histogram) -> HistogramMetricFamily:
    cumulative, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), list(histogram.counts), strict=True):
        cumulative += count
        buckets.append((bound, cumulative))
    return HistogramMetricFamily(name, what, buckets=buckets, sum_value=histogram.sum_ns / 1e9)
