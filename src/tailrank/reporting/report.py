"""A run's results as one HTML file that loads nothing: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from tailrank.core.files import replace_text
from tailrank.reporting.headline import headline
from tailrank.reporting.report_data import ReportData
from tailrank.reporting.result import Result, read_result, to_json
from tailrank.reporting.sections import sections, tables
from tailrank.reporting.tables import number

RESULT_NAME = "result.json"
REPORT_NAME = "report.html"


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
    result, columns = read_result(folder / RESULT_NAME), ReportData.load(folder)
    write_page(target, result, columns, name or folder.name)
    return target


def write_page(path: Path, result: Result, columns: ReportData, name: str) -> None:
    """Draw a report of what no folder holds.

    Args:
        path: the file to write, whole or not at all.
        result: see `render`.
        columns: likewise.
        name: likewise.
    """
    page = render(result, columns, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, page)


def render(result: Result, columns: ReportData, name: str) -> str:
    """The page as HTML text.

    Args:
        result: of the run.
        columns: what there is to draw; empty sections are left out.
        name: of the run, for the title.
    """
    record = to_json(result)
    plain = json.loads(record)  # a result that was never on disk may hold dataclasses and paths
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
        tables=tables(columns),
        findings=columns.findings,
        sections=sections(result, columns),
        metrics=list(_metrics(result)),
        config="\n".join(_lines(plain["config"])),
        host="\n".join(_lines(plain["host"])),
        record=record,
        plotly_js=get_plotlyjs(),
    )


def _metrics(result: Result) -> Iterator[tuple[str, str, str]]:
    """Every metric as name, value and interval."""
    for name, value in result.metrics.items():
        interval = " to ".join(_exact(bound) for bound in result.intervals.get(name, ()))
        yield name, _exact(value), interval


def _exact(value: float) -> str:
    """Five significant digits where there are decimals: quality differs in the fourth."""
    return f"{value:.5g}" if abs(value) < 1000 else number(value)


def _lines(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A nested record as lines `outer.inner = value`, which are shorter than indented JSON."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {json.dumps(value, ensure_ascii=False)}"
