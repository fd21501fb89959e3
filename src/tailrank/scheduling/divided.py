"""The divided policy: several models on one machine, each with workers and a policy of its own.

No model waits for another one's queue; an idle worker of one does not help another. What divides
well is found by simulation, see `characterization.colocation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from tailrank.core.errors import ConfigError
from tailrank.core.query import NOTHING, Batch, Decision, Outcome, Query
from tailrank.scheduling.scheduler import Scheduler

Key = TypeVar("Key", str, int)


class Section(NamedTuple):
    """Models, the worker slots that rank them, and what decides there."""

    models: tuple[str, ...]
    slots: tuple[int, ...]
    scheduler: Scheduler


class DividedScheduler:
    """Hands each event to the scheduler that it concerns; batches are numbered in one row.

    Args:
        sections: at least one; no model and no slot is in two of them.

    Raises:
        ConfigError: a model or a slot is in two sections, or a section has none.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        self._schedulers = [section.scheduler for section in sections]
        self._of_model: dict[str, Scheduler] = {}
        self._of_slot: dict[int, Scheduler] = {}
        for section in sections:
            _claim(self._of_model, "divisions.models", section.models, section.scheduler)
            _claim(self._of_slot, "divisions.slots", section.slots, section.scheduler)
        # What a section's own scheduler calls the batch that its slot runs.
        self._running: dict[int, Batch] = {}
        self._num_batches = 0

    def on_query(self, query: Query, now_ns: int) -> Decision:
        """Tell the section of the query's model.

        Raises:
            ConfigError: no section has that model.
        """
        scheduler = self._of_model.get(query.model)
        if scheduler is None:
            allowed = ", ".join(map(repr, self._of_model))
            raise ConfigError("model", query.model, f"one that has workers: {allowed}")
        return self._numbered(scheduler.on_query(query, now_ns))

    def on_done(self, batch: Batch, outcome: Outcome, now_ns: int) -> Decision:
        """Tell the section of the batch's slot."""
        own = self._running.pop(batch.slot)
        return self._numbered(self._of_slot[batch.slot].on_done(own, outcome, now_ns))

    def on_workers(self, free_slots: Sequence[int], now_ns: int) -> Decision:
        """Tell each slot's section.

        Raises:
            ConfigError: a slot is in no section.
        """
        decisions = []
        for slot in free_slots:
            if slot not in self._of_slot:
                raise ConfigError(
                    "slot", slot, f"one of {sorted(self._of_slot)}, which have models"
                )
            decisions.append(self._numbered(self._of_slot[slot].on_workers((slot,), now_ns)))
        return _joined(decisions)

    def on_timer(self, now_ns: int) -> Decision:
        """Tell every section whose time has come."""
        return _joined(
            [
                self._numbered(scheduler.on_timer(now_ns))
                for scheduler in self._schedulers
                if (due_ns := scheduler.next_deadline_ns()) is not None and due_ns <= now_ns
            ]
        )

    def next_deadline_ns(self) -> int | None:
        """The earliest time that any section asked for."""
        times_ns = [scheduler.next_deadline_ns() for scheduler in self._schedulers]
        return min((time_ns for time_ns in times_ns if time_ns is not None), default=None)

    def _numbered(self, decision: Decision) -> Decision:
        """The decision with batch ids that are unique over all sections."""
        if not decision.start:
            return decision
        started = []
        for own in decision.start:
            self._running[own.slot] = own
            started.append(Batch(self._num_batches, own.slot, own.parts))
            self._num_batches += 1
        return Decision(tuple(started), decision.reject)


def _claim(
    owners: dict[Key, Scheduler], field: str, keys: Sequence[Key], scheduler: Scheduler
) -> None:
    """Make a scheduler the only owner of these keys."""
    if not keys:
        raise ConfigError(field, None, "at least one in each division")
    for key in keys:
        if key in owners:
            raise ConfigError(field, key, "each in one division only")
        owners[key] = scheduler


def _joined(decisions: Sequence[Decision]) -> Decision:
    """Several decisions as one."""
    if len(decisions) == 1:
        return decisions[0]
    start = tuple(batch for decision in decisions for batch in decision.start)
    reject = tuple(lost for decision in decisions for lost in decision.reject)
    return Decision(start, reject) if start or reject else NOTHING
