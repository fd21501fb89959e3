"""What a run leaves behind: one row per query and one per batch, as NumPy columns.

All times are int64 ns on the run's clock; -1 means that it never happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tailrank.core.query import Query

Column = NDArray[np.int64]


class QueryOutcome(IntEnum):
    """How a query ended."""

    ANSWERED = 0
    REJECTED = 1
    FAILED = 2
    UNANSWERED = 3


@dataclass(slots=True, eq=False)
class QueryRecord:
    """One query's way through the loop; mutable, owned by the loop while the query is open.

    Args:
        query: the query.
        released_ns: when the loop was told of it; -1: never.
        items_unstarted: items that no worker was given yet.
        items_left: items that are not done.
        started_ns: when its first part was given to a worker; -1: never.
        done_ns: when its last part was done; -1 without an answer.
        num_parts: parts that were started.
        outcome: how it ended; `UNANSWERED` while it is open.
        done_parts: (first item, items, result) of each part done; in item order once all are.
        reason: why it was rejected, a short code.
        error: what the worker raised, where it failed.
    """

    query: Query
    released_ns: int
    items_unstarted: int
    items_left: int
    started_ns: int = -1
    done_ns: int = -1
    num_parts: int = 0
    outcome: QueryOutcome = QueryOutcome.UNANSWERED
    done_parts: list[tuple[int, int, object]] = field(default_factory=list)
    reason: str | None = None
    error: Exception | None = None

    @property
    def results(self) -> tuple[object, ...]:
        """What its parts came back with, in item order, of an answered query."""
        return tuple(result for _, _, result in self.done_parts)

    @property
    def latency_ns(self) -> int:
        """From scheduled arrival to last item done, of an answered query."""
        return self.done_ns - self.query.scheduled_ns


@dataclass(frozen=True, slots=True, eq=False)
class QueryColumns:
    """One row per scheduled query, in order of scheduled arrival.

    Args:
        query_id: as in the schedule.
        num_items: query size.
        num_parts: parts that were started.
        scheduled_ns: when it was due.
        released_ns: when the loop was told of it.
        started_ns: when its first part was given to a worker.
        done_ns: when its last part was done; -1 for a query without an answer.
        outcome: a `QueryOutcome`.
    """

    query_id: Column
    num_items: Column
    num_parts: Column
    scheduled_ns: Column
    released_ns: Column
    started_ns: Column
    done_ns: Column
    outcome: Column


@dataclass(frozen=True, slots=True, eq=False)
class BatchColumns:
    """One row per batch that ended, in order of ending.

    Args:
        slot: the worker slot that ran it.
        num_items: items over all parts.
        num_parts: parts in it.
        started_ns: when it was given to the worker.
        done_ns: when it ended, well or not.
    """

    slot: Column
    num_items: Column
    num_parts: Column
    started_ns: Column
    done_ns: Column


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """Everything one run has shown.

    Args:
        queries: a row per query.
        batches: a row per batch.
        num_workers: worker slots of the run.
        ended_ns: when the last event was handled.
        open_query_ns: integral over time of the number of queries between release and end, as the
            loop counted it (Little's law: it equals the sum of their times in the system).
        wake_lateness_ns: how late an idle worker released a query that it was waiting for, one
            entry per such release; empty in a simulation, which is never late.
        drained: False where the run was cut off with queries still open.
        first_error: what the first failing batch raised.
    """

    queries: QueryColumns
    batches: BatchColumns
    num_workers: int
    ended_ns: int
    open_query_ns: int
    wake_lateness_ns: Column
    drained: bool
    first_error: Exception | None

    @property
    def latency_ns(self) -> NDArray[np.float64]:
        """From scheduled arrival to last item done, in order of arrival; inf without an answer."""
        latency = (self.queries.done_ns - self.queries.scheduled_ns).astype(np.float64)
        latency[self.queries.outcome != QueryOutcome.ANSWERED] = np.inf
        return latency

    @property
    def queueing_delay_ns(self) -> NDArray[np.float64]:
        """From scheduled arrival to the start of the first part; inf where none was started."""
        delay = (self.queries.started_ns - self.queries.scheduled_ns).astype(np.float64)
        delay[self.queries.started_ns < 0] = np.inf
        return delay

    @property
    def service_time_ns(self) -> Column:
        """Per batch, from start to end."""
        return self.batches.done_ns - self.batches.started_ns

    def busy_fraction(self, from_ns: int, to_ns: int) -> float:
        """Share of the workers' time in [from_ns, to_ns) that was spent on batches."""
        assert to_ns > from_ns, "an empty stretch of time has no share"
        started = np.maximum(self.batches.started_ns, from_ns)
        done = np.minimum(self.batches.done_ns, to_ns)
        busy_ns = int(np.maximum(done - started, 0).sum())
        return busy_ns / (self.num_workers * (to_ns - from_ns))

    def only(self, queries: NDArray[np.bool_], slots: Sequence[int]) -> RunResult:
        """The same run as some of its queries saw it, on the workers that they had.

        What the loop counted over all of them, `open_query_ns` and `wake_lateness_ns`, stays.

        Args:
            queries: True for each row of `queries` to keep.
            slots: the workers to keep.
        """
        batches = np.isin(self.batches.slot, slots)
        return replace(
            self,
            queries=QueryColumns(*(column[queries] for column in _columns(self.queries))),
            batches=BatchColumns(*(column[batches] for column in _columns(self.batches))),
            num_workers=len(slots),
        )


def _columns(rows: QueryColumns | BatchColumns) -> Iterator[Column]:
    """All columns, in order."""
    return (getattr(rows, column.name) for column in fields(rows))


class Recorder:
    """Collects the rows of one run; the loop writes it under its lock.

    Args:
        forget: keep no row of what has ended: the memory of a run without an end is bounded.
    """

    def __init__(self, *, forget: bool = False) -> None:
        self.forget = forget
        self.queries: dict[int, QueryRecord] = {}
        num_rows_max = 0 if forget else None
        self.batches: deque[tuple[int, int, int, int, int]] = deque(maxlen=num_rows_max)
        self.wake_lateness_ns: deque[int] = deque(maxlen=num_rows_max)
        self.first_error: Exception | None = None

    def released(self) -> list[Query]:
        """The queries that the loop was told of, in that order."""
        return [record.query for record in self.queries.values()]

    def result(
        self,
        schedule: Sequence[Query],
        *,
        num_workers: int,
        ended_ns: int,
        open_query_ns: int,
        drained: bool,
    ) -> RunResult:
        """The columns; queries of the schedule that were never released are unanswered."""
        records = [
            self.queries.get(query.query_id) or QueryRecord(query, -1, 0, 0) for query in schedule
        ]
        return RunResult(
            queries=QueryColumns(
                query_id=_column([query.query_id for query in schedule]),
                num_items=_column([query.num_items for query in schedule]),
                num_parts=_column([record.num_parts for record in records]),
                scheduled_ns=_column([query.scheduled_ns for query in schedule]),
                released_ns=_column([record.released_ns for record in records]),
                started_ns=_column([record.started_ns for record in records]),
                done_ns=_column([record.done_ns for record in records]),
                outcome=_column([int(record.outcome) for record in records]),
            ),
            batches=BatchColumns(
                *np.array(list(self.batches), dtype=np.int64).reshape(-1, 5).T.copy()
            ),
            num_workers=num_workers,
            ended_ns=ended_ns,
            open_query_ns=open_query_ns,
            wake_lateness_ns=_column(list(self.wake_lateness_ns)),
            drained=drained,
            first_error=self.first_error,
        )


def _column(numbers: list[int]) -> Column:
    return np.array(numbers, dtype=np.int64)
