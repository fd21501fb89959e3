"""The four things that can happen to the loop; see `core.query` for why named tuples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tailrank.core.query import Batch, Outcome, Query


class QueryArrived(NamedTuple):
    """A query is due."""

    query: Query


class BatchDone(NamedTuple):
    """A batch has ended.

    Args:
        batch: the very object that was submitted.
        outcome: how it ended.
        results: one per part, in order; None where it failed or where nobody computes results.
        error: what the worker raised, where it failed.
    """

    batch: Batch
    outcome: Outcome
    results: Sequence[object] | None = None
    error: Exception | None = None


class WorkersFree(NamedTuple):
    """These worker slots have joined and are free."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time that the scheduler asked to be woken at has come."""


Event = QueryArrived | BatchDone | WorkersFree | TimerFired
"""Anything `Loop.step` takes."""
