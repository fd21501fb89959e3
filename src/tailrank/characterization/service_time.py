"""Measures the service-time table of this host: median and spread over a grid of batches.

The batches run in the live runtime itself, every worker saturated: what is timed is what a worker
spends on a batch when it serves, the loop's cost, pinning and interpreter settings included. The
points of the grid are visited in rounds and in shuffled order, so that a slow minute of a shared
machine falls on all of them alike.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tailrank.core.errors import ConfigError
from tailrank.core.query import Query
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.runtime.live import run_live
from tailrank.runtime.ports import RunBatch
from tailrank.runtime.record import RunResult
from tailrank.scheduling.policies import PolicyConfig

# Dense where service time bends (fixed costs), sparse where it is a line.
NUM_ITEMS_GRID = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1000)
NUM_PARTS_GRID = (1, 2, 4, 8)
_SPREAD_POINTS = 200  # quantiles that stand for the distribution of the ratios
_ROUNDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """What to measure and for how long.

    Args:
        num_items: batch sizes of the grid, rising.
        num_parts: parts per batch of the grid, rising; points with fewer items than parts are left
            out.
        num_workers: the grid has 1, 2, 4, … and this many busy workers.
        budget_s: time to spend in all, roughly; every point gets at least one batch per round.
        seed: order of the points.
    """

    num_items: tuple[int, ...] = NUM_ITEMS_GRID
    num_parts: tuple[int, ...] = NUM_PARTS_GRID
    num_workers: int = 1
    budget_s: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError("--workers", self.num_workers, "at least 1")
        if not self.budget_s > 0:
            raise ConfigError("--budget", self.budget_s, "a time above 0")

    @property
    def busy_workers(self) -> tuple[int, ...]:
        """Grid of busy workers."""
        powers = [2**i for i in range(self.num_workers.bit_length())]
        return tuple(
            sorted({min(power, self.num_workers) for power in powers} | {self.num_workers})
        )

    @property
    def points(self) -> list[tuple[int, int]]:
        """All (num_parts, num_items) that exist."""
        return [(p, n) for p in self.num_parts for n in self.num_items if n >= p]


def measure_service_times(
    config: ProfileConfig,
    run_batch: RunBatch,
    make_payload: Callable[[int, int], object],
    *,
    device: str,
    ids_per_item: float,
    initialise_worker: Callable[[int], None],
    on_progress: Callable[[float, str], None] = lambda fraction, remark: None,
) -> ServiceTimeTable:
    """Time batches of every grid point.

    Args:
        config: see `ProfileConfig`.
        run_batch: what a live worker would be given.
        make_payload: (choice, num_items) -> payload of a query, as `workload.draw_schedule` has it;
            `choice` is random, so that rows are cold.
        device: name for the table.
        ids_per_item: sparse ids per item; the single value of that axis.
        initialise_worker: called with the slot in each worker thread before its first batch.
        on_progress: told the finished fraction, 0 to 1, and what is measured, between two runs.

    Raises:
        Exception: what `run_batch` raised.
    """
    shape = tuple(
        len(axis) for axis in (config.num_parts, config.num_items, (0,), config.busy_workers)
    )
    median_ns = np.full(shape, np.nan)
    ratios: list[np.ndarray] = []
    done = 0.0
    for index, busy in enumerate(config.busy_workers):
        share = (index + 1) / sum(range(1, len(config.busy_workers) + 1))
        bench = _Bench(busy, run_batch, make_payload, initialise_worker, ids_per_item)
        report = partial(_report, on_progress, done, share, busy)
        samples = _measure_rounds(config, bench, config.budget_s * share, report)
        done += share
        for (parts, items), times_ns in samples.items():
            where = (config.num_parts.index(parts), config.num_items.index(items), 0, index)
            median_ns[where] = statistics.median(times_ns)
            # Fixed-cost batches jitter by microseconds, which says nothing of a long one's spread.
            if items >= config.num_items[len(config.num_items) // 2]:
                ratios.append(np.array(times_ns) / median_ns[where])
    quantiles = (np.arange(_SPREAD_POINTS) + 0.5) / _SPREAD_POINTS
    axes = (config.num_parts, config.num_items, (ids_per_item,), config.busy_workers)
    return ServiceTimeTable(
        device=device,
        axes={name: tuple(map(float, axis)) for name, axis in zip(AXES, axes, strict=True)},
        median_ns=median_ns,
        spread=np.quantile(np.concatenate(ratios), quantiles),
    )


def _report(
    on_progress: Callable[[float, str], None],
    before: float,
    share: float,
    busy: int,
    fraction: float,
    batches_per_s: float,
) -> None:
    """Place the progress of one number of busy workers in that of all."""
    workers = "worker" if busy == 1 else "workers"
    on_progress(before + share * fraction, f"{busy} {workers}, {batches_per_s:,.0f} batches/s")


def _measure_rounds(
    config: ProfileConfig,
    bench: _Bench,
    budget_s: float,
    report: Callable[[float, float], None],
) -> dict[tuple[int, int], list[int]]:
    """Times in ns of every point, from one warm-up round and `_ROUNDS` timed ones."""
    points = config.points
    shuffle = random.Random(config.seed)
    warm = {point: statistics.median(bench.times_ns(*point, repeats=2)) for point in points}
    per_point_ns = budget_s * 1e9 / len(points) / _ROUNDS
    samples: dict[tuple[int, int], list[int]] = {point: [] for point in points}
    num_batches, started_ns = 0, time.monotonic_ns()
    for index in range(_ROUNDS):
        for visited, point in enumerate(shuffle.sample(points, len(points)), start=1):
            repeats = min(200, max(2, math.ceil(per_point_ns / warm[point])))
            times_ns = bench.times_ns(*point, repeats=repeats)
            samples[point] += times_ns
            num_batches += len(times_ns)
            rate = num_batches * 1e9 / (time.monotonic_ns() - started_ns)
            report((index + visited / len(points)) / _ROUNDS, rate)
    return samples


class _Bench:
    """Saturated live runs of batches that are all alike."""

    def __init__(
        self,
        num_workers: int,
        run_batch: RunBatch,
        make_payload: Callable[[int, int], object],
        initialise_worker: Callable[[int], None],
        ids_per_item: float,
    ) -> None:
        self._num_workers, self._run_batch = num_workers, run_batch
        self._make_payload, self._initialise_worker = make_payload, initialise_worker
        self._ids_per_item = ids_per_item
        self._choices = random.Random(0)

    def times_ns(self, num_parts: int, num_items: int, *, repeats: int) -> list[int]:
        """Service times of at least `repeats` batches on each worker.

        Parts are of equal size, so a batch may hold up to `num_parts - 1` items more than asked.
        """
        size = -(-num_items // num_parts)
        policy = PolicyConfig(
            policy="static" if num_parts == 1 else "coalescing",
            batch_items_max=num_parts * size,
            batch_parts_max=num_parts,
        )
        # One more batch for each worker to warm up with; that first one also releases all queries.
        num_batches = self._num_workers * (repeats + 1)
        run = run_live(
            [self._query(index, size) for index in range(num_batches * num_parts)],
            policy,
            num_workers=self._num_workers,
            run_batch=self._run_batch,
            initialise_worker=self._initialise_worker,
        )
        if run.first_error is not None:
            raise run.first_error
        asked = run.batches.num_parts == num_parts  # coalescing starts the very first part alone
        warm = asked & (run.batches.started_ns > _last_first_start_ns(run))
        # Batches of no work at all may be over before the second worker has started.
        return [int(t) for t in run.service_time_ns[warm if warm.any() else asked]]

    def _query(self, index: int, size: int) -> Query:
        """A query of cold items, due at once."""
        payload = self._make_payload(self._choices.randrange(1 << 31), size)
        num_ids = round(size * self._ids_per_item)
        return Query(index, "", 0, None, size, num_ids, payload)


def _last_first_start_ns(run: RunResult) -> int:
    """When the last worker had started its first batch."""
    slots = run.batches.slot
    return max(int(run.batches.started_ns[slots == slot].min()) for slot in np.unique(slots))
