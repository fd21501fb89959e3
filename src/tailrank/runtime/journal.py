"""What the loop was told and what was decided, step by step, without payloads; and its replay.

An entry is a plain list, the same in memory and as a line of JSON:

    [now_ns, event, started, rejected]

    event     ["query", query_id, model, scheduled_ns, deadline_ns, num_items, num_ids]
              ["done", batch_id, outcome]     ["workers", [slot, …]]     ["timer"]
    started   [[batch_id, slot, [[query_id, first_item, num_items], …]], …]
    rejected  [[query_id, reason], …]
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, Decision, Outcome, Query
from tailrank.core.sla import SLA
from tailrank.runtime.events import BatchDone, Event, QueryArrived, WorkersFree
from tailrank.scheduling.policies import Division, PolicyConfig
from tailrank.scheduling.scheduler import Scheduler

Entry = list[Any]

_FORMAT_VERSION = 1


def make_entry(event: Event, now_ns: int, decision: Decision) -> Entry:
    """One step as a plain list."""
    return [now_ns, _event_fields(event), *decision_fields(decision)]


def decision_fields(decision: Decision) -> Entry:
    """A decision as the two lists `[started, rejected]`."""
    started = [
        [
            batch.batch_id,
            batch.slot,
            [[part.query.query_id, part.first_item, part.num_items] for part in batch.parts],
        ]
        for batch in decision.start
    ]
    return [started, [[item.query.query_id, item.reason] for item in decision.reject]]


class RingJournal:
    """Keeps the latest steps in memory.

    Args:
        num_entries_max: steps to keep.
    """

    def __init__(self, num_entries_max: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=num_entries_max)
        self.num_dropped = 0

    def record(self, event: Event, now_ns: int, decision: Decision) -> None:
        """Note one step; the oldest one goes if there is no room."""
        self.num_dropped += len(self.entries) == self.entries.maxlen
        self.entries.append(make_entry(event, now_ns, decision))


class FileJournal:
    """Writes every step to a file as a line of JSON; a context manager.

    Args:
        path: the file; replaced if it exists.
        policy: what decides, for the header.
        fleet: what it predicts with, for the header; None where it was built without.
    """

    def __init__(self, path: Path, policy: PolicyConfig, fleet: Fleet | None = None) -> None:
        self._file = path.open("w", encoding="utf-8")
        header: dict[str, Any] = {"journal": _FORMAT_VERSION, "policy": asdict(policy)}
        if fleet is not None:
            header["fleet"] = fleet.to_record()
        self._file.write(json.dumps(header) + "\n")

    def __enter__(self) -> FileJournal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def record(self, event: Event, now_ns: int, decision: Decision) -> None:
        """Write one step."""
        self._file.write(json.dumps(make_entry(event, now_ns, decision)) + "\n")

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()


def load_journal(path: Path) -> tuple[PolicyConfig, Fleet | None, list[Entry]]:
    """Read what a `FileJournal` wrote: what decided, what it predicted with, and every step.

    Raises:
        DataError: the file is missing, cut off, or not a journal of this version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(path, "no such file") from None
    except UnicodeDecodeError:
        raise DataError(path, "not a journal: binary content") from None
    entries: list[Entry] = []
    policy: PolicyConfig | None = None
    fleet: Fleet | None = None
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if policy is None:
                if value["journal"] != _FORMAT_VERSION:
                    raise ValueError(f"version {value['journal']}, expected {_FORMAT_VERSION}")
                policy = _read_policy(value["policy"])
                fleet = Fleet.from_record(value["fleet"]) if "fleet" in value else None
            else:
                _, (_, *_), _, _ = value
                entries.append(value)
        except (ValueError, TypeError, KeyError, ConfigError) as error:
            raise DataError(path, f"not a line of a journal ({error})", number) from None
    if policy is None:
        raise DataError(path, "an empty file, not a journal")
    return policy, fleet, entries


def _read_policy(fields: dict[str, Any]) -> PolicyConfig:
    sla = fields.get("sla")
    divisions = tuple(
        Division(tuple(part["models"]), tuple(part["slots"]), _read_policy(part["policy"]))
        for part in fields.get("divisions", ())
    )
    nested = {"sla": None if sla is None else SLA(**sla), "divisions": divisions}
    return PolicyConfig(**(fields | nested))


def replay(entries: Iterable[Entry], scheduler: Scheduler) -> list[Entry]:
    """Tell a fresh scheduler what another one was told.

    Args:
        entries: a journal from its first step on; a ring that has dropped steps will not do.
        scheduler: fresh, of the policy that wrote the journal.

    Returns:
        Per entry, what the scheduler decides, as `decision_fields` gives it: equal to the entry's
        own `[started, rejected]` as long as the policy decides the same.

    Raises:
        KeyError: an entry ends a batch that the replayed scheduler never started.
    """
    running: dict[int, Batch] = {}
    decisions: list[Entry] = []
    for now_ns, (kind, *fields), *_ in entries:
        if kind == "query":
            decision = scheduler.on_query(Query(*fields), now_ns)
        elif kind == "done":
            batch_id, outcome = fields
            decision = scheduler.on_done(running.pop(batch_id), Outcome(outcome), now_ns)
        elif kind == "workers":
            decision = scheduler.on_workers(tuple(fields[0]), now_ns)
        else:
            decision = scheduler.on_timer(now_ns)
        running.update((batch.batch_id, batch) for batch in decision.start)
        decisions.append(decision_fields(decision))
    return decisions


def _event_fields(event: Event) -> Entry:
    if isinstance(event, QueryArrived):
        query = event.query
        return [
            "query",
            query.query_id,
            query.model,
            query.scheduled_ns,
            query.deadline_ns,
            query.num_items,
            query.num_ids,
        ]
    if isinstance(event, BatchDone):
        return ["done", event.batch.batch_id, event.outcome.value]
    if isinstance(event, WorkersFree):
        return ["workers", list(event.slots)]
    return ["timer"]
