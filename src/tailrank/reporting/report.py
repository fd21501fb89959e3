"""A run's results as one HTML file that loads nothing: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from tailrank.core.files import replace_text
from tailrank.reporting import figures
from tailrank.reporting.headline import headline
from tailrank.reporting.report_data import ReportData
from tailrank.reporting.result import Result, read_result, to_json
from tailrank.reporting.tables import POLICY_HEADINGS, policy_cells

RESULT_NAME = "result.json"
REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class Section:
    """A chart with its heading and a sentence that says how to read it."""

    key: str
    heading: str
    caption: str
    figure: go.Figure

    @property
    def record(self) -> str:
        """The figure as JSON that may stand inside a script element."""
        text: str = self.figure.to_json()
        return text.replace("<", "\\u003c")


def write_report(folder: Path, path: Path | None = None, *, name: str | None = None) -> Path:
    """Draw the report of the run in `folder`.

    Args:
        folder: holds `result.json` and, where there is something to draw, `report_data.json`.
        path: the file to write, whole or not at all; None: `report.html` in `folder`.
        name: of the run; None: the folder's.

    Returns:
        The file written.

    Raises:
        DataError: `folder` holds no such files, or damaged ones.
    """
    target = folder / REPORT_NAME if path is None else path
    page = render(read_result(folder / RESULT_NAME), ReportData.load(folder), name or folder.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_text(target, page)
    return target


def render(result: Result, columns: ReportData, name: str) -> str:
    """The page as HTML text.

    Args:
        result: of the run.
        columns: what there is to draw; empty sections are left out.
        name: of the run, for the title.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tailrank.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        name=name,
        result=result,
        headline=headline(result, columns),
        sections=sections(result, columns),
        headings=POLICY_HEADINGS,
        rows=[policy_cells(row) for row in columns.table],
        simulated_only=any(row.policy.endswith("*") for row in columns.table),
        sla=columns.sla,
        config="\n".join(_lines(result.config)),
        host="\n".join(_lines(result.host)),
        record=to_json(result),
        plotly_js=get_plotlyjs(),
    )


def sections(result: Result, columns: ReportData) -> list[Section]:
    """The charts that there are columns for, in the order in which questions arise."""
    found = []
    if any(curve.latencies_ms for curve in columns.latency_cdf):
        found.append(
            Section(
                "latency-cdf",
                "How long queries take",
                "Share of queries answered within a time, from their scheduled arrival; the scale "
                "widens towards the tail. A run keeps the SLA when its curve passes left of the "
                "corner. Unanswered queries keep a curve from reaching the top.",
                figures.latency_cdf(columns.latency_cdf, columns.sla),
            )
        )
    if columns.capacity_by_batch:
        found.append(
            Section(
                "capacity-by-batch",
                "Which batch size holds the most",
                "Largest offered load that meets the SLA, by the largest batch a query is split "
                "into. Bars: the bracket in which the simulated capacity lies, at 95 % confidence. "
                "Diamonds: measured live with the same workload.",
                figures.capacity_by_batch(columns.capacity_by_batch, columns.sla),
            )
        )
    if columns.query_time:
        found.append(
            Section(
                "query-time",
                "Where a query's time goes",
                "Mean times by query size at the tuned load: service is the time from the first "
                "part's start to the last part's end, queueing the time from the scheduled "
                "arrival to the first part's start. Together they are the latency.",
                figures.query_time(columns.query_time),
            )
        )
    if columns.learning_curve:
        found.append(
            Section(
                "learning-curve",
                "What training learned",
                "Logloss (lower is better) and AUC (higher is better) over training steps. The "
                "step was chosen on the validation part; the test part was scored once, after.",
                figures.learning_curve(
                    columns.learning_curve, result.metrics.get("auc_attainable")
                ),
            )
        )
    return found


def _lines(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A nested record as lines `outer.inner = value`, which are shorter than indented JSON."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {json.dumps(value, ensure_ascii=False, default=str)}"
