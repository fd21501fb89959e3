"""The last minutes of an engine, second by second: what the live page shows.

A thread looks at the counters once a second, off the way of queries, which only append their times
(`stats`). Knows no protocol.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tailrank.characterization.host_probes import busy_ticks
from tailrank.core.clock import Clock, MonotonicClock
from tailrank.core.latency import LatencySummary
from tailrank.serving.engine import Engine
from tailrank.serving.stats import EngineStats, TimeStats

# Percentiles need more queries than one second has; the page should still follow a change.
WINDOW_PERIODS = 10
_KEPT_PERIODS = 180
_PERCENTILES = (50.0, 95.0, 99.0)
_SHED = "shed:"

Bounded = tuple[float, float, float]
"""A percentile, and the bounds of its 95 % confidence interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSecond:
    """One of several models in a second.

    Args:
        stage: its name.
        items_per_s: that came to it.
        queue_ms: mean wait of a query for it; None: none was answered.
        compute_ms: mean time of its ranking.
    """

    stage: str
    items_per_s: float
    queue_ms: float | None
    compute_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What was done in a second, and how things stood at its end.

    Args:
        at: its end, in seconds of Unix time.
        queries_per_s: answered.
        items_per_s: of these.
        late_per_s: answered after the SLA's limit.
        failed_per_s: that could not be ranked.
        shed_per_s: turned away, by reason.
        latency_ms: percentiles of the queries answered in the last `WINDOW_PERIODS` seconds, by
            name; empty if there were none.
        queueing_ms: likewise, from arrival to the start of the first part.
        queries_in_flight: that waited or were being ranked.
        items_in_flight: of those.
        queue_depth: queries of which no part had been started.
        batches_per_s: run.
        batch_sizes: of these, how many of each size, by `BOUNDS_ITEMS`.
        batch_items: their mean; None: there was none.
        workers_busy_fraction: of the workers' time, 0 to 1.
        cores_busy_fraction: of each core that the process may use, whoever had it.
        stages: of the models, if there are several.
    """

    at: float
    queries_per_s: float
    items_per_s: float
    late_per_s: float
    failed_per_s: float
    shed_per_s: dict[str, float]
    latency_ms: dict[str, Bounded]
    queueing_ms: dict[str, Bounded]
    queries_in_flight: int
    items_in_flight: int
    queue_depth: int
    batches_per_s: float
    batch_sizes: list[int]
    batch_items: float | None
    workers_busy_fraction: float
    cores_busy_fraction: dict[str, float]
    stages: list[StageSecond]


class RecentSeconds:
    """Remembers the last minutes.

    Args:
        engine: looked at, never written but for the times that wait in its `stats.latest`.
        clock: of rates.
        period_s: what a "second" is.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None, period_s: float = 1.0) -> None:
        self._engine, self._clock, self.period_s = engine, clock or MonotonicClock(), period_s
        self._percentiles = sorted({*_PERCENTILES, engine.config.sla.percentile})
        self._seconds: deque[Second] = deque(maxlen=_KEPT_PERIODS)
        self._times: deque[NDArray[np.float64]] = deque(maxlen=WINDOW_PERIODS)
        self._before = _totals(engine.stats)
        self._began_ns = self._before_ns = self._clock.now_ns()
        self._ticks = _core_ticks()

    @property
    def up_seconds(self) -> float:
        """How long it has been looking."""
        return (self._clock.now_ns() - self._began_ns) / 1e9

    def since(self, at: float) -> list[Second]:
        """What it remembers of the time after `at`, in seconds of Unix time."""
        return [second for second in list(self._seconds) if second.at > at]

    @contextmanager
    def kept(self) -> Generator[None, None, None]:
        """Look once a second, as long as this lasts."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(self.period_s):
                self.take()

        thread = threading.Thread(target=look, name="tailrank-recent", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def take(self) -> None:
        """Book what was done since the last time as a second."""
        engine, stats = self._engine, self._engine.stats
        now, now_ns = _totals(stats), self._clock.now_ns()
        elapsed_s = max(1e-9, (now_ns - self._before_ns) / 1e9)
        # A reason or stage that was not known before has done nothing before.
        done = {name: total - self._before.get(name, 0) for name, total in now.items()}
        per_s = {name: count / elapsed_s for name, count in done.items()}
        sizes = [done[f"batch:{place}"] for place in range(len(stats.batch_items.counts))]
        self._before, self._before_ns = now, now_ns
        latency_ms, queueing_ms = self._percentiles_ms()
        self._seconds.append(
            Second(
                at=round(time.time(), 3),
                queries_per_s=per_s["queries"],
                items_per_s=per_s["items"],
                late_per_s=per_s["late"],
                failed_per_s=per_s["failed"],
                shed_per_s={
                    name.removeprefix(_SHED): rate
                    for name, rate in per_s.items()
                    if name.startswith(_SHED)
                },
                latency_ms=latency_ms,
                queueing_ms=queueing_ms,
                queries_in_flight=engine.num_open,
                items_in_flight=engine.items_open,
                queue_depth=engine.queue_depth,
                batches_per_s=per_s["batches"],
                batch_sizes=sizes,
                batch_items=_mean(done["batch_items"], done["batches"]),
                # A batch counts when it is done, and may have begun before.
                workers_busy_fraction=min(1.0, per_s["busy_ns"] / 1e9 / engine.config.num_workers),
                cores_busy_fraction=self._cores(),
                stages=[_stage(name, done, elapsed_s) for name in list(stats.stages)],
            )
        )

    def _percentiles_ms(self) -> tuple[dict[str, Bounded], dict[str, Bounded]]:
        """Of latency and queueing delay in the window, by name."""
        latest = self._engine.stats.latest
        taken = [latest.popleft() for _ in range(len(latest))]
        self._times.append(np.fromiter(chain.from_iterable(taken), np.float64).reshape(-1, 3))
        queue, _, total = np.concatenate(self._times).T
        if not len(total):
            return {}, {}
        latency, queueing = (
            {f"p{percentile:g}": _bounded(summary, percentile) for percentile in self._percentiles}
            for summary in (LatencySummary.of(total), LatencySummary.of(queue))
        )
        return latency, queueing

    def _cores(self) -> dict[str, float]:
        """How busy each core was since the last time."""
        before, self._ticks = self._ticks, _core_ticks()
        found = {}
        for core, (busy, every) in self._ticks.items():
            busy_before, every_before = before.get(core, (0, 0))
            if every > every_before:
                found[str(core)] = (busy - busy_before) / (every - every_before)
        return found


def _totals(stats: EngineStats) -> dict[str, int]:
    """What is counted, by name."""
    sizes = stats.batch_items
    totals = {
        "queries": stats.queries,
        "items": stats.items,
        "late": stats.slo_violations,
        "failed": stats.failed,
        "batches": stats.batches,
        "batch_items": sizes.sum,
        "busy_ns": stats.busy_ns,
        **{f"batch:{place}": count for place, count in enumerate(list(sizes.counts))},
        **{f"{_SHED}{reason}": count for reason, count in list(stats.shed.items())},
    }
    for name, times in list(stats.stages.items()):
        totals |= {f"stage:{name}:{what}": total for what, total in _stage_totals(times).items()}
    return totals


def _stage_totals(times: TimeStats) -> dict[str, int]:
    return {
        "items": times.items,
        "queries": sum(times.total.counts),
        "queue_ns": times.queue.sum,
        "compute_ns": times.compute.sum,
    }


def _stage(name: str, done: dict[str, int], elapsed_s: float) -> StageSecond:
    """What was done in a stage."""
    items, queries, queue_ns, compute_ns = (
        done.get(f"stage:{name}:{what}", 0)
        for what in ("items", "queries", "queue_ns", "compute_ns")
    )
    return StageSecond(
        stage=name,
        items_per_s=items / elapsed_s,
        queue_ms=_mean(queue_ns / 1e6, queries),
        compute_ms=_mean(compute_ns / 1e6, queries),
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _bounded(summary: LatencySummary, percentile: float) -> Bounded:
    """A percentile in ms."""
    estimate = summary.percentile(percentile)
    return estimate.value / 1e6, estimate.low / 1e6, estimate.high / 1e6


def _core_ticks() -> dict[int, tuple[int, int]]:
    """Of the cores that this process may use; none where the system does not say."""
    try:
        ticks = busy_ticks()
    except (OSError, ValueError):
        return {}
    usable = os.sched_getaffinity(0)
    return {core: found for core, found in ticks.items() if core in usable}
