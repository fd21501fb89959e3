"""The static policy: cut every query into parts of bounded size, one part per batch, in order.

This is the CPU side of DeepRecSched (Gupta et al., ISCA 2020, section 4), with a bounded queue.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrank.core.query import NOTHING, Batch, Decision, Outcome, Query, Rejection
from tailrank.scheduling.part_queue import PartQueue


class StaticScheduler:
    """First in, first out; a batch holds one part and never waits while a worker is free.

    Args:
        batch_items_max: most items of a batch.
        queue_items_max: most items that may wait.
    """

    def __init__(self, *, batch_items_max: int, queue_items_max: int) -> None:
        self._queue = PartQueue(batch_items_max, queue_items_max)
        self._free_slots: list[int] = []
        self._num_batches = 0

    def on_query(self, query: Query, now_ns: int) -> Decision:
        """Queue the query and start what fits."""
        if not self._queue.push(query):
            return Decision(reject=(Rejection(query, "queue_full"),))
        return self._start()

    def on_done(self, batch: Batch, outcome: Outcome, now_ns: int) -> Decision:
        """Give the slot to the oldest part."""
        if outcome is Outcome.FAILED:
            self._queue.drop_queries_of(batch)
        self._free_slots.append(batch.slot)
        return self._start()

    def on_workers(self, free_slots: Sequence[int], now_ns: int) -> Decision:
        """Take the slots in."""
        self._free_slots.extend(free_slots)
        return self._start()

    def on_timer(self, now_ns: int) -> Decision:
        """Nothing waits for time alone."""
        return NOTHING

    def next_deadline_ns(self) -> int | None:
        """None: nothing waits for time alone."""
        return None

    def _start(self) -> Decision:
        queue, free_slots = self._queue, self._free_slots
        if not queue.parts or not free_slots:
            return NOTHING
        started = []
        while queue.parts and free_slots:
            # The slot that was freed last: its worker is awake and its caches are warm.
            started.append(Batch(self._num_batches, free_slots.pop(), (queue.pop(),)))
            self._num_batches += 1
        return Decision(tuple(started))
