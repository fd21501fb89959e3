"""The bounded first-in-first-out queue of query parts that policies wait on."""

from __future__ import annotations

from collections import deque

from tailrank.core.query import Batch, BatchPart, Query
from tailrank.scheduling.scheduler import split_query


class PartQueue:
    """Parts that wait for a worker, in order of arrival.

    Args:
        batch_items_max: most items of a part.
        queue_items_max: most items that may wait; a query beyond it is not let in.
    """

    def __init__(self, batch_items_max: int, queue_items_max: int) -> None:
        self.parts: deque[BatchPart] = deque()
        self.num_items = 0
        self._batch_items_max = batch_items_max
        self._queue_items_max = queue_items_max

    def push(self, query: Query) -> bool:
        """Let a query in, all its items or none; False when there is no room."""
        if self.num_items + query.num_items > self._queue_items_max:
            return False
        self.num_items += query.num_items
        self.parts.extend(split_query(query, self._batch_items_max))
        return True

    def pop(self) -> BatchPart:
        """Take the oldest part."""
        part = self.parts.popleft()
        self.num_items -= part.num_items
        return part

    def drop_queries_of(self, batch: Batch) -> None:
        """Forget the waiting parts of a failed batch's queries: they can no longer succeed."""
        lost = {part.query.query_id for part in batch.parts}
        self.parts = deque(part for part in self.parts if part.query.query_id not in lost)
        self.num_items = sum(part.num_items for part in self.parts)
