"""Bursts and days: the mean rate that was asked for, and the variance that theory gives."""

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.workload.arrivals import parse_arrivals

QPS = 1000.0
FACTOR, SHARE, LENGTH_S = 5.0, 0.2, 0.1
BURSTS = f"mmpp:{FACTOR:g},{SHARE:g},{LENGTH_S:g}s"


def dispersion(window_s: float) -> float:
    """Variance over mean of the queries in a window of an MMPP with two states.

    Source: Fischer and Meier-Hellstern, The MMPP cookbook (1993), section 2.
    """
    calm = QPS / (1.0 + SHARE * (FACTOR - 1.0))
    leave_burst, leave_calm = 1.0 / LENGTH_S, SHARE / (LENGTH_S * (1.0 - SHARE))
    rate = leave_burst + leave_calm
    swing = (FACTOR - 1.0) ** 2 * calm**2 * leave_burst * leave_calm / rate**2
    return 1.0 + 2.0 * swing / (QPS * rate) * (
        1.0 - (1.0 - np.exp(-rate * window_s)) / (rate * window_s)
    )


@pytest.fixture(scope="module")
def burst_times_s() -> np.ndarray:
    return parse_arrivals(BURSTS).draw_ns(QPS, 1_000_000, seed=4) / 1e9


def test_bursts_keep_the_mean_rate(burst_times_s) -> None:
    # 1000 s hold 2000 bursts; their lengths scatter the mean by 1 % or so (square root of the
    # dispersion 47 over 1e6 queries: 0.7 %); allow four times that.
    assert len(burst_times_s) / burst_times_s[-1] == pytest.approx(QPS, rel=0.028)


@pytest.mark.parametrize("window_s", [0.01, 0.1, 1.0])
def test_bursts_have_the_index_of_dispersion_of_theory(burst_times_s, window_s: float) -> None:
    counts = np.bincount((burst_times_s / window_s).astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(dispersion(window_s), rel=0.15)


def test_bursts_of_factor_one_are_poisson_arrivals() -> None:
    plain = parse_arrivals("poisson").draw_ns(QPS, 1000, seed=4)
    np.testing.assert_allclose(
        parse_arrivals("mmpp:1,0.3,1s").draw_ns(QPS, 1000, seed=4), plain, atol=1
    )


def test_bursts_stay_where_they_are_at_another_rate() -> None:
    """More queries, the same bursts: at 1 in 10 windows of both rates the same ones are crowded."""
    crowded = []
    for qps in (2000.0, 20_000.0):
        times_s = parse_arrivals("mmpp:50,0.1,500ms").draw_ns(qps, round(20 * qps), seed=1) / 1e9
        counts = np.bincount((times_s / 0.1).astype(int), minlength=150)[:150]
        crowded.append(counts > 2 * counts.mean())
    assert 0.02 < crowded[0].mean() < 0.5
    assert (crowded[0] == crowded[1]).mean() > 0.97


@pytest.mark.parametrize("spec", ["diurnal:2s,0.8", "diurnal:2s,1", "diurnal:2s,1,3,0.5,2"])
def test_a_day_has_the_mean_rate_over_each_period(spec: str) -> None:
    times_s = parse_arrivals(spec).draw_ns(25_000.0, 250_000, seed=2) / 1e9
    per_day = np.bincount((times_s / 2.0).astype(int))[:-1]
    # Poisson counts of mean 50,000: standard deviation 224, allow five.
    np.testing.assert_allclose(per_day, 50_000, atol=5 * 224)


def test_a_day_follows_its_curve() -> None:
    times_s = parse_arrivals("diurnal:2s,1,3,0.5,2").draw_ns(25_000.0, 250_000, seed=2) / 1e9
    quarters = np.bincount((times_s % 2.0 / 0.5).astype(int), weights=times_s < 8.0)
    np.testing.assert_allclose(quarters / quarters.sum() * 6.5, [1, 3, 0.5, 2], rtol=0.02)
    sine = parse_arrivals("diurnal:2s,0.8").draw_ns(25_000.0, 250_000, seed=2) / 1e9
    halves = np.bincount((sine % 2.0).astype(int), weights=sine < 8.0)
    # Mean of a sine over its upper half: 2/pi of the amplitude.
    assert halves[0] / halves.sum() == pytest.approx(0.5 + 0.8 / np.pi, rel=0.01)


@pytest.mark.parametrize("spec", [BURSTS, "diurnal:3s,0.5", "legacy-deeprecsys"])
def test_a_longer_schedule_begins_with_the_shorter(spec: str) -> None:
    short, long = (parse_arrivals(spec).draw_ns(QPS, count, seed=9) for count in (10, 20_000))
    np.testing.assert_array_equal(short, long[:10])
    assert (np.diff(long) >= 0).all()


def test_legacy_gaps_are_whole_milliseconds_that_vary_too_little() -> None:
    """Here to be compared with: Poisson integers of mean 20 have a CV of 1/sqrt(20), not 1."""
    process = parse_arrivals("legacy-deeprecsys")
    gaps_ns = np.diff(process.draw_ns(50.0, 20_000, seed=3))
    assert (gaps_ns % 1_000_000 == 0).all()
    assert gaps_ns.mean() == pytest.approx(20e6, rel=0.01)
    assert gaps_ns.std() / gaps_ns.mean() == pytest.approx(20**-0.5, rel=0.03)
    assert "legacy" in process.note


@pytest.mark.parametrize(
    "spec",
    ["poison", "poisson:1", "mmpp", "mmpp:5,0.1", "mmpp:5,0.1,2", "mmpp:0.5,0.1,2s", "mmpp:5,1,2s",
     "mmpp:nan,0.1,2s", "mmpp:5,0.1,2s,3", "mmpp:5,0.1,0s", "diurnal", "diurnal:60s",
     "diurnal:0s,0.5", "diurnal:60s,1.5", "diurnal:60s,-0.1", "diurnal:60s,nan",
     "diurnal:60s,1,0", "diurnal:60,0.5"],
)  # fmt: skip
def test_refuses(spec: str) -> None:
    with pytest.raises(ConfigError, match="arrivals"):
        parse_arrivals(spec)


def test_millions_of_bursts_are_refused() -> None:
    with pytest.raises(ConfigError, match="bursts in a schedule"):
        parse_arrivals("mmpp:5,0.1,1ns").draw_ns(1.0, 1000, seed=0)
