"""What the loop needs from the world, as protocols; simulation and serving each fulfil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tailrank.core.errors import ServingError
from tailrank.core.query import Batch, Decision, Outcome, Query
from tailrank.runtime.events import BatchDone, Event

RunBatch = Callable[[Batch], Sequence[object]]
"""Ranks a batch; returns one result per part, in order."""

OnAnswer = Callable[[Query, tuple[object, ...], int], None]
"""Takes a query, its parts' results in item order, and its latency in ns."""


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
