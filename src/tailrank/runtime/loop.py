"""The one loop: it tells the scheduler what happened and carries out what it decides.

Simulation and serving run this very code; they differ in the clock and the executor they hand in.
It must not know what a payload is, what runs a batch, or which policy decides.
"""

from __future__ import annotations

import threading

from tailrank.core.clock import Clock
from tailrank.core.query import Batch, Decision, Outcome, Query
from tailrank.runtime.events import BatchDone, Event, QueryArrived, WorkersFree
from tailrank.runtime.ports import Executor, Journal, OnAnswer
from tailrank.runtime.record import QueryOutcome, QueryRecord, Recorder
from tailrank.scheduling.scheduler import Scheduler


class Loop:
    """Steps from event to event under a lock; any thread may call `step`.

    A finishing worker steps the loop itself and finds its next batch submitted to its own slot, so
    no dispatcher thread competes with workers for a core.

    Args:
        scheduler: decides; nobody else may call it.
        executor: runs what is started.
        clock: read once per step.
        num_workers: worker slots, numbered from 0.
        batch_items_max: the batch limit the scheduler promised; a larger batch is a bug.
        recorder: takes the rows of queries and batches.
        journal: takes down every step.
        on_answer: takes every answer, outside the lock, on the thread that finished the query.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        executor: Executor,
        clock: Clock,
        num_workers: int,
        batch_items_max: int,
        recorder: Recorder,
        journal: Journal | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._scheduler = scheduler
        self._executor = executor
        self._clock = clock
        self._batch_items_max = batch_items_max
        self._recorder = recorder
        self._journal = journal
        self._on_answer = on_answer
        self._open: dict[int, QueryRecord] = {}
        self._running: list[Batch | None] = [None] * num_workers
        self._started_ns = [0] * num_workers
        self._last_ns = clock.now_ns()
        self.open_query_ns = 0
        self.next_deadline_ns: int | None = None

    @property
    def num_open(self) -> int:
        """Queries that have arrived and not ended."""
        return len(self._open)

    @property
    def last_step_ns(self) -> int:
        """Time of the latest step."""
        return self._last_ns

    def step(self, event: Event) -> None:
        """Take one event in and carry out what the scheduler decides."""
        answered: list[QueryRecord] = []
        with self._lock:
            now_ns = self._clock.now_ns()
            self.open_query_ns += len(self._open) * (now_ns - self._last_ns)
            self._last_ns = now_ns
            if type(event) is BatchDone:
                answered = self._take_results(event, now_ns)
                decision = self._scheduler.on_done(event.batch, event.outcome, now_ns)
            elif type(event) is QueryArrived:
                self._take_query(event.query, now_ns)
                decision = self._scheduler.on_query(event.query, now_ns)
            elif type(event) is WorkersFree:
                decision = self._scheduler.on_workers(event.slots, now_ns)
            else:
                decision = self._scheduler.on_timer(now_ns)
            self._carry_out(decision, now_ns)
            self.next_deadline_ns = self._scheduler.next_deadline_ns()
            if self._journal is not None:
                self._journal.record(event, now_ns, decision)
        for record in answered:
            if self._on_answer is not None:
                results = tuple(result for _, _, result in record.done_parts)
                latency_ns = record.done_ns - record.query.scheduled_ns
                self._on_answer(record.query, results, latency_ns)
            record.done_parts.clear()  # the record outlives the answer; the scores need not

    def _take_query(self, query: Query, now_ns: int) -> None:
        records = self._recorder.queries
        assert query.query_id not in records, "a query arrives once"
        record = QueryRecord(query, now_ns, query.num_items, query.num_items)
        records[query.query_id] = self._open[query.query_id] = record

    def _carry_out(self, decision: Decision, now_ns: int) -> None:
        for rejection in decision.reject:
            self._close(rejection.query.query_id, QueryOutcome.REJECTED)
        for batch in decision.start:
            slot = batch.slot
            assert self._running[slot] is None, "a slot runs one batch at a time"
            assert batch.num_items <= self._batch_items_max, "a batch keeps to its limit"
            self._running[slot] = batch
            self._started_ns[slot] = now_ns
            for part in batch.parts:
                record = self._open[part.query.query_id]
                if record.num_parts == 0:
                    record.started_ns = now_ns
                record.num_parts += 1
                record.items_unstarted -= part.num_items
                assert record.items_unstarted >= 0, "an item is started once"
            self._executor.submit(batch)

    def _take_results(self, event: BatchDone, now_ns: int) -> list[QueryRecord]:
        """Book a batch's end; returns the queries that it completed."""
        batch = event.batch
        slot = batch.slot
        assert self._running[slot] is batch, "a batch ends once, on the slot it was started on"
        self._running[slot] = None
        self._recorder.batches.append(
            (slot, batch.num_items, len(batch.parts), self._started_ns[slot], now_ns)
        )
        answered: list[QueryRecord] = []
        if event.outcome is Outcome.FAILED:
            if self._recorder.first_error is None:
                self._recorder.first_error = event.error
            for part in batch.parts:
                self._close(part.query.query_id, QueryOutcome.FAILED)
            return answered
        results = event.results if event.results is not None else (None,) * len(batch.parts)
        for part, result in zip(batch.parts, results, strict=True):
            record = self._open.get(part.query.query_id)
            if record is None:
                continue  # another part of this query has failed meanwhile
            record.done_parts.append((part.first_item, part.num_items, result))
            record.items_left -= part.num_items
            if record.items_left == 0:
                _check_parts(record)
                record.done_ns = now_ns
                self._close(part.query.query_id, QueryOutcome.ANSWERED)
                answered.append(record)
        return answered

    def _close(self, query_id: int, outcome: QueryOutcome) -> None:
        record = self._open.pop(query_id, None)
        if record is not None:
            record.outcome = outcome
            if outcome is not QueryOutcome.ANSWERED:
                record.done_parts.clear()


def _check_parts(record: QueryRecord) -> None:
    """Put the parts into item order; each item is in exactly one of them."""
    record.done_parts.sort(key=lambda part: part[0])
    next_item = 0
    for first_item, num_items, _ in record.done_parts:
        assert first_item == next_item, "the parts of a query neither overlap nor leave gaps"
        next_item = first_item + num_items
    assert next_item == record.query.num_items, "the parts of a query hold all its items"
