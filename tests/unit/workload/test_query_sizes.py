"""Query sizes match the published means and percentiles."""

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.workload.query_sizes import parse_query_sizes

PERCENTILES = (5, 50, 75, 95, 99)
PUBLISHED = {
    # spec: mean, percentiles, share of all items that the largest quarter of the queries brings
    "normal:165,16": (165, (138, 165, 175, 191, 202), 0.28),
    "lognormal:5.1,0.2": (167, (117, 164, 187, 227, 261), 0.32),
    "production": (239, (62, 177, 240, 600, 919), 0.52),
    "mlperf": (270, (100, 200, 300, 650, 700), 0.46),
}


@pytest.mark.parametrize("spec", PUBLISHED)
def test_published_figures(spec):
    mean, percentiles, largest_share = PUBLISHED[spec]
    sizes = np.sort(parse_query_sizes(spec).draw(200_000, seed=5))
    assert sizes.mean() == pytest.approx(mean, rel=0.01)
    tolerance = 0.09 if spec == "mlperf" else 0.03  # p95 of 20 quantiles lies between two of them
    np.testing.assert_allclose(np.percentile(sizes, PERCENTILES), percentiles, rtol=tolerance)
    assert sizes[150_000:].sum() / sizes.sum() == pytest.approx(largest_share, abs=0.015)


@pytest.mark.parametrize(
    "spec", [*PUBLISHED, "fixed:1", "fixed:128", "normal:2,2", "lognormal:0,3"]
)
def test_sizes_are_whole_positive_and_bounded(spec):
    distribution = parse_query_sizes(spec)
    sizes = distribution.draw(20_000, seed=1)
    assert sizes.dtype == np.int64
    assert sizes.min() >= 1
    if distribution.items_max is not None:
        assert sizes.max() <= distribution.items_max


def test_sizes_are_not_recycled():
    """DeepRecSys draws 32 sizes and repeats them."""
    assert len(np.unique(parse_query_sizes("production").draw(5000, seed=0))) > 400


@pytest.mark.parametrize("spec", PUBLISHED)
def test_a_longer_draw_begins_with_the_shorter(spec):
    distribution = parse_query_sizes(spec)
    np.testing.assert_array_equal(distribution.draw(7, seed=2), distribution.draw(900, seed=2)[:7])


@pytest.mark.parametrize(
    "spec",
    [
        "fixed",
        "fixed:",
        "fixed:0",
        "fixed:1.5",
        "fixed:x",
        "fixed:1,2",
        "normal:1",
        "normal:100,-1",
        "normal:nan,1",
        "normal:10,inf",
        "lognormal:99,1",
        "lognormal:5",
        "production:1",
        "mlperf:2",
        "uniform:1,2",
    ],
)
def test_refuses(spec):
    with pytest.raises(ConfigError, match="sizes"):
        parse_query_sizes(spec)
