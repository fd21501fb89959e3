"""What an engine has done so far: counters and histograms that cost next to nothing to keep.

Knows no exposition format. Whoever writes holds a lock; who reads may see one count ahead of
another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from tailrank.serving.executors import Placed
from tailrank.serving.ranking import StageTiming, Timing

# Seconds: three a decade where ranking's SLAs lie, so that a percentile read from them is within
# a factor of 1.5 of the true one.
BOUNDS_S = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)
_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS_S)
BOUNDS_ITEMS = tuple(1 << power for power in range(13))
SHED_REASONS = ("lost", "queue_full", "too_late")
"""Why a query is turned away: by its policy, or at the door."""
# What is kept of single queries until somebody takes it, once a second: 10 MB, if nobody does.
_LATEST_MAX = 1 << 16


class Histogram:
    """Values by bucket; the last bucket has no bound.

    Args:
        bounds: rising; a bucket holds its bound.
    """

    def __init__(self, bounds: Sequence[int] = _BOUNDS_NS) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def observe(self, value: int) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


@dataclass(slots=True, eq=False)
class TimeStats:
    """Where the time of queries went, in ns.

    Args:
        items: of these queries.
        queue: from arrival to the start of the first part.
        compute: from there to the end of the last part.
        total: both.
    """

    items: int = 0
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)

    def observe(self, num_items: int, timing: Timing) -> None:
        """Count a query."""
        self.items += num_items
        self.queue.observe(timing.queue_ns)
        self.compute.observe(timing.compute_ns)
        self.total.observe(timing.total_ns)


@dataclass(slots=True, eq=False)
class EngineStats:
    """Totals since the start.

    Args:
        queries: answered.
        times: of answered queries.
        stages: the same of each model that they went through, by name, if there were several.
        failed: queries that a ranker could not answer.
        shed: queries turned away, by reason.
        batches: run.
        batch_items: their sizes.
        busy_ns: how long workers were busy with them, together.
        splits: answered queries that were ranked in several parts.
        slo_violations: queries answered later than the SLA's limit.
        worker_deaths: processes that ended before they should have, of models that serve no more.
        worker_restarts: those that were forked in the place of such.
        latest: times of the queries answered since somebody took them from here; the newest.
    """

    queries: int = 0
    times: TimeStats = field(default_factory=TimeStats)
    stages: defaultdict[str, TimeStats] = field(default_factory=partial(defaultdict, TimeStats))
    failed: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    batch_items: Histogram = field(default_factory=partial(Histogram, BOUNDS_ITEMS))
    busy_ns: int = 0
    splits: int = 0
    slo_violations: int = 0
    worker_deaths: int = 0
    worker_restarts: int = 0
    latest: deque[Timing] = field(default_factory=partial(deque, maxlen=_LATEST_MAX))

    @property
    def items(self) -> int:
        """Items of answered queries."""
        return self.times.items

    def serve_no_more(self, placed: Placed) -> None:
        """Keep what is counted of models that give way to others."""
        self.worker_deaths += placed.num_died
        self.worker_restarts += placed.num_replaced

    def batch_done(self, num_items: int, took_ns: int) -> None:
        """Count a batch."""
        self.batches += 1
        self.batch_items.observe(num_items)
        self.busy_ns += took_ns

    def answered(
        self, num_items: int, timing: Timing, stages: Sequence[StageTiming], *, is_late: bool
    ) -> None:
        """Count a query that was answered."""
        self.queries += 1
        self.slo_violations += is_late
        self.times.observe(num_items, timing)
        self.latest.append(timing)
        for stage in stages:
            self.stages[stage.model.name].observe(stage.num_items, stage.timing)
