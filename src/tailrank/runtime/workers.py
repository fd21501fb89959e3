"""The worker threads of a live run: they step the one loop themselves.

There is no dispatcher. A worker that finishes a batch releases the queries that have become due,
steps the loop and finds its next batch in its own mailbox. Workers without one wait in a stack: the
last to become idle leads, sleeping until the next query or timer is due; the others just sleep.
This module must not know what a batch is made of or what ranks it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress

from tailrank.core.clock import Clock
from tailrank.core.errors import WorkerDied
from tailrank.core.query import Batch
from tailrank.runtime.events import QueryArrived, TimerFired, WorkersFree
from tailrank.runtime.loop import Loop
from tailrank.runtime.ports import Inbox, Parking, RunBatch, perform
from tailrank.runtime.record import Recorder

_JOIN_GRACE_S = 2.0
# How often the end of a run whose inbox is open is looked for: nobody knows yet when it will be.
_JOIN_STEP_S = 1.0
_NEVER = 1 << 62


class RunClock:
    """Another clock, counted from the start of the run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._origin_ns = clock.now_ns()

    def start(self) -> None:
        """Make now the time 0."""
        self._origin_ns = self._clock.now_ns()

    def now_ns(self) -> int:
        """Time since the start in ns."""
        return self._clock.now_ns() - self._origin_ns


class LockParking:
    """Parks each worker on a lock of its own, which serves as a binary semaphore.

    Args:
        num_workers: worker slots.
        clock: what `until_ns` is measured on; it must run as fast as the machine's.
    """

    def __init__(self, num_workers: int, clock: Clock) -> None:
        self._clock = clock
        self._tokens = [threading.Lock() for _ in range(num_workers)]
        for token in self._tokens:
            token.acquire()

    def park(self, slot: int, until_ns: int | None) -> None:
        """Wait for a token or for the time."""
        if until_ns is None:
            self._tokens[slot].acquire()
        else:
            wait_s = max(0, until_ns - self._clock.now_ns()) / 1e9
            self._tokens[slot].acquire(timeout=wait_s)

    def unpark(self, slot: int) -> None:
        """Leave a token, unless one is there."""
        try:
            self._tokens[slot].release()
        except RuntimeError:
            return  # released already: the token is there


class WorkerPool:
    """The executor of a live run and its threads.

    Args:
        inbox: where queries come from; opened when all workers are ready.
        num_workers: worker threads.
        run_batch: ranks a batch, on a worker's thread.
        initialise_worker: called with the slot on each worker's thread, before all else.
        cores: the cores each worker is bound to; None: unbound.
        drain_timeout_ns: how long after the last arrival open queries are waited for.
        clock: started when all workers are ready.
        parking: where idle workers wait.
        recorder: takes how late idle workers woke, and a worker that died.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        num_workers: int,
        run_batch: RunBatch,
        initialise_worker: Callable[[int], None] | None,
        cores: Sequence[Set[int]] | None,
        drain_timeout_ns: int,
        clock: RunClock,
        parking: Parking,
        recorder: Recorder,
    ) -> None:
        self._inbox = inbox
        self._num_workers = num_workers
        self._run_batch = run_batch
        self._initialise_worker = initialise_worker
        self._cores = cores
        self._clock = clock
        self._parking = parking
        self._recorder = recorder
        self._drain_timeout_ns = drain_timeout_ns
        self._loop: Loop
        self._ready = threading.Barrier(num_workers, action=self._begin)
        self._began_s: float | None = None
        self._mailbox: list[Batch | None] = [None] * num_workers
        self._inbox_lock = threading.Lock()
        self._idle_lock = threading.Lock()
        self._idle: list[int] = []  # the last one leads
        self._leader_until_ns = 0
        self._stopped = False
        self._drained = False
        self._crash: BaseException | None = None

    def submit(self, batch: Batch) -> None:
        """Put the batch into its worker's mailbox."""
        self._mailbox[batch.slot] = batch
        self._parking.unpark(batch.slot)

    def serve(self, loop: Loop) -> bool:
        """Run all workers to the end; True if the queue was drained."""
        self._loop = loop
        threads = [
            threading.Thread(
                target=self._work,
                args=(slot,),
                name=f"tailrank-worker-{slot}",
                daemon=True,
            )
            for slot in range(self._num_workers)
        ]
        for thread in threads:
            thread.start()
        # Ctrl-C interrupts this thread, so it never waits at the barrier: an interrupt just as it
        # is given the barrier's lock leaves the lock taken, and `abort` waiting for it for ever,
        # while the workers go on.
        try:
            for thread in threads:
                while thread.is_alive() and (left_s := self._left_s()) > 0:
                    thread.join(min(left_s, _JOIN_STEP_S))
        finally:
            self._ready.abort()  # an interrupt may leave workers waiting there
            self._stop()
            self._inbox.shut()
        end_s = time.monotonic() + _JOIN_GRACE_S
        for slot, thread in enumerate(threads):
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive() and self._recorder.first_error is None:
                self._recorder.first_error = WorkerDied(f"worker {slot} never ended its batch")
        if self._crash is not None:
            raise self._crash
        return self._drained

    def _left_s(self) -> float:
        """How long to wait on: workers end by themselves, but for one that never leaves a batch."""
        if self._began_s is None:
            return _JOIN_STEP_S
        return self._began_s + self._drain_ns / 1e9 + _JOIN_GRACE_S - time.monotonic()

    def _work(self, slot: int) -> None:
        """One worker's life."""
        try:
            if self._cores is not None:
                # 0 is the calling thread, not the process
                os.sched_setaffinity(0, self._cores[slot])
            _sleep_exactly()
            if self._initialise_worker is not None:
                self._initialise_worker(slot)
            self._ready.wait()
            self._loop.step(WorkersFree((slot,)))
            while (batch := self._next_batch(slot)) is not None:
                done = perform(self._run_batch, batch)
                self._release_due(None)
                self._loop.step(done)
                self._wake_leader_for_timer()
                del batch, done  # an idle worker keeps nothing alive, such as a replaced model
        except threading.BrokenBarrierError:
            pass  # another worker could not be initialised
        except BaseException as error:  # a thread has nobody to raise to: `serve` raises it
            self._crash = self._crash or error
            self._ready.abort()
            self._stop()

    def _next_batch(self, slot: int) -> Batch | None:
        """The next batch for this slot; None when the run is over."""
        if self._clock.now_ns() > self._drain_ns:
            self._stop()
        batch = self._mailbox[slot] or self._wait_for_batch(slot)
        self._mailbox[slot] = None
        return None if self._stopped else batch

    def _wait_for_batch(self, slot: int) -> Batch | None:
        idle_since_ns = self._clock.now_ns()
        with self._idle_lock:
            self._idle.append(slot)
        while not self._stopped:
            self._release_due(idle_since_ns)
            deadline_ns = self._loop.next_deadline_ns
            if deadline_ns is not None and deadline_ns <= self._clock.now_ns():
                self._loop.step(TimerFired())
            if self._mailbox[slot] is not None:
                break
            if self._is_over():
                self._stop()
                break
            until_ns = None
            if self._idle[-1] == slot:
                until_ns = self._leader_until_ns = self._next_due_ns()
                # Another worker may have set an earlier timer before it could see this time.
                if self._next_due_ns() < until_ns:
                    continue
            self._parking.park(slot, until_ns)
        with self._idle_lock:
            led = self._idle[-1] == slot
            self._idle.remove(slot)
            heir = self._idle[-1] if led and self._idle else None
        if heir is not None:
            self._parking.unpark(heir)
        return self._mailbox[slot]

    def _release_due(self, idle_since_ns: int | None) -> None:
        """Tell the loop of every query that is due.

        Args:
            idle_since_ns: when the calling worker became idle; a query that fell due after that was
                late only because the worker was late to wake. None: it was busy.
        """
        inbox = self._inbox
        if inbox.peek() is None:
            return
        with self._inbox_lock:  # held over the steps, so that queries arrive in order
            while (query := inbox.peek()) is not None:
                lateness_ns = self._clock.now_ns() - query.scheduled_ns
                if lateness_ns < 0:
                    break
                try:
                    self._loop.step(QueryArrived(query))
                finally:
                    inbox.pop()  # after the step: a query is always known to the inbox or the loop
                if idle_since_ns is not None and idle_since_ns <= query.scheduled_ns:
                    self._recorder.wake_lateness_ns.append(lateness_ns)

    @property
    def _drain_ns(self) -> int:
        """When queries that are still open are given up."""
        closed_ns = self._inbox.closed_ns
        return _NEVER if closed_ns is None else closed_ns + self._drain_timeout_ns

    def _next_due_ns(self) -> int:
        """When an idle worker has something to do, unless it is woken before."""
        query = self._inbox.peek()
        due_ns = self._drain_ns if query is None else query.scheduled_ns
        deadline_ns = self._loop.next_deadline_ns
        return due_ns if deadline_ns is None else min(due_ns, deadline_ns)

    def _wake_leader_for_timer(self) -> None:
        """Wake the leader if the step just taken set a timer before the time it sleeps until."""
        deadline_ns = self._loop.next_deadline_ns
        if deadline_ns is not None and deadline_ns < self._leader_until_ns:
            self._wake_leader()

    def _wake_leader(self) -> None:
        """Let the leader look at inbox and timers again; a busy worker does so by itself."""
        with self._idle_lock:
            leader = self._idle[-1] if self._idle else None
        if leader is not None:
            self._parking.unpark(leader)

    def _begin(self) -> None:
        """All workers are ready: this is time 0."""
        self._clock.start()
        self._began_s = time.monotonic()
        self._inbox.open(self._clock, self._wake_leader)

    def _is_over(self) -> bool:
        """Everything has arrived and ended, or the time to drain is up."""
        inbox = self._inbox
        if inbox.closed_ns is not None and inbox.peek() is None and self._loop.num_open == 0:
            self._drained = True
            return True
        return self._clock.now_ns() > self._drain_ns

    def _stop(self) -> None:
        """Send all workers home after their current batch."""
        self._stopped = True
        for slot in range(self._num_workers):
            self._parking.unpark(slot)


def _sleep_exactly() -> None:
    """Let this thread's sleeps end when they are due; Linux wakes it up to 50 us later by default.

    Where the system offers no such thing it stays as it is.
    """
    with suppress(OSError), open(f"/proc/{threading.get_native_id()}/timerslack_ns", "w") as slack:
        slack.write("1")
