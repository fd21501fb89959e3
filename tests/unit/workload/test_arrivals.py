"""Arrivals are a Poisson process: exponential gaps, not integers of milliseconds."""

import numpy as np
import pytest
from scipy import stats

from tailrank.core.errors import ConfigError
from tailrank.workload.arrivals import poisson_arrivals_ns


@pytest.mark.parametrize("qps", [0.5, 100.0, 25_000.0])
def test_gaps_have_mean_one_over_rate_and_cv_one(qps):
    """DeepRecSys draws Poisson integers of milliseconds, whose CV is 0.2 to 0.3."""
    count = 20_000
    gaps = np.diff(poisson_arrivals_ns(qps, count, seed=3), prepend=0) / 1e9
    # Mean and CV of n exponentials have standard errors of about 1/sqrt(n); allow five.
    margin = 5 / np.sqrt(count)
    assert gaps.mean() * qps == pytest.approx(1.0, abs=margin)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=margin)
    assert stats.kstest(gaps * qps, "expon").pvalue > 1e-4


def test_another_rate_is_the_same_traffic_scaled():
    slow, fast = (poisson_arrivals_ns(qps, 500, seed=9) for qps in (100.0, 400.0))
    np.testing.assert_allclose(slow, 4 * fast, atol=4)


def test_a_longer_schedule_begins_with_the_shorter():
    short, long = (poisson_arrivals_ns(100.0, count, seed=9) for count in (10, 1000))
    np.testing.assert_array_equal(short, long[:10])


def test_seeds_differ():
    assert (poisson_arrivals_ns(1.0, 9, seed=0) != poisson_arrivals_ns(1.0, 9, seed=1)).all()


@pytest.mark.parametrize(
    ("qps", "count"), [(0.0, 1), (-1.0, 1), (np.inf, 1), (np.nan, 1), (1.0, 0), (1e-9, 1000)]
)
def test_refuses(qps, count):
    with pytest.raises(ConfigError):
        poisson_arrivals_ns(qps, count, seed=0)
