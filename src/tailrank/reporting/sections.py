"""Which charts and tables a report shows, with the words that say how to read them.

Each is there when there are columns for it, whichever verb wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from tailrank.reporting import figures
from tailrank.reporting.report_data import (
    GroupBin,
    ReliabilityBin,
    ReportData,
    RunRow,
    ScoreBin,
)
from tailrank.reporting.result import Result
from tailrank.reporting.tables import (
    POLICY_HEADINGS,
    PRECISION_HEADINGS,
    metric_label,
    policy_cells,
    precision_cells,
)


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart, with a title where a section has several."""

    key: str
    figure: go.Figure
    title: str = ""

    @property
    def record(self) -> str:
        """The figure as JSON that may stand inside a script element."""
        text: str = self.figure.to_json()
        return text.replace("<", "\\u003c")


@dataclass(frozen=True, slots=True)
class Section:
    """One chart or several, with a heading and a sentence that says how to read them.

    A wide one has a row of its own; the others stand two in a row where there is room.
    """

    heading: str
    caption: str
    panels: tuple[Panel, ...]
    wide: bool = False

    @classmethod
    def of(cls, key: str, heading: str, caption: str, figure: go.Figure) -> Section:
        """A section of one chart."""
        return cls(heading, caption, (Panel(key, figure),))

    @classmethod
    def by_task(
        cls,
        key: str,
        heading: str,
        caption: str,
        draw: Callable[[list[Any]], go.Figure],
        bins: Sequence[ReliabilityBin] | Sequence[ScoreBin] | Sequence[GroupBin],
    ) -> Section:
        """A section of a chart for each task that these bins name."""
        tasks = list(dict.fromkeys(row.task for row in bins))
        panels = [
            Panel("-".join(filter(None, (key, task.replace("_", "-")))), draw(own), task)
            for task in tasks
            if (own := [row for row in bins if row.task == task])
        ]
        return cls(heading, caption, tuple(panels), wide=len(panels) > 1)


@dataclass(frozen=True, slots=True)
class TableSection:
    """A table with its heading and a sentence that says how to read it."""

    heading: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    last_is_best: bool = False


def tables(columns: ReportData) -> list[TableSection]:
    """The tables that there are rows for."""
    found = []
    if columns.table:
        at = f" at {columns.sla}" if columns.sla else ""
        starred = any(row.policy.endswith("*") for row in columns.table)
        found.append(
            TableSection(
                f"What each policy holds{at}",
                "Capacity is the largest offered load that meets the SLA, in queries and in items "
                "per second; latencies are those of the live run at that load; simulated is the "
                "capacity that the simulation promised."
                + (" A star marks what was simulated only." if starred else ""),
                POLICY_HEADINGS,
                [policy_cells(row) for row in columns.table],
                last_is_best=len(columns.table) > 1,
            )
        )
    if columns.precisions:
        found.append(
            TableSection(
                "What each precision costs and gives here",
                "AUC on the held-out rows, of several tasks that of the one which loses most, and "
                "its drop relative to fp32; time of one query on one "
                "core, and the items/s that come of it as a multiple of those in fp32, measured in "
                "turns with it. Chosen: the fastest that the gate lets pass, or the smallest of "
                "those as fast.",
                PRECISION_HEADINGS,
                [precision_cells(row) for row in columns.precisions],
            )
        )
    if columns.runs:
        names = list(dict.fromkeys(name for row in columns.runs for name in row.metrics))
        found.append(
            TableSection(
                "What each run reaches",
                "All on the same test rows; the first run is the one that the others are compared "
                "with.",
                ("run", *map(metric_label, names)),
                [_run_cells(row, names) for row in columns.runs],
            )
        )
    return found


def _run_cells(row: RunRow, names: Sequence[str]) -> list[str]:
    """A run's metrics as text; - where it has none of that name."""
    values = [row.metrics.get(name) for name in names]
    return [
        row.run,
        *("-" if v is None else f"{v:,.0f}" if v > 1000 else f"{v:.4f}" for v in values),
    ]


def sections(result: Result, columns: ReportData) -> list[Section]:
    """The charts that there are columns for, in the order in which questions arise."""
    found = [
        *_comparing(columns),
        *_serving(columns),
        *_profiling(columns),
        *_predicting(result, columns),
        *_training(result, columns),
        *_probing(result, columns),
    ]
    if sum(not section.wide for section in found) % 2:
        # No hole beside the last one.
        found[-1] = replace(found[-1], wide=True)
    return found


def _comparing(columns: ReportData) -> Iterator[Section]:
    """Several runs side by side."""
    if columns.comparison:
        first = columns.runs[0].run if columns.runs else "the first run"
        panels = []
        for metric in dict.fromkeys(row.metric for row in columns.comparison):
            own = [row for row in columns.comparison if row.metric == metric]
            better = "lower" if own[0].lower_is_better else "higher"
            key = "comparison-" + metric.replace("_", "-").replace(".", "-")
            title = f"{metric_label(metric)} ({better} is better)"
            panels.append(Panel(key, figures.forest(own), title))
        yield Section(
            "Which run ranks better, and how surely",
            f"Each mark is the difference of a run to {first} on the same test rows, with its 95 % "
            "interval. An interval across the dotted line is no difference beyond chance.",
            tuple(panels),
            wide=True,
        )
    if any(curve.points for curve in columns.learning_curves):
        yield Section.of(
            "learning-curves",
            "How the runs learned",
            "Logloss (lower is better) and AUC (higher is better) on each run's validation rows.",
            figures.learning_curves(columns.learning_curves),
        )


def _serving(columns: ReportData) -> Iterator[Section]:
    """A model under load."""
    if any(curve.latencies_ms for curve in columns.latency_cdf):
        yield Section.of(
            "latency-cdf",
            "How long queries take",
            "Share of queries answered within a time, from their scheduled arrival; the scale "
            "widens towards the tail. A run keeps the SLA when its curve passes left of the "
            "corner. Unanswered queries keep a curve from reaching the top.",
            figures.latency_cdf(columns.latency_cdf, columns.sla),
        )
    if columns.capacity_by_batch:
        yield Section.of(
            "capacity-by-batch",
            "Which batch size holds the most",
            "Largest offered load that meets the SLA, by the largest batch a query is split "
            "into. Bars: the bracket in which the simulated capacity lies. Star: the best of them. "
            "Diamonds: measured live with the same workload.",
            figures.capacity_by_batch(columns.capacity_by_batch, columns.sla),
        )
    if columns.query_time:
        yield Section.of(
            "query-time",
            "Where a query's time goes",
            "Mean times by query size at the load of that run: service is the time from the first "
            "part's start to the last part's end, queueing the time from the scheduled "
            "arrival to the first part's start. Together they are the latency.",
            figures.query_time(columns.query_time),
        )
    if columns.promises:
        yield Section.of(
            "promises",
            "Whether the simulation kept its word",
            "Largest load inside the SLA as it was simulated from this host's service times and as "
            "it was then measured live. Bars: between a load that kept the SLA and one that did "
            "not.",
            figures.promises(columns.promises),
        )
    if columns.busy_batches:
        span_ms = max(row.end_ms for row in columns.busy_batches)
        yield Section(
            "What the workers did when they had most to do",
            f"The busiest {span_ms:.3g} ms of that run, a bar for each batch. Gaps are idle time.",
            (Panel("busy-batches", figures.busy_batches(columns.busy_batches)),),
            wide=True,
        )


def _profiling(columns: ReportData) -> Iterator[Section]:
    """Batches on this host."""
    if columns.service_time:
        yield Section.of(
            "service-time",
            "How long a batch takes",
            "Median over many batches of one query part, rows cold; nine of ten batches lie in the "
            "shaded band, whose width is that of all large batches together.",
            figures.service_time(columns.service_time),
        )
        yield Section.of(
            "throughput-by-batch",
            "What larger batches buy",
            "Items ranked per second by all busy workers together, as the median service times "
            "have it; queueing comes on top.",
            figures.throughput_by_batch(columns.service_time),
        )


def _predicting(result: Result, columns: ReportData) -> Iterator[Section]:
    """Scored rows."""
    if columns.reliability:
        yield Section.by_task(
            "reliability",
            "Whether probabilities can be believed",
            "Rows in ten bins of equal number by their score: the share that was positive over the "
            "mean prediction, with its 95 % interval (Wilson). On the dotted line both agree.",
            figures.reliability,
            columns.reliability,
        )
    if columns.score_counts:
        yield Section.by_task(
            "score-counts",
            "How far the classes are apart",
            "Scores of positive and of negative rows, each as shares of its class. The less they "
            "overlap, the better the model ranks.",
            figures.score_counts,
            columns.score_counts,
        )
    if columns.group_auc:
        means = {n: v for n, v in result.metrics.items() if "grouped_auc" in n}

        def spread(bins: Sequence[GroupBin]) -> go.Figure:
            start = ".".join(filter(None, (bins[0].task, "grouped_auc")))
            return figures.group_auc(
                bins, next((v for n, v in means.items() if n.startswith(start)), None)
            )

        yield Section.by_task(
            "group-auc",
            "How well each user is ranked",
            "AUC among the rows of one group (a user, or a query), for groups with rows of both "
            "classes. Small groups scatter by chance; the grouped AUC weighs each by its rows.",
            spread,
            columns.group_auc,
        )


def _training(result: Result, columns: ReportData) -> Iterator[Section]:
    """One run's learning."""
    if columns.learning_curve:
        several = any(name.endswith(".auc_validation") for name in result.metrics)
        yield Section.of(
            "learning-curve",
            "What training learned",
            "Logloss (lower is better), AUC and, where rows have groups, grouped AUC, NDCG@10 and "
            f"HR@10 (higher is better) over training steps{', means over tasks' * several}. "
            f"{_chosen(result)} on the validation part; the test part was scored once, after.",
            figures.learning_curve(
                columns.learning_curve,
                result.metrics.get("auc_attainable"),
                result.metrics.get("step_chosen"),
            ),
        )


def _chosen(result: Result) -> str:
    """Which step a run kept, and how it ended."""
    names = ("step_chosen", "num_steps", "num_steps_planned")
    try:
        chosen, done, planned = (result.metrics[name] for name in names)
    except KeyError:
        return "The step was chosen"
    how = f"early, of {planned:,.0f} planned" if done < planned else "as planned"
    return f"The run ended after {done:,.0f} steps, {how}; step {chosen:,.0f} was chosen"


def _probing(result: Result, columns: ReportData) -> Iterator[Section]:
    """The host itself."""
    if columns.findings:
        yield Section(
            "What one core does",
            "Embedding lookups wait for random reads of memory, large dense layers for the units "
            "that multiply; both measured on one core.",
            (
                Panel(
                    "random-reads",
                    figures.random_reads(result.metrics),
                    "Random rows of 128 bytes (lower is better)",
                ),
                Panel(
                    "dense-layers",
                    figures.dense_layers(result.metrics),
                    "A dense layer (higher is better)",
                ),
            ),
            wide=True,
        )
