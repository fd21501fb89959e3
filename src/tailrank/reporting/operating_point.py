"""An operating point as metrics, intervals, verdict and the columns of its report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tailrank.characterization.operating_point import OperatingPoint, PolicyCapacity
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.names import percentile_name
from tailrank.reporting.live_rows import BusyBatch, PromiseRow
from tailrank.reporting.report_data import (
    CapacityPoint,
    LatencyCurve,
    PolicyRow,
    QueryTime,
    ReportData,
    SLALimit,
)
from tailrank.runtime.record import RunResult
from tailrank.tuning.capacity import Capacity

# Upper ends of the query sizes that the report groups by; the last group is open.
_SIZE_GROUPS = (64, 128, 192, 256, 384, 512, 768)
# How much of a run its batches are drawn for, and how many of them can be told apart.
_STRETCH_NS, _STRETCH_BATCHES = 100_000_000, 400


def metrics(point: OperatingPoint) -> dict[str, float]:
    """The flat metrics of each contender, `baseline.*` first, and of the best of them: `tuned.*`.

    Where no live run was made there is no `capacity_qps`, only `simulated_capacity_qps`; where the
    machine has no meter there is no `queries_per_joule`, and where nothing is offloaded no
    `offload_threshold_items`.
    """
    found: dict[str, float] = {}
    for prefix, contender in _prefixed(point):
        own = {
            "batch_items_max": contender.candidate.batch_items_max,
            "num_workers": contender.candidate.num_workers,
            "simulated_capacity_qps": contender.simulated.capacity_qps,
        }
        if contender.candidate.offload_threshold_items is not None:
            own["offload_threshold_items"] = contender.candidate.offload_threshold_items
        for name, value in _latencies_ms(point, contender.simulated.at).items():
            own[f"simulated_latency_ms_{name}"] = value
        if contender.live is not None:
            own["capacity_qps"] = contender.live.capacity_qps
            own["capacity_items_per_s"] = _items_per_s(contender.live)
            for name, value in _latencies_ms(point, contender.live.at).items():
                own[f"latency_ms_{name}"] = value
            if contender.live.at.queries_per_joule is not None:
                own["queries_per_joule"] = contender.live.at.queries_per_joule
        found |= {f"{prefix}.{name}": value for name, value in own.items()}
    return found


def intervals(point: OperatingPoint) -> dict[str, tuple[float, float]]:
    """Brackets of the capacities, and confidence intervals of the SLA's percentile."""
    found: dict[str, tuple[float, float]] = {}
    for prefix, contender in _prefixed(point):
        simulated = contender.simulated
        name = f"{prefix}.simulated_capacity_qps"
        found[name] = (simulated.low_qps, simulated.high_qps)
        if contender.live is None:
            continue
        found[f"{prefix}.capacity_qps"] = (contender.live.low_qps, contender.live.high_qps)
        percentile = point.config.sla.percentile
        estimate = contender.live.at.summary.percentile(percentile)
        name = f"{prefix}.latency_ms_{percentile_name(percentile)}"
        found[name] = (estimate.low / 1e6, estimate.high / 1e6)
    return found


def validity(point: OperatingPoint) -> Validity:
    """What speaks against the live figures (the simulated ones, where there are no others)."""
    reasons = [
        f"{contender.name}: {reason}"
        for contender in point.contenders
        for reason in contender.invalid_reasons
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
        for contender in point.contenders
        if contender.live is not None
    ]
    run = point.tuned.run
    return ReportData(
        sla=SLALimit.of(point.config.sla),
        latency_cdf=curves,
        capacity_by_batch=_capacity_by_batch(point),
        query_time=[] if run is None else list(query_times(run)),
        promises=[_promise(contender) for contender in point.contenders],
        busy_batches=[] if run is None else busy_batches(run),
        table=policy_rows(point),
    )


def policy_rows(point: OperatingPoint) -> list[PolicyRow]:
    """The rows of the policy table, the best once more at its end.

    A ratio is that of two live capacities where the baseline has one, else of two simulated ones.
    """
    return [_policy_row(point, each, each.name) for each in point.contenders] + [
        _policy_row(point, point.tuned, "tuned")
    ]


def _policy_row(point: OperatingPoint, contender: PolicyCapacity, name: str) -> PolicyRow:
    """A contender in the table."""
    best, baseline = contender.best, point.baseline
    latency = _latencies_ms(point, best.at)
    ratio = None
    if contender is not baseline and (baseline.live is None or contender.live is not None):
        own, other = (
            (best, baseline.best)
            if baseline.live is not None
            else (contender.simulated, baseline.simulated)
        )
        if own.capacity_qps:
            ratio = own.capacity_qps / other.capacity_qps if other.capacity_qps else math.inf
    return PolicyRow(
        policy=name if contender.live else f"{name}*",
        batch_items=contender.candidate.batch_items_max,
        capacity_qps=best.capacity_qps,
        capacity_items_per_s=_items_per_s(best),
        latency_ms_p95=latency["p95"],
        latency_ms_p99=latency["p99"],
        latency_ms_max=latency["max"],
        simulated_qps=contender.simulated.capacity_qps,
        ratio=ratio,
    )


def _prefixed(point: OperatingPoint) -> Iterator[tuple[str, PolicyCapacity]]:
    """Every contender with the prefix of its metrics, and the best of them again."""
    for contender in point.contenders:
        yield contender.prefix, contender
    yield "tuned", point.tuned


def _items_per_s(capacity: Capacity) -> float:
    """Items answered per second at the capacity; 0 where no load met the SLA."""
    return capacity.at.achieved_items_per_s if capacity.capacity_qps else 0.0


def _latencies_ms(point: OperatingPoint, at: Measurement) -> dict[str, float]:
    """p95, p99, the SLA's percentile and the maximum of a run, in ms; inf if unanswered."""
    percentiles = {95.0, 99.0, point.config.sla.percentile}
    found = {percentile_name(p): at.summary.percentile(p).value / 1e6 for p in sorted(percentiles)}
    return {**found, "max": at.summary.max_ns / 1e6}


def _promise(contender: PolicyCapacity) -> PromiseRow:
    """A contender's two capacities with their brackets."""
    simulated, live = contender.simulated, contender.live
    return PromiseRow(
        policy=contender.name,
        simulated_qps=simulated.capacity_qps,
        simulated_low=simulated.low_qps,
        simulated_high=simulated.high_qps,
        live_qps=None if live is None else live.capacity_qps,
        live_low=None if live is None else live.low_qps,
        live_high=None if live is None or math.isinf(live.high_qps) else live.high_qps,
    )


def busy_batches(run: RunResult) -> list[BusyBatch]:
    """The batches of the stretch of a run in which the workers had most to do.

    It is 100 ms long, or as long as the run, or shorter where that held more batches than can be
    told apart.
    """
    batches = run.batches
    if not len(batches.done_ns):
        return []
    ends_ns = np.sort(batches.done_ns)
    length_ns = min(_STRETCH_NS, int(ends_ns[-1] - batches.started_ns.min()))
    if len(ends_ns) > _STRETCH_BATCHES:
        dense_ns = np.median(ends_ns[_STRETCH_BATCHES:] - ends_ns[:-_STRETCH_BATCHES])
        length_ns = max(1, min(length_ns, int(dense_ns)))
    # Work that ends inside a stretch, for every stretch that ends with a batch.
    order = np.argsort(batches.done_ns, kind="stable")
    done_ns, work_ns = batches.done_ns[order], np.cumsum(run.service_time_ns[order])
    before = np.searchsorted(done_ns, done_ns - length_ns)
    inside_ns = work_ns - np.where(before > 0, work_ns[np.maximum(before, 1) - 1], 0)
    to_ns = int(done_ns[int(np.argmax(inside_ns))])
    from_ns = to_ns - length_ns
    rows = np.flatnonzero((batches.done_ns > from_ns) & (batches.started_ns < to_ns))
    return [
        BusyBatch(
            worker=int(batches.slot[row]),
            start_ms=max(0.0, float(batches.started_ns[row] - from_ns) / 1e6),
            end_ms=float(min(batches.done_ns[row], to_ns) - from_ns) / 1e6,
            num_items=int(batches.num_items[row]),
            num_parts=int(batches.num_parts[row]),
        )
        for row in rows
    ]


def _capacity_by_batch(point: OperatingPoint) -> list[CapacityPoint]:
    """Every simulated batch size of each policy on as many workers as its best has.

    With the live capacity where it was measured; DeepRecSched's batches are static ones too. Where
    queries are offloaded, of the best threshold.
    """
    live = {each.candidate: each.live for each in point.contenders if each.live is not None}
    rows = []
    for policy in dict.fromkeys(each.candidate.policy for each in point.contenders):
        own = [each for each in point.contenders if each.candidate.policy == policy]
        last = own[-1].candidate  # of the widest search
        seen = {bracket.candidate: bracket for each in own for bracket in each.brackets}
        rows += [
            CapacityPoint(
                policy=policy,
                batch_items=candidate.batch_items_max,
                simulated_qps=bracket.low_qps,
                simulated_low=bracket.low_qps,
                simulated_high=bracket.high_qps,
                live_qps=live[candidate].capacity_qps if candidate in live else None,
            )
            for candidate, bracket in sorted(seen.items(), key=lambda item: item[0].batch_items_max)
            if (candidate.num_workers, candidate.offload_threshold_items)
            == (last.num_workers, last.offload_threshold_items)
        ]
    return rows


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
