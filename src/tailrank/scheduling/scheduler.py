"""What a scheduler is: the protocol every policy fulfils, and how queries are cut into parts.

A scheduler is pure. It is told the time and never asks for it; it owns its queues and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from tailrank.core.query import Batch, BatchPart, Decision, Outcome, Query


class Scheduler(Protocol):
    """Turns (event, time) into decisions.

    Times never decrease from call to call. A worker slot is free from the `on_workers` that names
    it, or from the `on_done` of its batch, until a decision starts a batch in it.
    """

    def on_query(self, query: Query, now_ns: int) -> Decision:
        """A query has arrived; queries come in order of `scheduled_ns`."""
        ...

    def on_done(self, batch: Batch, outcome: Outcome, now_ns: int) -> Decision:
        """A batch has ended and its slot is free; after a failure its queries cannot succeed."""
        ...

    def on_workers(self, free_slots: Sequence[int], now_ns: int) -> Decision:
        """These slots have joined and are free."""
        ...

    def on_timer(self, now_ns: int) -> Decision:
        """The time that `next_deadline_ns` named has come."""
        ...

    def next_deadline_ns(self) -> int | None:
        """When `on_timer` should be called; None while time alone changes nothing."""
        ...


def split_query(query: Query, batch_items_max: int) -> tuple[BatchPart, ...]:
    """Cut a query into the fewest parts of at most `batch_items_max` items.

    The parts differ by at most one item: the last part to finish sets the latency, so one full part
    and a short rest would take longer on two workers than two halves. (DeepRecSys cuts full parts
    and a rest; the number of parts is the same.)
    """
    num_items = query.num_items
    if num_items <= batch_items_max:
        return (BatchPart(query, 0, num_items),)
    num_parts = -(-num_items // batch_items_max)
    bounds = [part * num_items // num_parts for part in range(num_parts + 1)]
    return tuple(BatchPart(query, first, last - first) for first, last in pairwise(bounds))
