"""Figures show what the columns hold: the tail, the bound, the interval, the parts."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.reporting.report_samples import full_columns

from tailrank.reporting import figures
from tailrank.reporting.report_data import LatencyCurve, SLALimit

SLA_10_MS = SLALimit(percentile=95.0, latency_ms=10.0)


def test_the_latency_curve_keeps_the_tail_when_it_is_thinned() -> None:
    latencies = np.linspace(1.0, 9.0, 20_000)
    curve = LatencyCurve(name="run", latencies_ms=latencies.tolist(), num_queries=20_000)
    line = figures.latency_cdf([curve], SLA_10_MS).data[0]
    assert len(line.x) <= 400
    assert line.x[-1] == 9.0
    at_p99 = np.interp(99.0, line.customdata, line.x)
    assert at_p99 == pytest.approx(np.percentile(latencies, 99), rel=1e-3)


def test_unanswered_queries_keep_the_curve_below_the_top() -> None:
    curve = LatencyCurve(name="run", latencies_ms=[1.0] * 90, num_queries=100)
    line = figures.latency_cdf([curve], None).data[0]
    assert max(line.customdata) < 90.0


def test_the_sla_corner_stands_at_its_percentile_and_limit() -> None:
    figure = figures.latency_cdf(full_columns().latency_cdf, SLA_10_MS)
    corner = figure.data[-1]
    assert corner.x == (10.0,)
    assert corner.y[0] == pytest.approx(-np.log10(0.05))


def test_percentiles_that_the_sample_cannot_show_get_no_tick() -> None:
    curve = LatencyCurve(name="run", latencies_ms=[1.0] * 100, num_queries=100)
    ticks = figures.latency_cdf([curve], None).layout.yaxis.ticktext
    assert ticks == ("50 %", "90 %", "95 %")


def test_latency_ticks_cover_the_axis_in_steps_of_1_2_5() -> None:
    assert figures._one_two_five(0.9, 25.0) == [1.0, 2.0, 5.0, 10.0, 20.0]


def test_capacity_is_ordered_by_batch_with_interval_and_live_points() -> None:
    figure = figures.capacity_by_batch(full_columns().capacity_by_batch, SLA_10_MS)
    simulated, live = figure.data
    assert simulated.x == ("64", "256")
    assert simulated.error_y.array == (1100.0 - 1064.0, 0.0)
    assert simulated.error_y.arrayminus == (164.0, 356.0)
    assert (live.x, live.y) == (("64",), (1050.0,))
    assert "p95 ≤ 10 ms" in figure.layout.yaxis.title.text


def test_the_learning_curve_leaves_out_steps_that_were_not_evaluated() -> None:
    figure = figures.learning_curve(full_columns().learning_curve, auc_attainable=0.8)
    steps = {trace.name: trace.x for trace in figure.data}
    assert steps == {
        "training logloss": (100, 200),
        "validation logloss": (200,),
        "validation AUC": (200,),
        "attainable AUC": (0, 200),
    }


def test_the_parts_of_a_querys_time_are_stacked() -> None:
    figure = figures.query_time(full_columns().query_time)
    assert figure.layout.barmode == "stack"
    assert sum(bar.y[0] for bar in figure.data) == pytest.approx(1.5)


def test_every_axis_names_its_unit() -> None:
    columns = full_columns()
    drawn = (
        (figures.latency_cdf(columns.latency_cdf, None), "latency, ms"),
        (figures.capacity_by_batch(columns.capacity_by_batch, None), "queries/s"),
        (figures.query_time(columns.query_time), "mean time, ms"),
    )
    for figure, text in drawn:
        titles = (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text)
        assert text in titles
        assert None not in titles
