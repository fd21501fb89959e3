"""Where the queries of a live run come from: a schedule drawn beforehand, or whoever submits them.

Workers look into the inbox, one at a time; they know neither who fills it nor why.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from tailrank.core.clock import Clock
from tailrank.core.errors import ServingError
from tailrank.core.query import Query


class DrawnInbox:
    """A schedule that was drawn beforehand: each query is released when it is due.

    Args:
        schedule: at least one query, in order of `scheduled_ns`.
    """

    def __init__(self, schedule: Sequence[Query]) -> None:
        self._schedule = schedule
        self._num_released = 0
        self.closed_ns: int | None = schedule[-1].scheduled_ns

    def open(self, clock: Clock, wake: Callable[[], None]) -> None:
        """Nothing to do: what is drawn needs no time and wakes nobody."""

    def shut(self) -> None:
        """Nothing to do: nothing can be added."""

    def peek(self) -> Query | None:
        """The next query, due or not; None: all are released."""
        released = self._num_released
        return self._schedule[released] if released < len(self._schedule) else None

    def pop(self) -> None:
        """Count the query that `peek` gave as released."""
        self._num_released += 1

    def left(self) -> Sequence[Query]:
        """Queries that were never released."""
        return self._schedule[self._num_released :]


class OpenInbox:
    """Queries that come from outside, at any time and from any thread, until it is closed.

    It takes queries from the moment when all workers of its run are ready; `wait_until_open` waits
    for that. Once closed, the run answers what has come and ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decided = threading.Event()  # open, or never to be
        self._waiting: deque[Query] = deque()
        self._clock: Clock | None = None
        self._wake: Callable[[], None] = lambda: None
        self.closed_ns: int | None = None

    def wait_until_open(self) -> bool:
        """Wait for the run to begin; False: it ended without having begun."""
        self._decided.wait()
        return self._clock is not None

    def now_ns(self) -> int:
        """Time of the run, on which `scheduled_ns` of its queries is counted.

        Raises:
            ServingError: the run has not begun.
        """
        if self._clock is None:
            raise ServingError("the workers are not ready for queries yet")
        return self._clock.now_ns()

    def submit(self, query: Query) -> None:
        """Hand a query over and wake a worker; returns at once, whatever the workers do.

        Args:
            query: with an id that is new to the run, due now or earlier.

        Raises:
            ServingError: the inbox is closed, or the run has not begun or is over.
        """
        with self._lock:
            if self._clock is None or self.closed_ns is not None:
                state = "not open yet" if self._clock is None else "closed"
                raise ServingError(f"query {query.query_id} came to an inbox that is {state}")
            self._waiting.append(query)
        self._wake()

    def close(self) -> None:
        """Take no more queries; those that have come are still answered."""
        now_ns = self.now_ns()
        with self._lock:
            self.closed_ns = now_ns if self.closed_ns is None else self.closed_ns
        self._wake()

    def open(self, clock: Clock, wake: Callable[[], None]) -> None:
        """All workers are ready and the clock of the run has started."""
        self._clock, self._wake = clock, wake
        self._decided.set()

    def shut(self) -> None:
        """The run is over: whatever comes now is refused, and nobody waits for its beginning."""
        with self._lock:
            self.closed_ns = 0 if self._clock is None else self.closed_ns or self._clock.now_ns()
        self._decided.set()

    def peek(self) -> Query | None:
        """The query that has waited longest; None: none is waiting."""
        try:
            return self._waiting[0]
        except IndexError:  # not asked beforehand: another worker may pop the last one meanwhile
            return None

    def pop(self) -> None:
        """Count the query that `peek` gave as released."""
        self._waiting.popleft()

    def left(self) -> Sequence[Query]:
        """Queries that were never released."""
        return tuple(self._waiting)
