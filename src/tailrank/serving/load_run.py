"""What a load test's client saw, and whether it may be believed. Knows no socket."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.sla import SLA
from tailrank.runtime.measurement import to_measurement
from tailrank.runtime.record import BatchColumns, Column, RunResult

# From this share of a core on the client itself delays what it measures.
_CPU_FRACTION_MAX = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class LoadRun:
    """What the client saw.

    Args:
        result: a row per query, `REJECTED` where the server said 429. Its `batches` are the times
            in which at least one query was open, so that a server "without rest" is one that never
            had nothing to do. Lateness is that of the client, of all queries.
        cpu_fraction: of one core, that the client took.
        num_connections: that were open at most.
        interrupted: whether Ctrl-C ended it early; queries that were not sent by then are left out.
    """

    result: RunResult
    cpu_fraction: float
    num_connections: int
    interrupted: bool


def measurement_of(run: LoadRun, offered_qps: float, sla: SLA | None) -> Measurement:
    """Sum up a run; it is not valid where the client was the limit.

    Args:
        run: what the client saw, of at least one query.
        offered_qps: queries per second of the schedule.
        sla: what the run is to decide; None: nothing but what its p99 is.
    """
    at = to_measurement(run.result, offered_qps=offered_qps, sla=sla or _own_p99(run))
    if run.cpu_fraction <= _CPU_FRACTION_MAX:
        return at
    reason = (
        f"client_busy: the client took {run.cpu_fraction:.0%} of a core and was itself the limit; "
        f"at most {_CPU_FRACTION_MAX:.0%} can be borne"
    )
    return replace(at, validity=Validity((*at.validity.reasons, reason)))


def _own_p99(run: LoadRun) -> SLA:
    """What the run itself held, so that its validity can be judged without a limit."""
    answered = run.result.latency_ns[np.isfinite(run.result.latency_ns)]
    held_ns = LatencySummary.of(answered).percentile(99.0).value if len(answered) else 1.0
    return SLA(99.0, max(1, int(held_ns)))


def busy_times(from_ns: Column, to_ns: Column) -> BatchColumns:
    """The stretches of time that these intervals cover together; they begin in order."""
    covered_ns = np.maximum.accumulate(to_ns) if len(to_ns) else to_ns
    first = np.ones(len(from_ns), dtype=bool)
    first[1:] = from_ns[1:] > covered_ns[:-1]
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(from_ns)) - 1 if len(starts) else starts
    ones = np.ones(len(starts), np.int64)
    return BatchColumns(
        slot=ones - 1,
        num_items=ones,
        num_parts=ones,
        started_ns=from_ns[starts],
        done_ns=covered_ns[ends],
    )
