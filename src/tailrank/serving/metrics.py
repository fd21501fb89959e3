"""An engine's counters as Prometheus reads them.

They are read when somebody scrapes; serving itself only adds numbers up (`stats`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

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
from tailrank.serving.stats import BOUNDS_ITEMS, BOUNDS_S, SHED_REASONS, Histogram, TimeStats

_PARTS = {
    "queue": "from arrival to the start of the first part",
    "compute": "from the start of the first part to the end of the last",
    "total": "from arrival to the end of the last part",
}


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
        yield from self._times()
        yield from self._totals()
        yield from self._now()
        yield self._build()

    def _times(self) -> Iterator[Metric]:
        """Histograms."""
        stats = self._engine.stats
        for part, what in _PARTS.items():
            family = f"tailrank_query_{part}_seconds"
            yield _times(family, f"Answered queries: {what}.", {(): stats.times}, part)
        stages: dict[tuple[str, ...], TimeStats] = {
            (name,): times for name, times in list(stats.stages.items())
        }
        for part, what in _PARTS.items():
            family = f"tailrank_stage_{part}_seconds"
            yield _times(family, f"Queries in one stage: {what}.", stages, part, ["stage"])
        stage_items = CounterMetricFamily(
            "tailrank_stage_items", "Candidate items that came to a stage.", labels=["stage"]
        )
        for label, times in stages.items():
            stage_items.add_metric(label, times.items)
        yield stage_items
        sizes = HistogramMetricFamily("tailrank_batch_items", "Candidate items of a batch.")
        sizes.add_metric((), _cumulative(BOUNDS_ITEMS, stats.batch_items), stats.batch_items.sum)
        yield sizes

    def _totals(self) -> Iterator[Metric]:
        """Counters."""
        stats, placed = self._engine.stats, self._engine.placed
        totals = (
            ("queries", stats.queries, "Queries answered."),
            ("items", stats.items, "Candidate items of answered queries."),
            ("batches", stats.batches, "Batches run by workers."),
            ("splits", stats.splits, "Answered queries that were ranked in several parts."),
            ("failed", stats.failed, "Queries that could not be ranked."),
            ("slo_violations", stats.slo_violations, "Queries answered after the SLA's limit."),
            ("worker_busy_seconds", stats.busy_ns / 1e9, "Time that workers spent on batches."),
            (
                "worker_deaths",
                stats.worker_deaths + placed.num_died,
                "Worker processes that ended before they should have.",
            ),
            (
                "worker_restarts",
                stats.worker_restarts + placed.num_replaced,
                "Worker processes forked in their place.",
            ),
        )
        for name, total, what in totals:
            yield CounterMetricFamily(f"tailrank_{name}", what, value=total)
        shed = CounterMetricFamily(
            "tailrank_shed", "Queries turned away, by reason.", labels=["reason"]
        )
        # A rate is one from the first query on, where the count was there before it.
        for reason, count in sorted({**dict.fromkeys(SHED_REASONS, 0), **stats.shed}.items()):
            shed.add_metric([reason], count)
        yield shed

    def _now(self) -> Iterator[Metric]:
        """Gauges."""
        engine = self._engine
        table_bytes = sum(model.table_bytes for model in engine.models)
        now: tuple[tuple[str, float, str], ...] = (
            ("queries_in_flight", engine.num_open, "Queries that wait or are being ranked."),
            ("items_in_flight", engine.items_open, "Candidate items of those."),
            ("queue_depth", engine.queue_depth, "Queries of which no part has been started."),
            ("workers", engine.config.num_workers, "Workers."),
            ("embedding_bytes", table_bytes, "Memory of all models' embedding tables."),
            ("sla_seconds", engine.config.sla.latency_ns / 1e9, "The SLA's limit."),
            ("sla_percentile", engine.config.sla.percentile, "The SLA's percentile, 0 to 100."),
            ("ready", int(engine.is_ready), "1 while queries are taken."),
        )
        for name, value, what in now:
            yield GaugeMetricFamily(f"tailrank_{name}", what, value=value)

    def _build(self) -> Metric:
        """Versions, models and settings."""
        engine = self._engine
        build = {
            "version": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "model": engine.model.name,
            "model_version": engine.model.version,
            "stages": ",".join(model.name for model in engine.models),
            "policy": engine.config.policy.policy,
            "executor": engine.placed.executor,
        }
        return InfoMetricFamily("tailrank_build", "What runs.", value=build)


def _times(
    name: str,
    what: str,
    times: Mapping[tuple[str, ...], TimeStats],
    part: str,
    labels: Sequence[str] = (),
) -> HistogramMetricFamily:
    """One part of the time of queries, by the values of labels."""
    family = HistogramMetricFamily(name, what, labels=labels)
    for values, of in times.items():
        histogram: Histogram = getattr(of, part)
        family.add_metric(values, _cumulative(BOUNDS_S, histogram), histogram.sum / 1e9)
    return family


def _cumulative(bounds: Sequence[float], histogram: Histogram) -> list[tuple[str, float]]:
    """Counts up to each bound, as Prometheus has them."""
    counts = accumulate(list(histogram.counts))
    return list(zip((*(str(float(bound)) for bound in bounds), "+Inf"), counts, strict=True))
