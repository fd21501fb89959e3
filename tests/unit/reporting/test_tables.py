"""What the terminal shows: every number with its unit, and infinity as such."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from tests.unit.reporting.report_samples import samples

from tailrank.core.service_time import ServiceTimeTable
from tailrank.reporting.report_data import PolicyRow
from tailrank.reporting.tables import (
    POLICY_HEADINGS,
    PRECISION_HEADINGS,
    number,
    policy_table,
    precision_table,
    service_time_table,
)

BASELINE = PolicyRow(
    policy="static baseline",
    batch_items=500,
    capacity_qps=1507.0,
    capacity_items_per_s=360_173.0,
    latency_ms_p95=9.75,
    latency_ms_p99=14.21,
    latency_ms_max=125.4,
    simulated_qps=1550.0,
)


def rendered(*rows: PolicyRow) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(policy_table(rows))
    return capture.get()


def test_the_table_shows_each_figure_with_its_unit() -> None:
    tuned = replace(BASELINE, policy="tuned", batch_items=192, ratio=1.4213)
    head, baseline, better = rendered(BASELINE, tuned).splitlines()
    assert tuple(re.split(r"\s+(?!ms)", head.strip())) == POLICY_HEADINGS
    assert "1,507" in baseline
    assert "360,173" in baseline
    assert "9.75" in baseline
    assert "125" in baseline
    assert baseline.rstrip().endswith("-")
    assert better.rstrip().endswith("1.42x")


def test_the_table_fits_an_80_column_terminal() -> None:
    tuned = replace(BASELINE, capacity_qps=123_456.0, capacity_items_per_s=9_999_999.0, ratio=12.3)
    assert "…" not in rendered(tuned)


def test_precisions_fit_an_80_column_terminal() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(precision_table(samples()["export"][1].precisions))
    head, *rows = capture.get().splitlines()
    assert tuple(head.split()) == PRECISION_HEADINGS[:-1]
    assert rows[2].split()[0] == "rows=int4,dense=int8"
    assert rows[2].rstrip().endswith("1.94x refused")
    assert "…" not in capture.get()


def test_service_times_are_shown_in_ms_by_items_and_busy_workers() -> None:
    profile = ServiceTimeTable(
        device="cpu",
        axes={
            "num_parts": (1.0,),
            "num_items": (1.0, 1000.0),
            "ids_per_item": (26.0,),
            "busy_workers": (1.0, 2.0),
        },
        median_ns=np.array([1e5, 2e5, 3e6, 4.25e6]).reshape(1, 2, 1, 2),
        spread=np.array([1.0]),
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(service_time_table(profile))
    rows = [line.split() for line in capture.get().splitlines()]
    assert rows[1:] == [["1", "0.1", "0.2"], ["1,000", "3", "4.25"]]


@pytest.mark.parametrize(
    ("value", "text"), [(math.inf, "∞"), (0.0426, "0.0426"), (99.9, "99.9"), (1234.6, "1,235")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
