"""An operating point as metrics, intervals, verdict and the columns of its report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tailrank.characterization.operating_point import OperatingPoint, PolicyCapacity
from tailrank.core.measurement import Measurement, Validity
from tailrank.reporting.report_data import (
    CapacityPoint,
    LatencyCurve,
    PolicyRow,
    QueryTime,
    ReportData,
    SLALimit,
)
from tailrank.runtime.record import RunResult

# Upper ends of the query sizes that the report groups by; the last group is open.
_SIZE_GROUPS = (64, 128, 192, 256, 384, 512, 768)


def metrics(point: OperatingPoint) -> dict[str, float]:
    """The flat metrics of both policies: `baseline.*` and `tuned.*`.

    Where no live run was made there is no `capacity_qps`, only `simulated_capacity_qps`; where the
    machine has no meter there is no `queries_per_joule`.
    """
    found: dict[str, float] = {}
    for prefix, contender in _contenders(point):
        found[f"{prefix}.batch_items_max"] = contender.policy.batch_items_max
        found[f"{prefix}.simulated_capacity_qps"] = contender.simulated.capacity_qps
        if contender.live is None:
            continue
        found[f"{prefix}.capacity_qps"] = contender.live.capacity_qps
        found[f"{prefix}.capacity_items_per_s"] = _items_per_s(contender)
        for name, value in _latencies_ms(point, contender.live.at).items():
            found[f"{prefix}.latency_ms_{name}"] = value
        if contender.live.at.queries_per_joule is not None:
            found[f"{prefix}.queries_per_joule"] = contender.live.at.queries_per_joule
    return found


def intervals(point: OperatingPoint) -> dict[str, tuple[float, float]]:
    """Brackets of the capacities, and confidence intervals of the SLA's percentile."""
    found: dict[str, tuple[float, float]] = {}
    for prefix, contender in _contenders(point):
        simulated = contender.simulated
        name = f"{prefix}.simulated_capacity_qps"
        found[name] = (simulated.low_qps, simulated.high_qps)
        if contender.live is None:
            continue
        found[f"{prefix}.capacity_qps"] = (contender.live.low_qps, contender.live.high_qps)
        percentile = point.config.sla.percentile
        estimate = contender.live.at.summary.percentile(percentile)
        found[f"{prefix}.latency_ms_p{percentile:g}"] = (estimate.low / 1e6, estimate.high / 1e6)
    return found


def validity(point: OperatingPoint) -> Validity:
    """What speaks against the live figures (the simulated ones, where there are no others)."""
    reasons = [
        f"{contender.name}: {reason}"
        for _, contender in _contenders(point)
        for reason in contender.best.invalid_reasons
    ]
    if point.interrupted:
        reasons.append("interrupted: the search or its live verification was not finished")
    return Validity(tuple(dict.fromkeys(reasons)))


def report_data(point: OperatingPoint) -> ReportData:
    """The columns of the report."""
    curves = [
        LatencyCurve.of(
            f"{contender.name}, {contender.live.at.offered_qps:.0f} queries/s",
            contender.live.at.summary,
        )
        for _, contender in _contenders(point)
        if contender.live is not None
    ]
    run = point.tuned.run
    return ReportData(
        sla=SLALimit.of(point.config.sla),
        latency_cdf=curves,
        capacity_by_batch=_capacity_by_batch(point),
        query_time=[] if run is None else list(query_times(run)),
        table=policy_rows(point),
    )


def policy_rows(point: OperatingPoint) -> list[PolicyRow]:
    """The rows of the policy table; ratios against the baseline of the same kind of measurement."""
    both_live = point.baseline.live is not None and point.tuned.live is not None
    baseline = point.baseline.best if both_live else point.baseline.simulated
    rows = []
    shown = [contender for _, contender in _contenders(point)]
    if point.overruled is not None:
        shown.insert(1, point.overruled)
    for contender in shown:
        best = contender.best
        latency = _latencies_ms(point, best.at)
        compared_qps = (best if both_live else contender.simulated).capacity_qps
        ratio = compared_qps / baseline.capacity_qps if baseline.capacity_qps else math.inf
        rows.append(
            PolicyRow(
                policy=contender.name if contender.live else f"{contender.name}*",
                batch_items=contender.policy.batch_items_max,
                capacity_qps=best.capacity_qps,
                capacity_items_per_s=_items_per_s(contender),
                latency_ms_p95=latency["p95"],
                latency_ms_p99=latency["p99"],
                latency_ms_max=latency["max"],
                simulated_qps=contender.simulated.capacity_qps,
                ratio=ratio if contender is not point.baseline and compared_qps else None,
            )
        )
    return rows


def _contenders(point: OperatingPoint) -> tuple[tuple[str, PolicyCapacity], ...]:
    """Both policies with the prefix of their metrics."""
    return ("baseline", point.baseline), ("tuned", point.tuned)


def _items_per_s(contender: PolicyCapacity) -> float:
    """Items answered per second at the capacity; 0 where no load met the SLA."""
    best = contender.best
    return best.at.achieved_items_per_s if best.capacity_qps else 0.0


def _latencies_ms(point: OperatingPoint, at: Measurement) -> dict[str, float]:
    """p95, p99, the SLA's percentile and the maximum of a run, in ms; inf if unanswered."""
    percentiles = {95.0, 99.0, point.config.sla.percentile}
    found = {f"p{p:g}": at.summary.percentile(p).value / 1e6 for p in sorted(percentiles)}
    return {**found, "max": at.summary.max_ns / 1e6}


def _capacity_by_batch(point: OperatingPoint) -> list[CapacityPoint]:
    """Every simulated batch size in rising order, with the live capacity where it was measured."""
    live = {
        contender.policy: contender.live.capacity_qps
        for contender in (point.baseline, point.tuned, point.overruled)
        if contender is not None and contender.live is not None
    }
    return [
        CapacityPoint(
            policy=point.config.policy,
            batch_items=seen.value,
            simulated_qps=seen.capacity.capacity_qps,
            simulated_low=seen.capacity.low_qps,
            simulated_high=seen.capacity.high_qps,
            live_qps=live.get(point.config.policy_of(seen.value)),
        )
        for seen in sorted(point.search.points, key=lambda seen: seen.value)
    ]


def query_times(run: RunResult) -> Iterator[QueryTime]:
    """Where the time of answered queries goes, by query size."""
    queries = run.queries
    answered = queries.done_ns >= 0
    size = queries.num_items
    queueing_ms = run.queueing_delay_ns / 1e6
    service_ms = (queries.done_ns - queries.started_ns) / 1e6
    edges = [0, *(edge for edge in _SIZE_GROUPS if edge < size.max()), int(size.max())]
    for low, high in pairwise(edges):
        rows = answered & (size > low) & (size <= high)
        if rows.any():
            yield QueryTime(
                size_low=low + 1,
                size_high=high,
                queueing_ms=float(np.mean(queueing_ms[rows])),
                service_ms=float(np.mean(service_ms[rows])),
            )
