"""The coalescing policy: pack small queries into one batch, cut large ones, bound the wait."""

from __future__ import annotations

from collections.abc import Sequence

from tailrank.core.query import NOTHING, Batch, Decision, Outcome, Query, Rejection
from tailrank.scheduling.part_queue import PartQueue


class CoalescingScheduler:
    """First in, first out; a batch takes as many waiting parts as fit into it.

    A batch is full when it has `batch_parts_max` parts or the next in line does not fit; a full
    batch starts as soon as a worker is free. A batch that could still grow starts when its oldest
    query has waited `delay_max_ns` since its scheduled arrival. A query that fits into one batch is
    never cut, because each part repeats the user's work and the last part sets the latency. A batch
    holds one model's parts.

    Args:
        batch_items_max: most items of a batch.
        batch_parts_max: most parts of a batch.
        queue_items_max: most items that may wait.
        delay_max_ns: longest time a query may wait for company while a worker is free.
    """

    def __init__(
        self,
        *,
        batch_items_max: int,
        batch_parts_max: int,
        queue_items_max: int,
        delay_max_ns: int,
    ) -> None:
        self._queue = PartQueue(batch_items_max, queue_items_max)
        self._batch_items_max = batch_items_max
        self._batch_parts_max = batch_parts_max
        self._delay_max_ns = delay_max_ns
        self._free_slots: list[int] = []
        self._num_batches = 0

    def on_query(self, query: Query, now_ns: int) -> Decision:
        """Queue the query and start what is full or due."""
        if not self._queue.push(query):
            return Decision(reject=(Rejection(query, "queue_full"),))
        return self._start(now_ns)

    def on_done(self, batch: Batch, outcome: Outcome, now_ns: int) -> Decision:
        """Give the slot to the next batch, if it is full or due."""
        if outcome is Outcome.FAILED:
            self._queue.drop_queries_of(batch)
        self._free_slots.append(batch.slot)
        return self._start(now_ns)

    def on_workers(self, free_slots: Sequence[int], now_ns: int) -> Decision:
        """Take the slots in."""
        self._free_slots.extend(free_slots)
        return self._start(now_ns)

    def on_timer(self, now_ns: int) -> Decision:
        """Start the batch whose oldest query has waited long enough."""
        return self._start(now_ns)

    def next_deadline_ns(self) -> int | None:
        """When the oldest query has waited long enough; None while no worker is free."""
        if not self._free_slots or not self._queue.parts:
            return None
        return self._queue.parts[0].query.scheduled_ns + self._delay_max_ns

    def _start(self, now_ns: int) -> Decision:
        queue, free_slots = self._queue, self._free_slots
        if not queue.parts or not free_slots:
            return NOTHING
        started = []
        while queue.parts and free_slots:
            due = queue.parts[0].query.scheduled_ns + self._delay_max_ns <= now_ns
            num_parts, full = self._fitting()
            if not (full or due):
                break
            parts = tuple([queue.pop() for _ in range(num_parts)])
            started.append(Batch(self._num_batches, free_slots.pop(), parts))
            self._num_batches += 1
        return Decision(tuple(started)) if started else NOTHING

    def _fitting(self) -> tuple[int, bool]:
        """How many parts from the front fit into one batch, and whether no later one could."""
        model = self._queue.parts[0].query.model
        room = self._batch_items_max
        for position, part in enumerate(self._queue.parts):
            if part.num_items > room or part.query.model != model:
                return position, True
            room -= part.num_items
            if room == 0 or position + 1 == self._batch_parts_max:
                return position + 1, True
        return len(self._queue.parts), False
