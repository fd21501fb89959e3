"""A run under MLPerf LoadGen as metrics, intervals and verdict: LoadGen's figures beside ours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tailrank.core.exit_codes import ExitCode
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Validity
from tailrank.core.names import percentile_name
from tailrank.runtime.record import QueryOutcome

if TYPE_CHECKING:  # it needs an extra
    from tailrank.characterization.loadgen import LoadGenConfig, LoadGenRun

# Two honest books of one run differ by what happens between them, no more.
_DIFFERENCE_FRACTION_MAX = 0.02


def metrics(config: LoadGenConfig, run: LoadGenRun) -> dict[str, float]:
    """The flat metrics; latencies under `Server` only, for Offline issues everything at once."""
    queries = run.result.queries
    answered = queries.outcome == QueryOutcome.ANSWERED
    elapsed_s = (int(queries.done_ns.max()) - int(queries.scheduled_ns.min())) / 1e9
    found: dict[str, float] = {
        "loadgen_qps": run.verdict.qps,
        "qps": int(answered.sum()) / elapsed_s,
        "items_per_s": int(queries.num_items[answered].sum()) / elapsed_s,
        "num_queries": len(answered),
        "num_unanswered": int((~answered).sum()),
    }
    if config.sla is not None:
        summary = LatencySummary.of(run.result.latency_ns)
        for percentile in {50.0, 99.0, config.sla.percentile}:
            value_ns = summary.percentile(percentile).value
            found[f"latency_ms_{percentile_name(percentile)}"] = value_ns / 1e6
        delay = LatencySummary.of(run.issue_delay_ns.astype(np.float64))
        found["loadgen_latency_ms_p99"] = run.verdict.latency_ns_p99 / 1e6
        found["issue_delay_ms_p99"] = delay.percentile(99.0).value / 1e6
    found["loadgen_difference_fraction"] = max(
        abs(found[name] / found[f"loadgen_{name}"] - 1.0)
        for name in ("qps", "latency_ms_p99")
        if name in found
    )
    return found


def intervals(config: LoadGenConfig, run: LoadGenRun) -> dict[str, tuple[float, float]]:
    """Confidence intervals of our percentiles."""
    if config.sla is None:
        return {}
    summary = LatencySummary.of(run.result.latency_ns)
    estimates = {p: summary.percentile(p) for p in {50.0, 99.0, config.sla.percentile}}
    return {
        f"latency_ms_{percentile_name(p)}": (e.low / 1e6, e.high / 1e6)
        for p, e in estimates.items()
    }


def validity(run: LoadGenRun, found: dict[str, float]) -> Validity:
    """What speaks against the run; a missed bound is a result and does not.

    Args:
        run: the run.
        found: its `metrics`.
    """
    reasons = list(run.verdict.shortcomings)
    if run.verdict.bound_met and not run.verdict.valid and not reasons:
        reasons.append("LoadGen calls the run INVALID; its summary says why")
    if lost := int(found["num_unanswered"]):
        reasons.append(
            f"{lost} of {int(found['num_queries'])} queries were rejected or never answered"
        )
    difference = found["loadgen_difference_fraction"]
    if _DIFFERENCE_FRACTION_MAX < difference < math.inf:  # infinite where some had no answer
        reasons.append(
            f"LoadGen's figures and ours differ by {difference:.1%}; "
            f"at most {_DIFFERENCE_FRACTION_MAX:.0%} can be borne"
        )
    return Validity(tuple(reasons))


def exit_code(run: LoadGenRun, verdict: Validity) -> int:
    """What the shell is told: 3 the bound was missed, 4 too short or not to be believed."""
    if not run.verdict.bound_met:
        return ExitCode.BOUND_MISSED
    if not verdict.valid:
        return ExitCode.INVALID_MEASUREMENT
    return ExitCode.DONE
