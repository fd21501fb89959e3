"""The columns of a report survive the disk; infinity and absence stay what they are."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tests.unit.reporting.report_samples import samples

from tailrank.core.errors import DataError
from tailrank.core.latency import LatencySummary
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.reporting.report_data import (
    CapacityPoint,
    LatencyCurve,
    LearningPoint,
    PolicyRow,
    QueryTime,
    ReportData,
    ServiceTime,
    SLALimit,
)

ROW = PolicyRow(
    policy="tuned",
    batch_items=192,
    capacity_qps=2140.0,
    capacity_items_per_s=511_460.0,
    latency_ms_p95=9.8,
    latency_ms_p99=math.inf,
    latency_ms_max=math.inf,
)


ROWS = ReportData(
    sla=SLALimit.of(SLA.parse("p95=10ms")),
    latency_cdf=[LatencyCurve(name="tuned", latencies_ms=[1.0, 2.5], num_queries=3)],
    capacity_by_batch=[
        CapacityPoint(
            policy="static",
            batch_items=64,
            simulated_qps=100.0,
            simulated_low=90.0,
            simulated_high=math.inf,
        )
    ],
    learning_curve=[LearningPoint(step=10, train_logloss=0.6)],
    query_time=[QueryTime(size_low=1, size_high=99, queueing_ms=1.0, service_ms=2.0)],
    table=[ROW],
)


@pytest.mark.parametrize(
    "columns", [ROWS, *(columns for _, columns in samples().values())], ids=["rows", *samples()]
)
def test_save_then_load_gives_the_same_columns(columns: ReportData, tmp_path: Path) -> None:
    columns.save(tmp_path)
    assert ReportData.load(tmp_path) == columns


def test_together_the_samples_fill_every_section() -> None:
    filled = {
        field.name
        for _, columns in samples().values()
        for field in fields(columns)
        if getattr(columns, field.name)
    }
    assert filled == {field.name for field in fields(ReportData)}


def test_service_times_carry_the_spread_of_the_table() -> None:
    table = ServiceTimeTable(
        device="cpu",
        axes={
            "num_parts": (1.0,),
            "num_items": (1.0, 1000.0),
            "ids_per_item": (26.0,),
            "busy_workers": (1.0, 2.0),
        },
        median_ns=np.array([1e5, 2e5, 3e6, 4.25e6]).reshape(1, 2, 1, 2),
        spread=np.linspace(0.9, 1.1, 201),
    )
    rows = ServiceTime.of(table)
    assert [(r.num_items, r.busy_workers) for r in rows] == [(1, 1), (1000, 1), (1, 2), (1000, 2)]
    assert rows[3].median_ms == pytest.approx(4.25)
    assert rows[3].low_ms == pytest.approx(4.25 * 0.91)
    assert rows[3].high_ms == pytest.approx(4.25 * 1.09)


def test_a_folder_without_columns_has_an_empty_report(tmp_path: Path) -> None:
    assert ReportData.load(tmp_path) == ReportData()


def test_unanswered_queries_leave_the_curve_but_not_its_count() -> None:
    summary = LatencySummary.of(np.array([3_000_000.0, np.inf, 1_000_400.0]))
    curve = LatencyCurve.of("tuned", summary)
    assert curve.latencies_ms == [1.0, 3.0]
    assert curve.num_queries == 3


def test_nan_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    columns = ReportData(learning_curve=[LearningPoint(step=1, train_logloss=math.nan)])
    with pytest.raises(ValueError, match="not JSON compliant"):
        columns.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not the columns"),
        ('{"format_version": 1}', "format version 1"),
        ('{"format_version": 2}', "sla"),
        (
            '{"format_version": 2, "sla": null, "latency_cdf": [{"colour": 1}]}',
            "colour",
        ),
    ],
)
def test_damaged_columns_are_refused_with_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "report_data.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        ReportData.load(tmp_path)
