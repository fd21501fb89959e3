"""A load test of a server as metrics, intervals, verdict and the columns of its report."""

from __future__ import annotations

import numpy as np

from tailrank.core.exit_codes import ExitCode
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.names import percentile_name
from tailrank.core.sla import SLA
from tailrank.reporting.operating_point import query_times
from tailrank.reporting.report_data import LatencyCurve, ReportData, SLALimit
from tailrank.runtime.record import RunResult
from tailrank.tuning.capacity import Capacity, Verdict, judge_probe


def metrics(
    at: Measurement, run: RunResult, sla: SLA | None, capacity: Capacity | None
) -> dict[str, float]:
    """The flat metrics, after the warm-up; a query that was shed or failed is infinitely late.

    Args:
        at: the run, summed up.
        run: its rows.
        sla: what was asked for; None: nothing.
        capacity: what a search found; None: there was one load.
    """
    summary = at.summary
    found: dict[str, float] = {}
    if capacity is not None:
        kept = capacity.capacity_qps > 0
        found["capacity_qps"] = capacity.capacity_qps
        found["capacity_items_per_s"] = at.achieved_items_per_s if kept else 0.0
    found |= {
        "offered_qps": at.offered_qps,
        "achieved_qps": at.achieved_qps,
        "achieved_items_per_s": at.achieved_items_per_s,
    }
    if sla is not None:
        found["goodput_qps"] = _goodput_qps(at, sla)
    for percentile in _percentiles(sla):
        found[_name(percentile)] = summary.percentile(percentile).value / 1e6
    accepted = _accepted(summary)
    if accepted is not None:
        found["accepted_latency_ms_p99"] = accepted.percentile(99.0).value / 1e6
    lateness = LatencySummary.of(run.wake_lateness_ns.astype(np.float64))
    return found | {
        "latency_ms_max": summary.max_ns / 1e6,
        "num_queries": summary.num_queries,
        "num_shed": at.num_rejected,
        "num_failed": at.num_failed,
        "num_unanswered": summary.num_unanswered - at.num_rejected - at.num_failed,
        "client_lateness_ms_p99": lateness.percentile(99.0).value / 1e6,
    }


def intervals(
    at: Measurement, sla: SLA | None, capacity: Capacity | None
) -> dict[str, tuple[float, float]]:
    """Confidence intervals of the percentiles, and the bracket of the capacity."""
    bounds = {}
    for percentile in _percentiles(sla):
        estimate = at.summary.percentile(percentile)
        bounds[_name(percentile)] = (estimate.low / 1e6, estimate.high / 1e6)
    accepted = _accepted(at.summary)
    if accepted is not None:
        estimate = accepted.percentile(99.0)
        bounds["accepted_latency_ms_p99"] = (estimate.low / 1e6, estimate.high / 1e6)
    if capacity is not None:
        bounds["capacity_qps"] = (capacity.low_qps, capacity.high_qps)
    return bounds


def validity(at: Measurement, capacity: Capacity | None) -> Validity:
    """What speaks against the figures."""
    return at.validity if capacity is None else Validity(capacity.invalid_reasons)


def exit_code(at: Measurement, sla: SLA | None, capacity: Capacity | None) -> int:
    """What the shell is told: 3 the SLA is missed, at this load or at every one, 4 no verdict."""
    reasons = validity(at, capacity).reasons
    missed = False
    if capacity is not None:
        missed = not capacity.capacity_qps
    elif sla is not None:
        missed = judge_probe(at, sla, certain=False) is Verdict.MISS
        if all(reason.startswith("unstable") for reason in reasons):
            reasons = ()  # more load than the server can do is a verdict
    if reasons:
        return ExitCode.INVALID_MEASUREMENT
    return ExitCode.BOUND_MISSED if missed else ExitCode.DONE


def report_data(at: Measurement, run: RunResult, sla: SLA | None) -> ReportData:
    """The columns of the report."""
    return ReportData(
        sla=None if sla is None else SLALimit.of(sla),
        latency_cdf=[LatencyCurve.of(f"{at.offered_qps:,.0f} queries/s", at.summary)],
        query_time=list(query_times(run)),
    )


def _accepted(summary: LatencySummary) -> LatencySummary | None:
    """Latencies of what was answered, in order of arrival; None: nothing was."""
    latency_ns = summary.arrival_order_ns
    answered = np.isfinite(latency_ns)
    return LatencySummary.of(latency_ns[answered]) if answered.any() else None


def _goodput_qps(at: Measurement, sla: SLA) -> float:
    """Queries answered inside the limit per second."""
    summary = at.summary
    answered = summary.num_queries - summary.num_unanswered
    if not answered:
        return 0.0
    inside = int(np.searchsorted(summary.sorted_ns, sla.latency_ns, side="right"))
    return at.achieved_qps * inside / answered


def _percentiles(sla: SLA | None) -> list[float]:
    return sorted({50.0, 95.0, 99.0, *(() if sla is None else (sla.percentile,))})


def _name(percentile: float) -> str:
    return f"latency_ms_{percentile_name(percentile)}"
