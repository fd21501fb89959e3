"""Serving queries for real, on worker threads; the counterpart of `virtual`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tailrank.core.clock import Clock, MonotonicClock
from tailrank.core.errors import ConfigError
from tailrank.core.fleet import CPU, Fleet
from tailrank.core.query import Query
from tailrank.runtime.inbox import DrawnInbox, OpenInbox
from tailrank.runtime.loop import Loop
from tailrank.runtime.ports import Inbox, Journal, OnAnswer, OnEnd, Parking, RunBatch
from tailrank.runtime.record import Recorder, RunResult
from tailrank.runtime.virtual import check_schedule, check_workers
from tailrank.runtime.workers import LockParking, RunClock, WorkerPool
from tailrank.scheduling.policies import PolicyConfig, build_scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """How worker threads run.

    Args:
        pin: bind worker k to the k-th core this process may use; needs a core per worker. Threads
            that drive another device are not counted and share the cores that are left.
        switch_interval_s: Python's switch interval during the run, > 0: how long a thread that
            returns from native code waits before it asks the running one for the interpreter lock.
            Beside a thread that computes in Python, 5 ms make a batch 2 to 90 times slower;
            0.1 ms cost nothing when there is none (docs/lab-notes.md).
        collect_garbage: leave Python's cyclic garbage collector on. A full collection stops all
            workers for 90-190 ms with torch loaded (docs/lab-notes.md).
        drain_timeout_ns: how long after the last arrival open queries are waited for.

    Raises:
        ConfigError: a number is out of range.
    """

    pin: bool = True
    switch_interval_s: float = 1e-4
    collect_garbage: bool = False
    drain_timeout_ns: int = 30_000_000_000

    def __post_init__(self) -> None:
        if not 0.0 < self.switch_interval_s <= 1.0:
            raise ConfigError("switch_interval_s", self.switch_interval_s, "above 0, at most 1")
        if self.drain_timeout_ns <= 0:
            raise ConfigError("drain_timeout_ns", self.drain_timeout_ns, "a time in ns above 0")


def available_workers() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def resolve_workers(requested: int | None) -> int:
    """How many workers to run: as many as requested, or one per core.

    Raises:
        ConfigError: fewer than one, or more than there are cores to pin them to.
    """
    available = available_workers()
    if requested is None:
        return available
    if not 1 <= requested <= available:
        raise ConfigError("--workers", requested, f"1 to {available}, one per core")
    return requested


def run_live(
    queries: Sequence[Query] | OpenInbox,
    policy: PolicyConfig,
    *,
    num_workers: int,
    run_batch: RunBatch,
    initialise_worker: Callable[[int], None] | None = None,
    on_answer: OnAnswer | None = None,
    on_end: OnEnd | None = None,
    journal: Journal | None = None,
    config: LiveConfig | None = None,
    fleet: Fleet | None = None,
    clock: Clock | None = None,
    parking: Parking | None = None,
) -> RunResult:
    """Serve queries on worker threads until the last one has come and the queue is drained.

    Time 0 of the queries and of the result is the moment when all workers are ready.

    Args:
        queries: a schedule in order of `scheduled_ns`, from 0; or an inbox, fresh, that other
            threads fill and close.
        policy: the scheduling policy.
        num_workers: worker threads, >= 1.
        run_batch: ranks a batch, on a worker's thread; what it raises fails the batch and is kept
            in `RunResult.first_error`, and the run goes on.
        initialise_worker: called with the slot, once, on each worker's thread, before all else.
        on_answer: takes every answer, on a worker's thread.
        on_end: takes every query that came, once, when it has ended, in whatever way; the run then
            forgets it, so that it can go on for ever (with `collect_garbage`), and its result has
            no rows.
        journal: takes down every step.
        config: None: the defaults.
        fleet: what the policy predicts with; None for one that does not.
        clock: None: the machine's monotonic clock.
        parking: where idle workers wait; None: on locks. Goes with `clock`.

    Raises:
        ConfigError: the schedule is empty or out of order, more workers than cores are to be
            pinned, the fleet has another number of slots, or the policy wants one.
        Exception: whatever `initialise_worker`, `on_answer` or `on_end` raised.
    """
    config = config or LiveConfig()
    check_workers(num_workers, fleet)
    if isinstance(queries, OpenInbox):
        inbox: Inbox = queries
    else:
        check_schedule(queries)
        inbox = DrawnInbox(queries)
    devices = (CPU,) * num_workers if fleet is None else fleet.devices
    cores = cores_of(devices, sorted(os.sched_getaffinity(0))) if config.pin else None
    run_clock = RunClock(clock or MonotonicClock())
    recorder = Recorder(forget=on_end is not None)
    pool = WorkerPool(
        inbox=inbox,
        num_workers=num_workers,
        run_batch=run_batch,
        initialise_worker=initialise_worker,
        cores=cores,
        drain_timeout_ns=config.drain_timeout_ns,
        clock=run_clock,
        parking=parking or LockParking(num_workers, run_clock),
        recorder=recorder,
    )
    loop = Loop(
        scheduler=build_scheduler(policy, fleet),
        executor=pool,
        clock=run_clock,
        num_workers=num_workers,
        batch_items_max=policy.batch_items_bound,
        recorder=recorder,
        journal=journal,
        on_answer=on_answer,
        on_end=on_end,
    )
    with _quiet_interpreter(config):
        try:
            drained = pool.serve(loop)
        finally:
            if on_end is not None:
                loop.give_up(inbox.left())
    came = [*recorder.released(), *inbox.left()] if on_end is None else []
    return recorder.result(
        sorted(came, key=lambda query: query.scheduled_ns),
        num_workers=num_workers,
        ended_ns=loop.last_step_ns,
        open_query_ns=loop.open_query_ns,
        drained=drained,
    )


def cores_of(devices: Sequence[str], cores: Sequence[int]) -> list[frozenset[int]]:
    """The cores that each slot's thread may run on.

    A thread that computes has a core to itself; those that drive another device wait most of the
    time, and get what the others leave, or all where nothing is left.

    Raises:
        ConfigError: there are more threads that compute than cores.
    """
    num_computing = list(devices).count(CPU)
    if num_computing > len(cores):
        allowed = f"at most {len(cores)}, one per core, unless pinning is off"
        raise ConfigError("num_workers", num_computing, allowed)
    left = frozenset(cores[num_computing:] or cores)
    own = iter(cores)
    return [frozenset({next(own)}) if device == CPU else left for device in devices]


@contextmanager
def _quiet_interpreter(config: LiveConfig) -> Iterator[None]:
    """Set the interpreter up for low latency, and back."""
    switch_interval_s = sys.getswitchinterval()
    collecting = gc.isenabled()
    sys.setswitchinterval(config.switch_interval_s)
    if not config.collect_garbage:
        gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(switch_interval_s)
        if collecting:
            gc.enable()
