"""A simulated what-if as metrics, intervals, verdict and the columns of its report.

Every name and every curve says that it was simulated.
"""

from __future__ import annotations

from tailrank.characterization.what_if import WhatIf, WhatIfResult
from tailrank.core.measurement import Validity
from tailrank.core.names import percentile_name
from tailrank.reporting.operating_point import query_times
from tailrank.reporting.report_data import LatencyCurve, ReportData, SLALimit


def metrics(question: WhatIf, found: WhatIfResult) -> dict[str, float]:
    """The flat metrics: `simulated.*`; the capacity only where it was looked for."""
    at = found.measurement
    first = {}
    if found.capacity is not None:
        first["simulated.capacity_qps"] = found.capacity.capacity_qps
        items = at.achieved_items_per_s if found.capacity.capacity_qps else 0.0
        first["simulated.capacity_items_per_s"] = items
    percentiles = sorted({50.0, 95.0, 99.0, question.sla.percentile})
    return {
        **first,
        "simulated.offered_qps": at.offered_qps,
        "simulated.achieved_qps": at.achieved_qps,
        "simulated.achieved_items_per_s": at.achieved_items_per_s,
        **{
            _latency_name(percentile): at.summary.percentile(percentile).value / 1e6
            for percentile in percentiles
        },
        "simulated.latency_ms_max": at.summary.max_ns / 1e6,
        "simulated.num_queries": at.summary.num_queries,
        "simulated.num_rejected": at.num_rejected,
    }


def intervals(question: WhatIf, found: WhatIfResult) -> dict[str, tuple[float, float]]:
    """The bracket of the capacity, and the confidence interval of the SLA's percentile.

    They tell of the simulation's own chance, not of how far it is from a real host.
    """
    estimate = found.measurement.summary.percentile(question.sla.percentile)
    bounds = {_latency_name(question.sla.percentile): (estimate.low / 1e6, estimate.high / 1e6)}
    if found.capacity is not None:
        bounds["simulated.capacity_qps"] = (found.capacity.low_qps, found.capacity.high_qps)
    return bounds


def validity(found: WhatIfResult) -> Validity:
    """What speaks against the figures."""
    if found.capacity is None:
        return found.measurement.validity
    return Validity(found.capacity.invalid_reasons)


def report_data(question: WhatIf, found: WhatIfResult) -> ReportData:
    """The columns of the report."""
    name = f"simulated: {question.policy.policy}, {found.measurement.offered_qps:,.0f} queries/s"
    return ReportData(
        sla=SLALimit.of(question.sla),
        latency_cdf=[LatencyCurve.of(name, found.measurement.summary)],
        query_time=list(query_times(found.run)),
    )


def _latency_name(percentile: float) -> str:
    return f"simulated.latency_ms_{percentile_name(percentile)}"
