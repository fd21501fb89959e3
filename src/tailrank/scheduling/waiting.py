"""A query that waits under `slack`, and the order in which such queries are given up."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from tailrank.core.query import Query
from tailrank.scheduling.prediction import QueryPrediction, Rest

# Entries that may be kept beyond twice those that counted when they were last cleared up.
_SPARE_ENTRIES = 1000


@dataclass(slots=True, eq=False)
class Waiting:
    """A query with items that no worker has yet.

    Args:
        query: which.
        deadline_ns: when it is to be done.
        prediction: of such queries.
        rest: of the items left.
        items_left: those that no worker has yet; 0 once it is out of the queue.
        work_ns: what they add to the queue's predicted work.
        first_item: the first of them.
        on_time: among those that can be in time; neither lost nor out of the queue.
        lost: given up.
    """

    query: Query
    deadline_ns: int
    prediction: QueryPrediction
    rest: Rest
    items_left: int
    work_ns: float
    first_item: int = 0
    on_time: bool = True
    lost: bool = False

    @property
    def limit_ns(self) -> int:
        """From scheduled arrival to deadline."""
        return max(1, self.deadline_ns - self.query.scheduled_ns)


WaitingHeap = list[tuple[int, int, Waiting]]
"""By a number, then by id of the query."""


class LargestFirst:
    """The largest query on time of which nothing has started: the next to be given up.

    Few are ever asked for, so the latest are put in order only when one is.
    """

    def __init__(self) -> None:
        self._latest: list[Waiting] = []
        self._heap: WaitingHeap = []
        self._num_entries_max = _SPARE_ENTRIES

    def add(self, waiting: Waiting) -> None:
        """Take in one that has arrived."""
        self._latest.append(waiting)
        if len(self._latest) > _SPARE_ENTRIES:
            self._order_latest()

    def clear(self) -> None:
        """Nobody is on time."""
        self._latest.clear()
        self._heap.clear()

    def first(self) -> Waiting | None:
        """The largest, of equals the one with the smallest id; None: there is none."""
        self._order_latest()
        while self._heap:
            waiting = self._heap[0][2]
            if _counts(waiting):
                return waiting
            heappop(self._heap)
        return None

    def _order_latest(self) -> None:
        for waiting in filter(_counts, self._latest):
            heappush(self._heap, (-waiting.query.num_items, waiting.query.query_id, waiting))
        self._latest.clear()
        if len(self._heap) > self._num_entries_max:
            # Small ones lie below the others and would keep payloads until the queue empties.
            self._heap = [entry for entry in self._heap if _counts(entry[2])]
            heapify(self._heap)
            self._num_entries_max = 2 * len(self._heap) + _SPARE_ENTRIES


def _counts(waiting: Waiting) -> bool:
    return waiting.on_time and not waiting.first_item
