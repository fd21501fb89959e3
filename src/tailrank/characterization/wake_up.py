"""Measures what a batch takes longer on a worker that was idle.

Its thread wakes late, the core leaves a sleeping state and the caches hold something else: up to
0.7 ms on a model whose batches take 1.4 ms (docs/lab-notes.md). Workers that are never idle, as
those of the grid, do not show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tailrank.core.query import Query
from tailrank.core.service_time import ServiceTimeTable
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.ports import RunBatch
from tailrank.runtime.record import RunResult
from tailrank.scheduling.policies import PolicyConfig

MakeQuery = Callable[[int, int, int], Query]
"""A query of cold items from its id, its size and when it is due in ns."""

_IDLE_NS = (100_000, 800_000, 6_000_000, 24_000_000)
_REPEATS_MAX = 12
_PLACES = (0.2, 0.4, 0.6)  # in the grid of batch sizes: no other cost hides what is looked for
# When the workers should be idle again: on the median, and for the wake-up itself.
_MARGIN, _MARGIN_NS = 1.15, 200_000


def measure_wake_up(
    table: ServiceTimeTable,
    run_batch: RunBatch,
    make_query: MakeQuery,
    *,
    initialise_worker: Callable[[int], None],
    live: LiveConfig,
    num_workers: int,
    budget_s: float,
) -> tuple[tuple[float, float], ...]:
    """How much longer batches take after idle time, as `ServiceTimeTable.wake_up` has it.

    After each idle time two queries for every worker are due at once. What the first ones take from
    then on, less what the second ones take, is the wake-up: both are of the same moment, so a host
    that has become slower since the grid was measured does not count.

    Args:
        table: the service times of the grid.
        run_batch: what a live worker would be given.
        make_query: see `MakeQuery`.
        initialise_worker: called with the slot in each worker thread before its first batch.
        live: how worker threads run.
        num_workers: workers, all woken together.
        budget_s: time to spend; each batch size has at least two turns after each idle time.

    Raises:
        Exception: what `run_batch` raised.
    """
    grid = [int(items) for items in table.axes["num_items"]]
    num_ids = table.axes["ids_per_item"][0]
    turn_ns = {}
    for items in {grid[round(place * (len(grid) - 1))] for place in _PLACES}:
        batch_ns = table.lookup_ns(1, items, round(items * num_ids), num_workers)
        turn_ns[items] = round(2 * _MARGIN * batch_ns) + _MARGIN_NS
    round_ns = len(turn_ns) * sum(_IDLE_NS) + len(_IDLE_NS) * sum(turn_ns.values())
    repeats = max(2, min(_REPEATS_MAX, math.floor(budget_s * 1e9 / round_ns)))
    seen: list[NDArray[np.float64]] = []
    for items, busy_ns in sorted(turn_ns.items()):
        turns_ns = np.tile(_IDLE_NS, repeats) + busy_ns
        run = run_live(
            [
                make_query(index, items, due_ns)
                for index, due_ns in enumerate(np.cumsum(turns_ns).repeat(2 * num_workers).tolist())
            ],
            PolicyConfig(policy="static", batch_items_max=items),
            num_workers=num_workers,
            run_batch=run_batch,
            initialise_worker=initialise_worker,
            config=live,
        )
        if run.first_error is not None:
            raise run.first_error
        seen.append(_extra_ns(run))
    return _curve(np.concatenate(seen))


def _extra_ns(run: RunResult) -> NDArray[np.float64]:
    """(turns, 2): idle time before a turn, and how much longer its first batches took.

    Turns that found a worker still busy are left out, and the first one, which warms up.
    """
    shape = -1, 2, run.num_workers  # turn, first and second batches, worker
    due, started, done = (
        column.reshape(shape)
        for column in (run.queries.scheduled_ns, run.queries.started_ns, run.queries.done_ns)
    )
    first_ns = np.median(done[:, 0] - due[:, 0], axis=1)
    second_ns = np.median(done[:, 1] - started[:, 1], axis=1)
    idle_ns = due[1:, 0, 0] - done[:-1].max(axis=(1, 2))
    turns = np.stack([idle_ns, (first_ns - second_ns)[1:]], axis=1)
    found: NDArray[np.float64] = turns[idle_ns > 0]
    return found


def _curve(turns: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Medians of the turns whose idle time is nearest to each of `_IDLE_NS`."""
    distance = np.abs(np.log(turns[:, :1]) - np.log(_IDLE_NS))
    nearest = distance.argmin(axis=1)
    medians = [np.median(turns[nearest == k], axis=0) for k in np.unique(nearest)]
    return tuple((float(idle_ns), max(0.0, float(extra_ns))) for idle_ns, extra_ns in medians)
