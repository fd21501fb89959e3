"""What the loop needs from the world, as protocols; simulation and serving each fulfil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tailrank.core.clock import Clock
from tailrank.core.errors import ServingError
from tailrank.core.query import Batch, Decision, Outcome, Query
from tailrank.runtime.events import BatchDone, Event
from tailrank.runtime.record import QueryRecord

RunBatch = Callable[[Batch], Sequence[object]]
"""Ranks a batch; returns one result per part, in order."""

OnAnswer = Callable[[Query, tuple[object, ...], int], None]
"""Takes a query, its parts' results in item order, and its latency in ns."""

OnEnd = Callable[[QueryRecord], None]
"""Takes a query that was answered, rejected or given up, with what is known of it, for good."""


class Executor(Protocol):
    """Runs batches on worker slots."""

    def submit(self, batch: Batch) -> None:
        """Start `batch` on the free slot it names and return at once.

        When it ends, whoever ran it steps the loop with a `BatchDone`. Called under the loop's
        lock, so it must neither block nor step the loop itself.
        """
        ...


class Journal(Protocol):
    """Takes down what the loop was told and what was decided."""

    def record(self, event: Event, now_ns: int, decision: Decision) -> None:
        """Note one step; called under the loop's lock, in order."""
        ...


class Inbox(Protocol):
    """Where workers find the queries that have come, in order of arrival.

    Any worker may look at it at any time; one at a time calls `pop`.
    """

    @property
    def closed_ns(self) -> int | None:
        """When the last query was or will be due; None: more may come at any time."""
        ...

    def open(self, clock: Clock, wake: Callable[[], None]) -> None:
        """All workers are ready; called once, before any other thread may add a query.

        Args:
            clock: of the run, whose time 0 is now.
            wake: makes an idle worker look here again; may be called from any thread, never blocks
                on a running batch.
        """
        ...

    def shut(self) -> None:
        """The run is over, well or not; called at its end, even if it never began."""
        ...

    def peek(self) -> Query | None:
        """The next query, due or not; None: there is none now."""
        ...

    def pop(self) -> None:
        """Remove what `peek` gave; called once the loop knows of it."""
        ...

    def left(self) -> Sequence[Query]:
        """Queries that were never released."""
        ...


class Parking(Protocol):
    """Where idle workers wait."""

    def park(self, slot: int, until_ns: int | None) -> None:
        """Wait until `unpark(slot)`, or until the time; may return early without a reason."""
        ...

    def unpark(self, slot: int) -> None:
        """Let `slot` return from `park`, now or the next time it parks; never blocks."""
        ...


def perform(run_batch: RunBatch, batch: Batch) -> BatchDone:
    """Run a batch; whatever it raises makes it a failed batch, not a dead worker."""
    try:
        results = run_batch(batch)
        if len(results) != len(batch.parts):
            raise ServingError(
                f"a batch of {len(batch.parts)} parts came back with {len(results)} results"
            )
    except Exception as error:
        return BatchDone(batch, Outcome.FAILED, None, error)
    return BatchDone(batch, Outcome.OK, results)
