"""The one loop: it tells the scheduler what happened and carries out what it decides.

Simulation and serving run this very code; they differ in the clock and the executor they hand in.
It must not know what a payload is, what runs a batch, or which policy decides.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from operator import itemgetter

from tailrank.core.clock import Clock
from tailrank.core.query import NOTHING, Batch, Decision, Outcome, Query
from tailrank.runtime.events import BatchDone, Event, QueryArrived, WorkersFree
from tailrank.runtime.ports import Executor, Journal, OnAnswer, OnEnd
from tailrank.runtime.record import QueryOutcome, QueryRecord, Recorder
from tailrank.scheduling.scheduler import Scheduler

_FIRST_ITEM = itemgetter(0)


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
        on_end: takes every query that ends, in whatever way, likewise.
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
        on_end: OnEnd | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._scheduler = scheduler
        self._executor = executor
        self._clock = clock
        self._batch_items_max = batch_items_max
        self._recorder = recorder
        self._journal = journal
        self._on_answer = on_answer
        self._on_end = on_end
        self._open: dict[int, QueryRecord] = {}
        self._ended: list[QueryRecord] = []  # in the step that is being taken
        self._running: list[Batch | None] = [None] * num_workers
        # (slot, items, parts, start) of what runs in each slot: its row in the making
        self._rows = [(slot, 0, 0, 0) for slot in range(num_workers)]
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
        ended: Sequence[QueryRecord] = ()
        with self._lock:
            now_ns = self._clock.now_ns()
            self.open_query_ns += len(self._open) * (now_ns - self._last_ns)
            self._last_ns = now_ns
            if type(event) is BatchDone:
                self._take_results(event, now_ns)
                decision = self._scheduler.on_done(event.batch, event.outcome, now_ns)
            elif type(event) is QueryArrived:
                self._take_query(event.query, now_ns)
                decision = self._scheduler.on_query(event.query, now_ns)
            elif type(event) is WorkersFree:
                decision = self._scheduler.on_workers(event.slots, now_ns)
            else:
                decision = self._scheduler.on_timer(now_ns)
            if decision is not NOTHING:
                self._carry_out(decision, now_ns)
            self.next_deadline_ns = self._scheduler.next_deadline_ns()
            if self._journal is not None:
                self._journal.record(event, now_ns, decision)
            if self._ended:
                ended, self._ended = self._ended, []
        if ended:
            self._tell(ended)

    def give_up(self, never_came: Sequence[Query] = ()) -> None:
        """End all queries that are open, and those that never came: nobody will answer them."""
        with self._lock:
            for query_id in list(self._open):
                self._close(query_id, QueryOutcome.UNANSWERED)
            ended, self._ended = self._ended, []
        records = [QueryRecord(query, -1, query.num_items, query.num_items) for query in never_came]
        self._tell([*ended, *records])

    def _tell(self, ended: Sequence[QueryRecord]) -> None:
        """Pass on the queries that have ended: all of them, before what one raised is raised."""
        raised: BaseException | None = None
        for record in ended:
            try:
                if self._on_answer is not None and record.outcome is QueryOutcome.ANSWERED:
                    self._on_answer(record.query, record.results, record.latency_ns)
                if self._on_end is not None:
                    self._on_end(record)
            except BaseException as error:
                raised = raised or error
            record.done_parts.clear()  # the record outlives the answer; the scores need not
        if raised is not None:
            raise raised

    def _take_query(self, query: Query, now_ns: int) -> None:
        records = self._recorder.queries
        assert query.query_id not in records, "a query arrives once"
        record = QueryRecord(query, now_ns, query.num_items, query.num_items)
        records[query.query_id] = self._open[query.query_id] = record

    def _carry_out(self, decision: Decision, now_ns: int) -> None:
        for rejection in decision.reject:
            self._close(rejection.query.query_id, QueryOutcome.REJECTED, rejection.reason)
        open_queries, running = self._open, self._running
        for batch in decision.start:
            _, slot, parts = batch
            assert running[slot] is None, "a slot runs one batch at a time"
            running[slot] = batch
            num_items = 0
            for query, _, part_items in parts:
                record = open_queries[query.query_id]
                if record.num_parts == 0:
                    record.started_ns = now_ns
                record.num_parts += 1
                record.items_unstarted -= part_items
                assert record.items_unstarted >= 0, "an item is started once"
                num_items += part_items
            assert num_items <= self._batch_items_max, "a batch keeps to its limit"
            self._rows[slot] = (slot, num_items, len(parts), now_ns)
            self._executor.submit(batch)

    def _take_results(self, event: BatchDone, now_ns: int) -> None:
        """Book a batch's end and that of the queries that it completed or failed."""
        batch, outcome, results, error = event
        _, slot, parts = batch
        assert self._running[slot] is batch, "a batch ends once, on the slot it was started on"
        self._running[slot] = None
        self._recorder.batches.append((*self._rows[slot], now_ns))
        if outcome is Outcome.FAILED:
            if self._recorder.first_error is None:
                self._recorder.first_error = error
            for part in parts:
                self._close(part.query.query_id, QueryOutcome.FAILED, None, error)
            return
        if results is None:
            results = (None,) * len(parts)
        open_queries = self._open
        for (query, first_item, num_items), result in zip(parts, results, strict=True):
            record = open_queries.get(query.query_id)
            if record is None:
                continue  # another part of this query has failed meanwhile
            record.done_parts.append((first_item, num_items, result))
            record.items_left -= num_items
            if record.items_left == 0:
                _check_parts(record)
                record.done_ns = now_ns
                self._close(query.query_id, QueryOutcome.ANSWERED)

    def _close(
        self,
        query_id: int,
        outcome: QueryOutcome,
        reason: str | None = None,
        error: Exception | None = None,
    ) -> None:
        record = self._open.pop(query_id, None)
        if record is None:
            return  # another part of this query has failed before
        record.outcome = outcome
        if outcome is not QueryOutcome.ANSWERED:
            record.reason, record.error = reason, error
            record.done_parts.clear()
        if self._recorder.forget:
            del self._recorder.queries[query_id]
        self._ended.append(record)


def _check_parts(record: QueryRecord) -> None:
    """Put the parts into item order; each item is in exactly one of them."""
    done_parts = record.done_parts
    if len(done_parts) > 1:
        done_parts.sort(key=_FIRST_ITEM)
    next_item = 0
    for first_item, num_items, _ in done_parts:
        assert first_item == next_item, "the parts of a query neither overlap nor leave gaps"
        next_item = first_item + num_items
    assert next_item == record.query.num_items, "the parts of a query hold all its items"
