"""Measures the service-time table of this host: median and spread over a grid of batches.

The batches run in the live runtime itself, every worker saturated: what is timed is what a worker
spends on a batch when it serves, the loop's cost, pinning and interpreter settings included. The
points of the grid are visited in rounds and in shuffled order, so that a slow minute of a shared
machine falls on all of them alike. Where the time allowed is short, visits are left out, and
this is said. What a batch takes longer on a worker that was idle is measured apart (`wake_up`).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from tailrank.characterization.wake_up import measure_wake_up
from tailrank.core.clock import Clock, MonotonicClock
from tailrank.core.errors import ConfigError, RequestError
from tailrank.core.query import Batch, Query
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.ports import RunBatch
from tailrank.runtime.record import RunResult
from tailrank.scheduling.policies import Division, PolicyConfig, divide_workers

# Dense where service time bends (fixed costs), sparse where it is a line.
NUM_ITEMS_GRID = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1000)
NUM_PARTS_GRID = (1, 2, 4, 8)
_SPREAD_POINTS = 200  # quantiles that stand for the distribution of the ratios
_ROUNDS, _REPEATS_MAX = 6, 200
_WAKE_UP_SHARE = 0.05  # of the budget, beside it


class BudgetTooShort(RequestError):
    """The time does not hold one batch of every size.

    Args:
        reason: as people read it.
        needed_s: what would, as far as was seen.
    """

    def __init__(self, reason: str, needed_s: float) -> None:
        super().__init__("budget of the profile", reason)
        self.needed_s = needed_s


class TimeBatches(Protocol):
    """Times batches that are all alike."""

    def __call__(self, num_parts: int, num_items: int, *, repeats: int) -> list[int]:
        """Service times in ns of at least `repeats` batches."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """What to measure and for how long.

    Args:
        num_items: batch sizes of the grid, rising.
        num_parts: parts per batch of the grid, rising; points with fewer items than parts are left
            out.
        num_workers: the grid has 1, 2, 4, … and this many busy workers.
        budget_s: time to spend on the grid; every point gets at least one batch on each worker. At
            most a twentieth more goes to the wake-up of idle workers.
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
    announce: Callable[[str], None] = lambda text: None,
    pin: bool = True,
    beside: Callable[[int], object] | None = None,
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
        announce: told what the budget left no time for, if anything.
        pin: whether workers have a core each; False for threads that only drive a device.
        beside: what the other busy workers do over and over while one is timed, told their slot;
            None: they are timed as well, with batches of the same size.

    Raises:
        BudgetTooShort: the budget does not hold one batch of every size.
        Exception: what `run_batch` raised.
    """
    live = LiveConfig(pin=pin)
    source = _Source(run_batch, make_payload, initialise_worker, ids_per_item, random.Random(0))
    benches = {busy: _Bench(busy, source, live, beside).times_ns for busy in config.busy_workers}
    timed = time_grid(config, benches, on_progress, MonotonicClock())
    if timed.num_left_out:
        least = min(map(len, timed.times_ns.values()))
        announce(
            f"{config.budget_s:g} s were too short for {timed.num_left_out} of {timed.num_visits} "
            f"timings of the profile; {least} or more batches of each size were timed"
        )
    axes = (config.num_parts, config.num_items, (ids_per_item,), config.busy_workers)
    median_ns, ratios = np.full(tuple(map(len, axes)), np.nan), []
    for (busy, parts, items), times_ns in timed.times_ns.items():
        where = (
            config.num_parts.index(parts),
            config.num_items.index(items),
            0,
            config.busy_workers.index(busy),
        )
        median_ns[where] = statistics.median(times_ns)
        # Fixed-cost batches jitter by microseconds, which says nothing of a long one's spread.
        if items >= config.num_items[len(config.num_items) // 2]:
            ratios.append(np.array(times_ns) / median_ns[where])
    quantiles = (np.arange(_SPREAD_POINTS) + 0.5) / _SPREAD_POINTS
    table = ServiceTimeTable(
        device=device,
        axes={name: tuple(map(float, axis)) for name, axis in zip(AXES, axes, strict=True)},
        median_ns=median_ns,
        spread=np.quantile(np.concatenate(ratios), quantiles),
    )
    if beside is not None:
        return table  # the other workers are never idle
    wake_up = measure_wake_up(
        table,
        run_batch,
        source.query,
        initialise_worker=initialise_worker,
        live=live,
        num_workers=config.num_workers,
        budget_s=_WAKE_UP_SHARE * config.budget_s,
    )
    return replace(table, wake_up=wake_up)


class TimedGrid(NamedTuple):
    """Times in ns of every (busy workers, parts, items), and visits planned and left out."""

    times_ns: dict[tuple[int, int, int], list[int]]
    num_visits: int
    num_left_out: int


def time_grid(
    config: ProfileConfig,
    benches: Mapping[int, TimeBatches],
    on_progress: Callable[[float, str], None],
    clock: Clock,
) -> TimedGrid:
    """Time every point inside the budget.

    A first visit warms each up and tells its price; `_ROUNDS` rounds then share the time that is
    left, and a visit for which there is none is left out. A point that no round came to has the
    times of its first visit.

    Args:
        config: see `ProfileConfig`.
        benches: by busy workers: (num_parts, num_items, repeats=…) -> times in ns of as many
            batches on each worker, one more of which has warmed up.
        on_progress: see `measure_service_times`.
        clock: what the budget is held against.

    Raises:
        BudgetTooShort: the budget ended before every point had its first visit.
    """
    started_ns = clock.now_ns()
    ends_ns = started_ns + round(config.budget_s * 1e9)
    cells = [(busy, *point) for busy in config.busy_workers for point in config.points]
    first: dict[tuple[int, int, int], list[int]] = {}
    price_ns: dict[tuple[int, int, int], float] = {}

    def visit(cell: tuple[int, int, int], repeats: int) -> list[int]:
        before_ns = clock.now_ns()
        times_ns = benches[cell[0]](cell[1], cell[2], repeats=repeats)
        price_ns[cell] = max(1.0, (clock.now_ns() - before_ns) / (repeats + 1))
        return times_ns

    for number, cell in enumerate(cells, start=1):
        first[cell] = visit(cell, 1)
        on_progress(number / len(cells) / (_ROUNDS + 1), f"{_workers(cell[0])}, first visits")
        spent_ns = clock.now_ns() - started_ns
        if spent_ns > ends_ns - started_ns and number < len(cells):
            wanted_s = math.ceil(2e-9 * spent_ns * len(cells) / number)
            raise BudgetTooShort(
                f"{config.budget_s:g} s hold one batch of {number} of the {len(cells)} sizes here "
                f"and now; allow {wanted_s} s or more",
                wanted_s,
            )
    times_ns: dict[tuple[int, int, int], list[int]] = {cell: [] for cell in cells}
    shuffle, num_left_out = random.Random(config.seed), 0
    visits = [
        (busy, *point)
        for _ in range(_ROUNDS)
        for busy in config.busy_workers
        for point in shuffle.sample(config.points, len(config.points))
    ]
    # More busy workers slow one another down by more, and vary more.
    weight = {busy: index for index, busy in enumerate(config.busy_workers, start=1)}
    left = float(sum(weight[cell[0]] for cell in visits))
    for number, cell in enumerate(visits, start=1):
        remaining_ns = ends_ns - clock.now_ns()
        share_ns = remaining_ns * weight[cell[0]] / left
        left -= weight[cell[0]]
        repeats = min(_REPEATS_MAX, int(share_ns / price_ns[cell]) - 1)
        if repeats < 1 and remaining_ns < 2 * price_ns[cell]:
            num_left_out += 1
        else:
            times_ns[cell] += visit(cell, max(1, repeats))
        rate = 1e9 / price_ns[cell] * cell[0]
        fraction = (1 + _ROUNDS * number / len(visits)) / (_ROUNDS + 1)
        on_progress(fraction, f"{_workers(cell[0])}, {rate:,.0f} batches/s")
    found = {cell: times_ns[cell] or first[cell] for cell in cells}
    return TimedGrid(found, len(visits), num_left_out)


def _workers(busy: int) -> str:
    """Busy workers in words."""
    return "1 worker" if busy == 1 else f"{busy} workers"


class _Source(NamedTuple):
    """What is timed; see `measure_service_times`."""

    run_batch: RunBatch
    make_payload: Callable[[int, int], object]
    initialise_worker: Callable[[int], None]
    ids_per_item: float
    choices: random.Random

    def query(self, index: int, size: int, due_ns: int = 0) -> Query:
        """A query of cold items."""
        payload = self.make_payload(self.choices.randrange(1 << 31), size)
        num_ids = round(size * self.ids_per_item)
        return Query(index, _TIMED, due_ns, None, size, num_ids, payload)


_TIMED, _BESIDE = "", "beside"  # models of a bench: what is timed, and what runs meanwhile


class _Bench:
    """Saturated live runs of batches that are all alike."""

    def __init__(
        self,
        num_workers: int,
        source: _Source,
        live: LiveConfig,
        beside: Callable[[int], object] | None,
    ) -> None:
        self._num_workers, self._source, self._live = num_workers, source, live
        self._beside = beside
        self._num_timed = num_workers if beside is None else 1

    def times_ns(self, num_parts: int, num_items: int, *, repeats: int) -> list[int]:
        """Service times of at least `repeats` batches on each timed worker.

        Parts are of equal size, so a batch may hold up to `num_parts - 1` items more than asked.
        """
        size = -(-num_items // num_parts)
        policy = PolicyConfig(
            policy="static" if num_parts == 1 else "coalescing",
            batch_items_max=num_parts * size,
            batch_parts_max=num_parts,
        )
        # One more batch for each worker to warm up with; that first one also releases all queries.
        num_queries = self._num_timed * (repeats + 1) * num_parts
        run_batch, num_beside = self._source.run_batch, self._num_workers - self._num_timed
        if num_beside:
            policy = _divided(policy, self._num_timed, num_beside)
            run_batch = self._until_all_are_timed(num_queries)
        run = run_live(
            [
                *(Query(index, _BESIDE, 0, None, 1, 0) for index in range(num_beside)),
                *(self._source.query(num_beside + index, size) for index in range(num_queries)),
            ],
            policy,
            num_workers=self._num_workers,
            run_batch=run_batch,
            initialise_worker=self._source.initialise_worker,
            config=self._live,
        )
        if run.first_error is not None:
            raise run.first_error
        # Coalescing starts the very first part alone.
        asked = (run.batches.num_parts == num_parts) & (run.batches.slot < self._num_timed)
        warm = asked & (run.batches.started_ns > _last_first_start_ns(run))
        # Batches of no work at all may be over before the second worker has started.
        return [int(t) for t in run.service_time_ns[warm if warm.any() else asked]]

    def _until_all_are_timed(self, num_queries: int) -> RunBatch:
        """Runs what is timed, and beside it the others' work until no query is left."""
        beside, left = self._beside, [num_queries]
        assert beside is not None, "there is something beside"

        def run(batch: Batch) -> Sequence[object]:
            if batch.parts[0].query.model == _BESIDE:
                while left[0] > 0:
                    beside(batch.slot)
                return (None,)
            try:
                return self._source.run_batch(batch)
            finally:
                left[0] -= len(batch.parts)  # one worker is timed: nobody else counts

        return run


def _divided(timed: PolicyConfig, num_timed: int, num_beside: int) -> PolicyConfig:
    """The first workers for what is timed, the others for what runs meanwhile."""
    slots = tuple(range(num_timed + num_beside))
    alone = PolicyConfig(policy="static", batch_items_max=1)
    return divide_workers(
        Division((_TIMED,), slots[:num_timed], timed),
        Division((_BESIDE,), slots[num_timed:], alone),
    )


def _last_first_start_ns(run: RunResult) -> int:
    """When the last worker had started its first batch."""
    slots = run.batches.slot
    return max(int(run.batches.started_ns[slots == slot].min()) for slot in np.unique(slots))
