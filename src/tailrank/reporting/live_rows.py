"""Rows of a report that show a live run beside its simulation, and inside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseRow:
    """What a simulation promised of a policy, and what was served.

    Args:
        policy: its name.
        simulated_qps, simulated_low, simulated_high: simulated capacity and its bracket.
        live_qps, live_low, live_high: measured capacity and its bracket; None where none was, or
            where it has no upper end.
    """

    policy: str
    simulated_qps: float
    simulated_low: float
    simulated_high: float
    live_qps: float | None = None
    live_low: float | None = None
    live_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyBatch:
    """A batch in a busy stretch of a run.

    Args:
        worker: its slot.
        start_ms, end_ms: from the beginning of that stretch.
        num_items: in all its parts.
        num_parts: of as many queries.
    """

    worker: int
    start_ms: float
    end_ms: float
    num_items: int
    num_parts: int
