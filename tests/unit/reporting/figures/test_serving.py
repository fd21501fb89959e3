"""Charts of serving show what the columns hold: the tail, the bound, the interval, the parts."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.reporting.report_samples import full_columns, samples

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


def test_capacity_is_ordered_by_batch_with_interval_and_live_points() -> None:
    figure = figures.capacity_by_batch(full_columns().capacity_by_batch, SLA_10_MS)
    simulated, best, live = figure.data
    assert simulated.x == (64, 256)
    assert (best.x, best.y) == ((256,), (1256.0,))
    assert simulated.error_y.array == (1100.0 - 1064.0, 0.0)
    assert simulated.error_y.arrayminus == (164.0, 356.0)
    assert (live.x, live.y) == ((64,), (1050.0,))
    assert "p95 ≤ 10 ms" in figure.layout.yaxis.title.text


def test_what_was_promised_stands_beside_what_was_served() -> None:
    simulated, live = figures.promises(full_columns().promises).data
    assert (simulated.name, simulated.x) == ("simulated", (1010.0, 1450.0))
    assert (live.name, live.x) == ("live", (1000.0,))
    assert live.error_x.array == (0.0,)  # no bound above: no whisker
    assert live.y[0] > simulated.y[0]


def test_batches_lie_on_their_workers_and_several_queries_are_hatched() -> None:
    alone, packed = figures.busy_batches(full_columns().busy_batches).data
    assert (alone.base, alone.x, alone.y) == ((0.0,), (4.0,), (0,))
    assert (packed.base, packed.x, packed.y) == ((1.0,), (1.5,), (1,))
    assert packed.marker.pattern.shape == "/"
    assert alone.marker.cmax == packed.marker.cmax == 500


def test_the_parts_of_a_querys_time_are_stacked() -> None:
    figure = figures.query_time(full_columns().query_time)
    assert figure.layout.barmode == "stack"
    assert sum(bar.y[0] for bar in figure.data) == pytest.approx(1.5)


def test_service_times_have_a_band_and_a_line_for_each_number_of_busy_workers() -> None:
    _, columns = samples()["profile"]
    band, line = figures.service_time(columns.service_time).data[:2]
    assert line.name == "1 worker busy"
    at_128 = line.x.index(128)
    assert (line.x[0], line.x[-1]) == (1, 1000)
    upper, lower = band.y[at_128], band.y[::-1][at_128]
    assert lower == pytest.approx(0.9 * line.y[at_128])
    assert upper == pytest.approx(1.3 * line.y[at_128])


def test_throughput_counts_all_busy_workers() -> None:
    _, columns = samples()["profile"]
    one, two, four = figures.throughput_by_batch(columns.service_time).data
    assert one.y[-1] == pytest.approx(1000 / columns.service_time[14].median_ms * 1e3)
    assert four.y[-1] > two.y[-1] > one.y[-1]
    assert four.name == "4 workers busy"
