"""Percentiles are order statistics; their intervals cover; nothing leaves the sample."""

import math

import numpy as np
import pytest
from scipy import stats

from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencyRecorder, LatencySummary, queries_needed


@pytest.mark.parametrize("percentile", [1.0, 50.0, 90.0, 95.0, 99.0, 99.9])
@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 5000])
def test_percentile_is_the_exact_order_statistic(percentile, count):
    values = np.random.default_rng(count).lognormal(10, 1, count)
    expected = np.percentile(values, percentile, method="inverted_cdf")
    assert LatencySummary.of(values).percentile(percentile).value == expected


def test_interval_covers_the_true_percentile():
    """95 % intervals of independent exponentials hold the true p95 in 95 % of 400 samples."""
    rng = np.random.default_rng(1)
    truth = -math.log(0.05)
    covered = 0
    for _ in range(400):
        estimate = LatencySummary.of(rng.standard_exponential(1000)).percentile(95.0)
        covered += estimate.low <= truth <= estimate.high
    assert covered >= stats.binom.ppf(1e-4, 400, 0.95)


def test_interval_covers_for_correlated_latencies():
    """A queue's latencies follow each other; the interval must be wider than for independent ones.

    AR(1) normals with correlation 0.9 have a known p95; an interval that takes them as independent
    covers it in about 40 % of samples.
    """
    rng = np.random.default_rng(2)
    truth = stats.norm.ppf(0.95)
    covered = 0
    for _ in range(200):
        noise = rng.standard_normal(6000) * math.sqrt(1 - 0.81)
        series = np.empty_like(noise)
        series[0] = rng.standard_normal()
        for position in range(1, len(noise)):
            series[position] = 0.9 * series[position - 1] + noise[position]
        estimate = LatencySummary.of(series + 100).percentile(95.0)
        covered += estimate.low <= truth + 100 <= estimate.high
    assert covered >= 0.85 * 200


def test_one_excursion_counts_as_one_however_flat_it_is():
    """The slowest 6 % are one plateau: they say little about the next run's p95."""
    values = np.random.default_rng(5).random(2000)
    scattered = values.copy()
    scattered[::16] = 50.0
    values[900:1020] = 50.0
    assert LatencySummary.of(values).percentile(95.0).high == math.inf
    assert LatencySummary.of(scattered).percentile(95.0).high == 50.0


def test_too_few_queries_leave_the_percentile_unbounded():
    needed = queries_needed(95.0)
    assert 0.95**needed <= 0.025 < 0.95 ** (needed - 1)
    few = LatencySummary.of(np.arange(1.0, needed)).percentile(95.0)
    assert few.high == math.inf
    assert math.isfinite(few.value)
    shuffled = np.random.default_rng(4).permutation(np.arange(1.0, 10 * needed))
    many = LatencySummary.of(shuffled).percentile(95.0)
    assert math.isfinite(many.high)


def test_unanswered_queries_stay_in_every_percentile():
    recorder = LatencyRecorder(100)
    for position in range(94):
        recorder.record(position, 1_000 + position)
    summary = recorder.summary()
    assert summary.num_unanswered == 6
    assert summary.percentile(95.0).value == math.inf
    assert summary.percentile(50.0).value == 1_049
    assert summary.mean_ns == summary.max_ns == math.inf


@pytest.mark.parametrize("percentile", [0.0, 100.0, 101.0, -1.0])
def test_percentile_out_of_range(percentile):
    with pytest.raises(ConfigError):
        LatencySummary.of(np.ones(10)).percentile(percentile)


def test_no_query_has_no_percentile():
    with pytest.raises(ConfigError):
        LatencySummary.of(np.empty(0)).percentile(50.0)


def test_the_fraction_above_a_limit_is_bounded_by_few_queries_far_inside_it():
    """Where the percentile has no upper bound, the SLA can still be decided."""
    fast = LatencySummary.of(np.full(100, 1e6))
    estimate = fast.fraction_above(10e6)
    assert estimate.value == 0.0
    assert estimate.low == pytest.approx(0.0, abs=1e-12)
    assert 0.03 < estimate.high < 0.04  # Wilson: z^2 / (n + z^2)


def test_a_limit_is_met_by_what_equals_it_and_missed_by_what_never_came():
    summary = LatencySummary.of(np.array([10.0] * 90 + [math.inf] * 10))
    assert summary.fraction_above(10.0).value == pytest.approx(0.1)


def test_the_interval_of_the_fraction_covers_the_truth():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        estimate = LatencySummary.of(rng.exponential(size=1000)).fraction_above(3.0)
        covered += estimate.low <= math.exp(-3.0) <= estimate.high
    assert 0.92 <= covered / 400 <= 0.99


def test_one_long_excursion_counts_as_one():
    latency = np.full(2000, 1.0)
    latency[500:600] = 50.0
    scattered = np.random.default_rng(0).permutation(latency)
    together = LatencySummary.of(latency).fraction_above(10.0)
    apart = LatencySummary.of(scattered).fraction_above(10.0)
    assert together.value == apart.value
    assert together.high - together.low > 4 * (apart.high - apart.low)
