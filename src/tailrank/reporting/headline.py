"""The first thing a report says: one sentence and three numbers. Draws nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tailrank.reporting.report_data import ReportData
from tailrank.reporting.result import Result
from tailrank.reporting.tables import number


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the headline: the value as text, its unit, and what it is."""

    value: str
    unit: str
    label: str


@dataclass(frozen=True, slots=True)
class Headline:
    """One sentence and at most three numbers."""

    sentence: str
    figures: tuple[Figure, ...]


def headline(result: Result, columns: ReportData) -> Headline:
    """The most important findings that this result holds: capacity first, then quality."""
    metrics, sla = result.metrics, columns.sla
    # No line break inside: "p95" on one line and its limit on the next would be hard to read.
    bound = str(sla).replace(" ", "\N{NO-BREAK SPACE}") if sla is not None else "the SLA"
    figures = _capacity_figures(result, columns) + _quality_figures(result)
    capacity = metrics.get("tuned.capacity_qps")
    simulated = metrics.get("tuned.simulated_capacity_qps")
    if capacity == 0 or (capacity is None and simulated == 0):
        return Headline(f"No batch size keeps {bound} on this host.", tuple(figures[:3]))
    if capacity is not None:
        items = metrics.get("tuned.capacity_items_per_s")
        sentence = f"This host ranks {number(capacity)} queries/s"
        sentence += f" ({number(items)} items/s)" if items is not None else ""
        sentence += f" and keeps {bound}"
        ratio = _ratio(result)
        sentence += f": {ratio:.2f}x the static baseline." if ratio is not None else "."
        return Headline(sentence, tuple(figures[:3]))
    if simulated is not None:
        sentence = f"Simulated, this host ranks {number(simulated)} queries/s and keeps {bound}; "
        return Headline(sentence + "not measured live.", tuple(figures[:3]))
    if "auc_test" in metrics:
        sentence = f"The model reaches AUC {metrics['auc_test']:.4f} on the test part"
        attainable = metrics.get("auc_attainable")
        sentence += f", of {attainable:.4f} attainable." if attainable is not None else "."
        return Headline(sentence, tuple(figures[:3]))
    return Headline(f"Result of tailrank {result.command}.", tuple(figures[:3]))


def _capacity_figures(result: Result, columns: ReportData) -> list[Figure]:
    """What a tuned operating point is judged by."""
    metrics, figures = result.metrics, []
    if (capacity := metrics.get("tuned.capacity_qps")) is not None:
        figures.append(Figure(number(capacity), "queries/s", "capacity inside the SLA, live"))
    elif (simulated := metrics.get("tuned.simulated_capacity_qps")) is not None:
        figures.append(Figure(number(simulated), "queries/s", "capacity inside the SLA, simulated"))
    sla = columns.sla
    name = f"tuned.latency_ms_p{sla.percentile:g}" if sla is not None else "tuned.latency_ms_p95"
    if (latency := metrics.get(name)) is not None:
        percentile = name.rpartition("_")[2]
        limit = f", limit {sla.latency_ms:g} ms" if sla is not None else ""
        figures.append(Figure(number(latency), "ms", f"{percentile} at that load{limit}"))
    if (ratio := _ratio(result)) is not None:
        figures.append(Figure(f"{ratio:.2f}", "x", "the static baseline's capacity"))
    return figures


def _quality_figures(result: Result) -> list[Figure]:
    """What a trained model is judged by."""
    metrics, figures = result.metrics, []
    for name, unit, label in (
        ("auc_test", "AUC", "on the test part, scored once"),
        ("logloss_test", "logloss", "on the test part"),
    ):
        if (value := metrics.get(name)) is not None:
            figures.append(Figure(f"{value:.4f}", unit, label))
    if (speed := metrics.get("train_samples_per_s")) is not None:
        figures.append(Figure(number(speed), "samples/s", "training, reading included"))
    return figures


def _ratio(result: Result) -> float | None:
    """Tuned capacity over the baseline's, where both are known and positive."""
    tuned = result.metrics.get("tuned.capacity_qps")
    baseline = result.metrics.get("baseline.capacity_qps")
    if not tuned or not baseline or math.isinf(baseline):
        return None
    return tuned / baseline
