"""Measures the service-time table of this host: median and spread over a grid of batches.

As many threads as the grid says are busy at once, pinned and set up as the live workers are, each
timing every batch it runs; the points of the grid are visited in rounds and in shuffled order, so
that a slow minute of a shared machine falls on all of them alike.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tailrank.core.errors import ConfigError
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.core.service_time import AXES, ServiceTimeTable

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
    run_batch: Callable[[Batch], Sequence[object]],
    make_payload: Callable[[int, int], object],
    *,
    device: str,
    ids_per_item: float,
    initialise_worker: Callable[[int], None],
    overhead_ns: int = 0,
    on_progress: Callable[[float], None] = lambda fraction: None,
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
        overhead_ns: see `ServiceTimeTable`.
        on_progress: told the finished fraction, 0 to 1.
    """
    shape = tuple(
        len(axis) for axis in (config.num_parts, config.num_items, (0,), config.busy_workers)
    )
    median_ns = np.full(shape, np.nan)
    ratios: list[np.ndarray] = []
    for index, busy in enumerate(config.busy_workers):
        share = config.budget_s * (index + 1) / sum(range(1, len(config.busy_workers) + 1))
        workers = _Workers(busy, run_batch, make_payload, initialise_worker, ids_per_item)
        samples = _measure_rounds(config, workers, share)
        on_progress((index + 1) / len(config.busy_workers))
        for (parts, items), times in samples.items():
            where = (config.num_parts.index(parts), config.num_items.index(items), 0, index)
            median_ns[where] = statistics.median(times)
            # Fixed-cost batches jitter by microseconds, which says nothing of a long one's spread.
            if items >= config.num_items[len(config.num_items) // 2]:
                ratios.append(np.array(times) / median_ns[where])
    pooled = np.concatenate(ratios)
    quantiles = (np.arange(_SPREAD_POINTS) + 0.5) / _SPREAD_POINTS
    axes = (config.num_parts, config.num_items, (ids_per_item,), config.busy_workers)
    return ServiceTimeTable(
        device=device,
        axes={name: tuple(map(float, axis)) for name, axis in zip(AXES, axes, strict=True)},
        median_ns=median_ns,
        spread=np.quantile(pooled, quantiles),
        overhead_ns=overhead_ns,
    )


def _measure_rounds(
    config: ProfileConfig, workers: _Workers, budget_s: float
) -> dict[tuple[int, int], list[int]]:
    """Times in ns of every point, from one warm-up round and `_ROUNDS` timed ones."""
    points = config.points
    shuffle = random.Random(config.seed)
    warm = {point: statistics.median(workers.run(*point, repeats=2)) for point in points}
    per_point_ns = budget_s * 1e9 / len(points) / _ROUNDS
    samples: dict[tuple[int, int], list[int]] = {point: [] for point in points}
    for _ in range(_ROUNDS):
        for point in shuffle.sample(points, len(points)):
            repeats = min(200, max(2, math.ceil(per_point_ns / warm[point])))
            samples[point] += workers.run(*point, repeats=repeats)
    return samples


class _Workers:
    """Threads that run the same kind of batch at the same time."""

    def __init__(
        self,
        count: int,
        run_batch: Callable[[Batch], Sequence[object]],
        make_payload: Callable[[int, int], object],
        initialise_worker: Callable[[int], None],
        ids_per_item: float,
    ) -> None:
        self._count, self._run_batch = count, run_batch
        self._make_payload, self._initialise_worker = make_payload, initialise_worker
        self._ids_per_item = ids_per_item
        self._choices = random.Random(0)

    def run(self, num_parts: int, num_items: int, *, repeats: int) -> list[int]:
        """Service times in ns of `repeats` batches on each worker."""
        batches = [
            [self._batch(slot, num_parts, num_items) for _ in range(repeats)]
            for slot in range(self._count)
        ]
        barrier = threading.Barrier(self._count)
        times: list[int] = []
        errors: list[BaseException] = []

        def work(slot: int) -> None:
            try:
                self._initialise_worker(slot)
                barrier.wait()
                for batch in batches[slot]:
                    started = time.perf_counter_ns()
                    self._run_batch(batch)
                    times.append(time.perf_counter_ns() - started)
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [
            threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(self._count)
        ]
        gc.disable()  # as in a live run: a collection is not the batch's own time
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            gc.enable()
        if errors:
            raise errors[0]
        return times

    def _batch(self, slot: int, num_parts: int, num_items: int) -> Batch:
        """A batch of `num_items` cold items in `num_parts` parts of nearly equal size."""
        parts = []
        for index in range(num_parts):
            size = num_items // num_parts + (index < num_items % num_parts)
            ids = round(size * self._ids_per_item)
            payload = self._make_payload(self._choices.randrange(1 << 31), size)
            query = Query(index, "", 0, None, size, ids, payload)
            parts.append(BatchPart(query, 0, size))
        return Batch(0, slot, tuple(parts))
