"""The records that flow: a query, its parts in batches, and what a scheduler decides.

All are immutable. The payload (features) is opaque here: nothing in this module looks into it.

What is made anew at every step is a named tuple, which takes half the time of a frozen dataclass to
make; a simulation spends most of its time on such records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple


class Outcome(Enum):
    """How a batch ended."""

    OK = "ok"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Query:
    """One ranking request: one user, `num_items` candidate items.

    Args:
        query_id: unique within a run.
        model: name of the model that ranks it.
        scheduled_ns: when it was due to arrive; latency counts from here.
        deadline_ns: when its answer is worthless, on the same clock; None: never.
        num_items: candidate items, >= 1 (the *query size*).
        num_ids: sparse ids over all its items, >= 0.
        payload: the features, opaque to schedulers and loop. (Compiled, a field's type has to be a
            name of this module: `Any`, not `object`.)
    """

    query_id: int
    model: str
    scheduled_ns: int
    deadline_ns: int | None
    num_items: int
    num_ids: int
    payload: Any = field(default=None, repr=False, compare=False)


class BatchPart(NamedTuple):
    """Items `[first_item, first_item + num_items)` of one query."""

    query: Query
    first_item: int
    num_items: int

    @property
    def num_ids(self) -> int:
        """Sparse ids of this part, taking the query's ids as evenly spread over its items."""
        query = self.query
        return query.num_ids * self.num_items // query.num_items


class Batch(NamedTuple):
    """What one worker slot runs at once.

    Args:
        batch_id: unique within a run, in order of start.
        slot: the worker slot that runs it, from 0.
        parts: at least one part; parts of several queries may share a batch.
    """

    batch_id: int
    slot: int
    parts: tuple[BatchPart, ...]

    @property
    def num_items(self) -> int:
        """Items over all parts."""
        parts = self.parts
        return parts[0].num_items if len(parts) == 1 else sum([part.num_items for part in parts])

    @property
    def num_ids(self) -> int:
        """Sparse ids over all parts."""
        parts = self.parts
        return parts[0].num_ids if len(parts) == 1 else sum([part.num_ids for part in parts])


class Rejection(NamedTuple):
    """A query that will not be ranked, and why (a short code such as `queue_full`)."""

    query: Query
    reason: str


class Decision(NamedTuple):
    """What a scheduler wants done now: batches to start, queries to reject."""

    start: tuple[Batch, ...] = ()
    reject: tuple[Rejection, ...] = ()


NOTHING = Decision()
