"""The columns of a report survive the disk; infinity and absence stay what they are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tailrank.core.errors import DataError
from tailrank.core.latency import LatencySummary
from tailrank.core.sla import SLA
from tailrank.reporting.report_data import (
    CapacityPoint,
    LatencyCurve,
    LearningPoint,
    PolicyRow,
    QueryTime,
    ReportData,
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


def test_save_then_load_gives_the_same_columns(tmp_path: Path) -> None:
    columns = ReportData(
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
    columns.save(tmp_path)
    assert ReportData.load(tmp_path) == columns


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
        ('{"format_version": 2}', "format version 2"),
        ('{"format_version": 1}', "sla"),
        (
            '{"format_version": 1, "sla": null, "latency_cdf": [{"colour": 1}]}',
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
