"""Simulation: the one loop on a clock that jumps from event to event.

It must not know where service times come from: a measured table, a formula or a test.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from tailrank.core.clock import ManualClock
from tailrank.core.errors import ConfigError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, Outcome, Query
from tailrank.core.service_time import BatchMedians, ServiceTimeTable
from tailrank.runtime.events import BatchDone, QueryArrived, TimerFired, WorkersFree
from tailrank.runtime.loop import Loop
from tailrank.runtime.ports import Journal, OnAnswer, RunBatch, perform
from tailrank.runtime.record import Recorder, RunResult
from tailrank.scheduling.policies import PolicyConfig, build_scheduler

ServiceTime = Callable[[Batch, int], int]
"""Service time in ns of a batch while this many workers of its device are busy, itself included."""

_STREAM = 0x5E2C
_NUM_DRAWS = 4096
_NEVER = 1 << 62


class TableServiceTime:
    """Service times drawn from measured tables: a table's median times a ratio from its spread.

    Args:
        measured: the table of every batch; or the fleet that has one for each model and device.
        seed: of the draws.
    """

    def __init__(self, measured: ServiceTimeTable | Fleet, seed: int) -> None:
        self._measured = measured
        self._rng = np.random.default_rng([_STREAM, seed])
        self._ratios: dict[int, list[float]] = {}  # by id of the table
        self._running: dict[int, BatchMedians] = {}  # by slot, of its latest batch

    def __call__(self, batch: Batch, busy_workers: int, idle_ns: int = 0) -> int:
        """The service time of this batch, this time.

        Args:
            batch: what is run.
            busy_workers: workers of its device that are busy, its own included.
            idle_ns: how long its worker had nothing to do before.

        Raises:
            OutsideProfile: nobody measured such a batch.
        """
        _, slot, parts = batch
        table = self._measured
        if isinstance(table, Fleet):
            table = table.table(parts[0].query.model, slot)
        medians = table.batch_medians(len(parts), batch.num_items, batch.num_ids)
        self._running[slot] = medians
        ratios = self._ratios.get(id(table))
        if not ratios:
            ratios = self._ratios[id(table)] = self._rng.choice(table.spread, _NUM_DRAWS).tolist()
        service_ns = medians[busy_workers] * ratios.pop()
        return round(service_ns + table.wake_up_ns(idle_ns) if idle_ns else service_ns)

    def slowdown(self, slot: int, busy_before: int, busy_workers: int) -> float:
        """Factor on the rest of the slot's batch, now that as many workers of its device are busy.

        Raises:
            OutsideProfile: nobody measured such a batch beside as many.
        """
        medians = self._running[slot]
        before_ns = medians[busy_before]
        return medians[busy_workers] / before_ns if before_ns else 1.0


class VirtualExecutor:
    """Ends each batch after its service time.

    Where service times come from measured tables, the rest of a batch takes longer or shorter as
    soon as a worker of its device becomes busy or idle, by the ratio of the medians, and a worker
    that was idle takes longer over its first one; otherwise the number of busy workers at its start
    decides.

    Args:
        clock: the simulation's.
        service_time_ns: how long a batch takes.
        num_workers: worker slots.
        devices: the device of each slot, where they differ; None where all are one.
    """

    def __init__(
        self,
        clock: ManualClock,
        service_time_ns: ServiceTime,
        num_workers: int,
        devices: Sequence[str] | None = None,
    ) -> None:
        self._clock = clock
        self._service_time_ns = service_time_ns
        self._contention = (
            service_time_ns if isinstance(service_time_ns, TableServiceTime) else None
        )
        names = sorted(set(devices or ()))
        self._device = [names.index(name) for name in devices] if devices else [0] * num_workers
        self.busy = [0] * max(1, len(names))  # workers by device
        # Those that `running` was last timed with; the same list where nothing is timed anew.
        self.settled = self.busy if self._contention is None else list(self.busy)
        self._idle_since_ns = [0] * num_workers
        self._timed_with = [0] * num_workers  # busy workers that each slot's batch was timed with
        # (end, batch id, batch): the id breaks ties in order of start
        self.running: list[tuple[int, int, Batch]] = []

    def submit(self, batch: Batch) -> None:
        """Put the batch's end on the calendar."""
        batch_id, slot, _ = batch
        device = self._device[slot]
        self.busy[device] = self._timed_with[slot] = busy_workers = self.busy[device] + 1
        now_ns = self._clock.now_ns()
        if self._contention is None:
            service_ns = self._service_time_ns(batch, busy_workers)
        else:
            service_ns = self._contention(batch, busy_workers, now_ns - self._idle_since_ns[slot])
        heappush(self.running, (now_ns + service_ns, batch_id, batch))

    def finish(self) -> Batch:
        """Take the batch that ends first off the calendar."""
        end_ns, _, batch = heappop(self.running)
        slot = batch.slot
        self._idle_since_ns[slot] = end_ns
        self.busy[self._device[slot]] -= 1
        return batch

    def settle(self) -> None:
        """Time the rest of what is running for the workers that are busy now."""
        assert self._contention is not None, "without contention nothing needs settling"
        busy, device, timed_with = self.busy, self._device, self._timed_with
        slowdown = self._contention.slowdown
        self.settled[:] = busy
        now_ns, running = self._clock.now_ns(), self.running
        for position, (end_ns, batch_id, batch) in enumerate(running):
            slot = batch.slot
            now_busy, before = busy[device[slot]], timed_with[slot]
            if before != now_busy:
                timed_with[slot] = now_busy
                rest_ns = round((end_ns - now_ns) * slowdown(slot, before, now_busy))
                running[position] = (now_ns + rest_ns, batch_id, batch)
        if len(running) > 1:
            heapify(running)


def simulate(
    schedule: Sequence[Query],
    policy: PolicyConfig,
    *,
    num_workers: int,
    service_time_ns: ServiceTime,
    run_batch: RunBatch | None = None,
    on_answer: OnAnswer | None = None,
    journal: Journal | None = None,
    fleet: Fleet | None = None,
) -> RunResult:
    """Run a schedule through a fresh scheduler in simulated time, until the queue is drained.

    Events at the same instant come in this order: batches that end, queries that arrive, timers.

    Args:
        schedule: queries in order of `scheduled_ns`.
        policy: the scheduling policy.
        num_workers: worker slots, >= 1.
        service_time_ns: how long a batch takes; must be >= 0.
        run_batch: computes real results at the end of each batch; what it raises fails the batch.
            None: batches succeed without results.
        on_answer: takes every answer.
        journal: takes down every step.
        fleet: what the policy predicts with, and which workers are of one device; None for a
            policy that predicts nothing, on workers that are all alike.

    Raises:
        ConfigError: the schedule is empty or out of order, there is no worker, the fleet has
            another number of slots, or the policy wants one.
        OutsideProfile: `service_time_ns` was asked for what nobody measured.
    """
    check_workers(num_workers, fleet)
    check_schedule(schedule)
    clock = ManualClock()
    devices = fleet.devices if fleet is not None and len(set(fleet.devices)) > 1 else None
    executor = VirtualExecutor(clock, service_time_ns, num_workers, devices)
    recorder = Recorder()
    loop = Loop(
        scheduler=build_scheduler(policy, fleet),
        executor=executor,
        clock=clock,
        num_workers=num_workers,
        batch_items_max=policy.batch_items_bound,
        recorder=recorder,
        journal=journal,
        on_answer=on_answer,
    )
    with _no_garbage_collection():
        loop.step(WorkersFree(tuple(range(num_workers))))
        running, step, succeeded, timer = executor.running, loop.step, Outcome.OK, TimerFired()
        busy, settled = executor.busy, executor.settled
        inbox = iter(schedule)
        query = next(inbox, None)
        while True:
            if busy != settled:
                executor.settle()
            due_ns = query.scheduled_ns if query is not None else _NEVER
            done_ns = running[0][0] if running else _NEVER
            deadline_ns = loop.next_deadline_ns
            if deadline_ns is not None and deadline_ns < due_ns and deadline_ns < done_ns:
                clock.advance_to(max(deadline_ns, clock.now_ns()))
                step(timer)
            elif running and done_ns <= due_ns:
                clock.advance_to(done_ns)
                batch = executor.finish()
                step(
                    BatchDone(batch, succeeded) if run_batch is None else perform(run_batch, batch)
                )
            elif query is not None:
                clock.advance_to(due_ns)
                step(QueryArrived(query))
                query = next(inbox, None)
            else:
                break
    assert loop.num_open == 0, "a scheduler forgets no query"
    return recorder.result(
        schedule,
        num_workers=num_workers,
        ended_ns=clock.now_ns(),
        open_query_ns=loop.open_query_ns,
        drained=True,
    )


@contextmanager
def _no_garbage_collection() -> Generator[None, None, None]:
    """Nothing here is part of a cycle, and looking for one among all records takes a seventh."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_schedule(schedule: Sequence[Query]) -> None:
    """Refuse what no run can honour.

    Raises:
        ConfigError: the schedule is empty, out of order or before time 0.
    """
    if not schedule:
        raise ConfigError("schedule", [], "at least one query")
    times = [query.scheduled_ns for query in schedule]
    if times[0] < 0 or any(later < earlier for earlier, later in pairwise(times)):
        raise ConfigError("schedule", "unordered times", "times from 0, in order")


def check_workers(num_workers: int, fleet: Fleet | None) -> None:
    """Refuse a run that nobody works in, or a fleet of other slots than it has.

    Raises:
        ConfigError: there is no worker, or the fleet has more slots or fewer.
    """
    if num_workers < 1:
        raise ConfigError("num_workers", num_workers, "a whole number from 1")
    if fleet is not None and len(fleet.devices) != num_workers:
        raise ConfigError("fleet.devices", fleet.devices, f"{num_workers}, one per worker")
