"""The first thing a report says: one sentence and three numbers. Draws nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailrank.core.names import percentile_name
from tailrank.reporting.report_data import ComparedMetric, ReportData
from tailrank.reporting.result import Result
from tailrank.reporting.tables import metric_label, number

_NUM_FIGURES = 3
_SUBJECTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the headline: value, unit and interval as text, and what it is."""

    value: str
    unit: str
    label: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """One sentence and at most three numbers."""

    sentence: str
    figures: tuple[Figure, ...] = ()


def headline(result: Result, columns: ReportData) -> Headline:
    """The most important finding that this result holds, whichever verb found it."""
    for find in (_comparison, _simulated, _capacity, _service_time, _quality_gate, _quality, _host):
        found = find(result, columns)
        if found is not None:
            return found
    return Headline(f"Result of tailrank {result.command}.")


def _comparison(result: Result, columns: ReportData) -> Headline | None:
    """Which of several runs ranks better."""
    if not columns.comparison or not columns.runs:
        return None
    first, leading = columns.runs[0].run, columns.comparison[0].metric
    best = max((row for row in columns.comparison if row.metric == leading), key=_gain)
    difference = (
        f"{metric_label(leading)} {best.value:+.4f}, "
        f"95\N{NO-BREAK SPACE}% interval {best.low:+.4f} to {best.high:+.4f}"
    )
    if _gain(best, "low") > 0 and _gain(best, "high") > 0:
        sentence = f"{best.run} ranks better than {first}: {difference}."
    elif _gain(best, "low") < 0 and _gain(best, "high") < 0:
        sentence = f"No run ranks as well as {first}; {best.run} comes nearest: {difference}."
    else:
        sentence = f"{best.run} and {first} do not differ beyond chance: {difference}."
    own = [row for row in columns.comparison if row.run == best.run]
    figures = [
        Figure(
            f"{row.value:+.4f}",
            metric_label(row.metric),
            f"{row.run} less {first}",
            f"{row.low:+.4f} to {row.high:+.4f}",
        )
        for row in own
    ]
    return Headline(sentence, tuple(figures[:_NUM_FIGURES]))


def _gain(row: ComparedMetric, bound: str = "value") -> float:
    """The difference, above 0 where the run is better."""
    sign = -1.0 if row.lower_is_better else 1.0
    return sign * float(getattr(row, bound))


def _capacity(result: Result, columns: ReportData) -> Headline | None:
    """What a tuned operating point holds."""
    metrics, sla = result.metrics, columns.sla
    capacity = metrics.get("tuned.capacity_qps")
    simulated = metrics.get("tuned.simulated_capacity_qps")
    if capacity is None and simulated is None:
        return None
    # No line break inside: "p95" on one line and its limit on the next would be hard to read.
    bound = str(sla).replace(" ", "\N{NO-BREAK SPACE}") if sla is not None else "the SLA"
    figures = tuple((_capacity_figures(result, columns) + _quality_figures(metrics))[:_NUM_FIGURES])
    if capacity == 0 or (capacity is None and simulated == 0):
        return Headline(f"No policy keeps {bound} on this host.", figures)
    if capacity is None:
        assert simulated is not None
        sentence = f"Simulated, this host ranks {number(simulated)} queries/s and keeps {bound}; "
        return Headline(sentence + "not measured live.", figures)
    items = metrics.get("tuned.capacity_items_per_s")
    sentence = f"This host ranks {number(capacity)} queries/s"
    sentence += f" ({number(items)} items/s)" if items is not None else ""
    sentence += f" and keeps {bound}"
    ratio = _ratio(metrics)
    return Headline(
        sentence + (f": {ratio:.2f}x the static baseline." if ratio is not None else "."), figures
    )


def _simulated(result: Result, columns: ReportData) -> Headline | None:
    """What a host would do by its profile; said to be simulated before anything else is."""
    metrics, sla = result.metrics, columns.sla
    offered = metrics.get("simulated.offered_qps")
    if offered is None or sla is None:
        return None
    name = f"simulated.latency_ms_{percentile_name(sla.percentile)}"
    latency, bound = metrics[name], str(sla).replace(" ", "\N{NO-BREAK SPACE}")
    capacity = metrics.get("simulated.capacity_qps")
    if capacity is None:
        kept = "keeps" if latency <= sla.latency_ms else "misses"
        sentence = f"Simulated, not measured: {number(offered)} queries/s {kept} {bound}."
    elif capacity == 0:
        sentence = f"Simulated, not measured: no load keeps {bound}."
    else:
        items = number(metrics["simulated.capacity_items_per_s"])
        sentence = (
            f"Simulated, not measured: {number(capacity)} queries/s ({items} items/s) keep {bound}."
        )
    shown = offered if capacity is None else capacity
    at = "offered" if capacity is None else "capacity inside the SLA, simulated"
    figures = (
        Figure(number(shown), "queries/s", at, _interval(result, "simulated.capacity_qps")),
        Figure(
            number(latency),
            "ms",
            f"p{sla.percentile:g} at that load, limit {sla.latency_ms:g} ms",
            _interval(result, name),
        ),
        Figure(number(metrics["simulated.latency_ms_max"]), "ms", "the slowest query there"),
    )
    return Headline(" ".join([sentence, *_sentences(result.config.get("notes", []))]), figures)


def _sentences(notes: Sequence[str]) -> list[str]:
    """Notes as sentences."""
    return [f"{note[:1].upper()}{note[1:]}." for note in notes]


def _capacity_figures(result: Result, columns: ReportData) -> list[Figure]:
    """The numbers of an operating point."""
    metrics, figures = result.metrics, []
    if (capacity := metrics.get("tuned.capacity_qps")) is not None:
        figures.append(
            Figure(
                number(capacity),
                "queries/s",
                "capacity inside the SLA, live",
                _interval(result, "tuned.capacity_qps"),
            )
        )
    elif (simulated := metrics.get("tuned.simulated_capacity_qps")) is not None:
        figures.append(
            Figure(
                number(simulated),
                "queries/s",
                "capacity inside the SLA, simulated",
                _interval(result, "tuned.simulated_capacity_qps"),
            )
        )
    sla = columns.sla
    percentile = 95.0 if sla is None else sla.percentile
    name = f"tuned.latency_ms_{percentile_name(percentile)}"
    if (latency := metrics.get(name)) is not None:
        limit = f", limit {sla.latency_ms:g} ms" if sla is not None else ""
        figures.append(
            Figure(
                number(latency),
                "ms",
                f"p{percentile:g} at that load{limit}",
                _interval(result, name),
            )
        )
    if (ratio := _ratio(metrics)) is not None:
        figures.append(Figure(f"{ratio:.2f}", "x", "the static baseline's capacity"))
    return figures


def _interval(result: Result, name: str) -> str:
    """A metric's interval as text, where it has one."""
    return " to ".join(number(bound) for bound in result.intervals.get(name, ()))


def _ratio(metrics: Mapping[str, float]) -> float | None:
    """Tuned capacity over the baseline's, where both are known and positive."""
    tuned, baseline = metrics.get("tuned.capacity_qps"), metrics.get("baseline.capacity_qps")
    if not tuned or not baseline or math.isinf(baseline):
        return None
    return tuned / baseline


def _service_time(result: Result, columns: ReportData) -> Headline | None:
    """How long a batch takes."""
    prefix = "profile.service_time_ms_items_"
    times_ms = {
        int(name.removeprefix(prefix)): value
        for name, value in result.metrics.items()
        if name.startswith(prefix)
    }
    if not times_ms:
        return None
    items = sorted(times_ms)[len(times_ms) // 2]
    rate = number(items / times_ms[items] * 1e3)
    figures = [
        Figure(number(times_ms[size]), "ms", f"a batch of {size:,} items, one worker busy")
        if size > 1
        else Figure(number(times_ms[size]), "ms", "a single item, one worker busy")
        for size in sorted(times_ms)
    ]
    return Headline(
        f"One core ranks a batch of {items:,} items in {number(times_ms[items])} ms: "
        f"{rate} items/s.",
        tuple(figures[:_NUM_FIGURES]),
    )


def _quality_gate(result: Result, columns: ReportData) -> Headline | None:
    """What another precision costs."""
    drop = result.metrics.get("auc_drop_fraction")
    if drop is None:
        return None
    precision, allowed = result.config.get("precision"), result.config.get("max_auc_drop", 0.0)
    change = f"a drop of {drop:.4%}" if drop > 0 else "no drop"
    kept = "keeps its quality" if drop <= allowed else "loses too much"
    figures = [Figure(f"{drop:.4%}", "", f"drop of the AUC, of {allowed:.4%} allowed")]
    if (speedup := result.metrics.get("speedup_over_fp32")) is not None:
        label = "items/s over those in fp32, one core of this host"
        interval = _interval(result, "speedup_over_fp32")
        figures.insert(0, Figure(f"{speedup:.2f}", "x", label, interval))
    figures = (_quality_figures(result.metrics)[: _NUM_FIGURES - len(figures)]) + figures
    return Headline(
        f"In {precision} the model {kept}: {change} of the AUC, where {allowed:.4%} is allowed.",
        tuple(figures),
    )


def _quality(result: Result, columns: ReportData) -> Headline | None:
    """How well a model predicts."""
    metrics = result.metrics
    split = _split(metrics)
    if split is None:
        return None
    reached = " and ".join(
        f"{metrics[f'{subject}auc_{split}']:.4f}" + (f" ({subject[:-1]})" if subject else "")
        for subject in _subjects(metrics, split)
    )
    sentence = f"The model reaches AUC {reached} on {_part(split)}"
    attainable = metrics.get("auc_attainable")
    sentence += f", of {attainable:.4f} attainable." if attainable is not None else "."
    return Headline(sentence, tuple(_quality_figures(metrics)[:_NUM_FIGURES]))


def _split(metrics: Mapping[str, float]) -> str | None:
    """The part of the data that a model was judged on; the test part goes first."""
    splits = ("test", "validation", "train", "all")
    return next((s for s in splits if _subjects(metrics, s)), None)


def _subjects(metrics: Mapping[str, float], split: str | None) -> list[str]:
    """What stands before the metrics of each task: `income.`, or nothing where there is one."""
    names = [name for name in metrics if re.fullmatch(rf"(\w+\.)?auc_{split}", name)]
    subjects = [name.removesuffix(f"auc_{split}") for name in names]
    return [""] if "" in subjects else subjects


def _part(split: str | None) -> str:
    """A part of the data in words."""
    return "all rows" if split == "all" else f"the {split} part"


def _quality_figures(metrics: Mapping[str, float]) -> list[Figure]:
    """What a model is judged by, ranking inside a user's candidates first where it is known."""
    split = _split(metrics)
    figures = []
    rows = "over all rows" if split == "all" else f"over all rows of {_part(split)}"
    for name, unit, label in (
        *(
            (f"{subject}auc_{split}", "AUC", f"{subject[:-1]}, {rows}" if subject else rows)
            for subject in _subjects(metrics, split)
        ),
        (f"grouped_auc_{split}", "AUC", "inside each user's rows"),
        (f"ndcg_at_10_{split}", "NDCG@10", "over each user's candidates"),
        (f"hit_rate_at_10_{split}", "HR@10", "of users with a positive among their ten best"),
        (f"logloss_{split}", "logloss", f"on {_part(split)}"),
    ):
        value = metrics.get(name)
        # Of few candidates each a positive one is among the best in any order: that says nothing.
        if value is not None and not (unit in ("NDCG@10", "HR@10") and value > 1.0 - 1e-9):
            figures.append(Figure(f"{value:.4f}", unit, label))
    if (speed := metrics.get("train_samples_per_s")) is not None:
        figures.append(Figure(number(speed), "samples/s", "training, reading included"))
    if (calibration := metrics.get(f"calibration_{split}")) is not None:
        figures.append(Figure(f"{calibration:.3f}", "", "mean predicted over observed rate"))
    return figures


def _host(result: Result, columns: ReportData) -> Headline | None:
    """What costs speed on this host."""
    if not columns.findings:
        return None
    costly = [finding.subject for finding in columns.findings if finding.fix is not None]
    if not costly:
        sentence = "Nothing found on this host costs speed."
    else:
        shown = ", ".join(costly[:_SUBJECTS_SHOWN])
        more = len(costly) - _SUBJECTS_SHOWN
        shown += f" and {more} more" if more > 0 else ""
        things = "One thing costs" if len(costly) == 1 else f"{len(costly)} things cost"
        sentence = f"{things} speed on this host: {shown}."
    metrics, figures = result.metrics, []
    for name, unit, label in (
        ("gather_ns_per_row_huge_pages", "ns", "a random 128-byte row, on huge pages"),
        ("linear_fp32_packed_gflops", "GFLOP/s", "a packed dense layer in fp32, one core"),
        ("linear_bf16_packed_gflops", "GFLOP/s", "a packed dense layer in bf16, one core"),
        ("stolen_fraction", "", "of CPU time taken by the hypervisor"),
    ):
        if (value := metrics.get(name)) is not None:
            text = f"{value:.1%}" if name.endswith("_fraction") else number(value)
            figures.append(Figure(text, unit, label))
    return Headline(sentence, tuple(figures[:_NUM_FIGURES]))
