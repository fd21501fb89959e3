"""Index traces have the locality that was asked for, by an independent measure of it."""

from pathlib import Path

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.workload.index_traces import parse_index_trace
from tailrank.workload.locality import ReuseHistogram, lru_hit_fractions

SPECS = ["uniform", "zipf:0", "zipf:1", "zipf:1.2", "stack:8=0.2,64=0.6"]


@pytest.mark.parametrize("spec", SPECS)
def test_ids_are_rows_of_the_table_and_repeat_by_seed(spec: str) -> None:
    trace = parse_index_trace(spec)
    ids, again, other = (trace.draw(3000, 100, seed) for seed in (1, 1, 2))
    assert ids.dtype == np.int64
    assert (ids >= 0).all()
    assert ids.max() < 100
    np.testing.assert_array_equal(ids, again)
    assert (ids != other).any()
    assert len(trace.draw(0, 100, 1)) == 0


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 1.3])
def test_zipf_has_its_frequencies(alpha: float) -> None:
    """Chi-squared over 50 rows, most popular first."""
    rows, count = 50, 100_000
    ids = parse_index_trace(f"zipf:{alpha}").draw(count, rows, seed=3)
    seen = np.sort(np.bincount(ids, minlength=rows))[::-1]
    expected = np.arange(1, rows + 1) ** -alpha
    expected *= count / expected.sum()
    # 49 degrees of freedom: mean 49, standard deviation 10. Sorting what was seen lowers it where
    # neighbours are alike, so that a sorted uniform draw may be higher: six deviations.
    assert ((seen - expected) ** 2 / expected).sum() < 49 + 6 * 10


def test_popular_rows_lie_anywhere_and_stay_where_they_are() -> None:
    trace = parse_index_trace("zipf:1.2")
    hottest = [
        np.bincount(trace.draw(5000, 1000, seed, table_seed=table), minlength=1000).argmax()
        for seed, table in ((1, 7), (2, 7), (1, 8))
    ]
    assert hottest[0] == hottest[1] != hottest[2]


def test_a_stack_has_the_hits_that_it_names_and_the_logarithm_between() -> None:
    ids = parse_index_trace("stack:16=0.3,1024=0.75").draw(60_000, 20_000, seed=5)
    # Past the first reads of the 1024 rows that the stack begins with.
    hits = lru_hit_fractions(ids, [16, 128, 1024])
    np.testing.assert_allclose(hits, [0.3, 0.525, 0.75], atol=0.02)


def test_stacks_and_histograms_that_no_table_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer rows than the table, which has 64"):
        parse_index_trace("stack:8=0.2,64=0.6").draw(10, 64, seed=0)


@pytest.mark.parametrize("name", ["fb_2021_locality_stats.txt", "fb_2022_locality_stats.txt"])
def test_reuse_is_that_of_the_measured_trace(shared_data: Path, name: str) -> None:
    file = shared_data / "traces" / name
    if not file.exists():
        pytest.skip(f"no {file}: set TAILRANK_DATA to the folder that holds it")
    measured = ReuseHistogram.read(file)
    # As many ids as each of its 856 (788) tables had, 0.9 and 1.8 million, would take seconds; the
    # classes of the most frequent rows need their number, so those are left out here.
    ids = parse_index_trace(f"reuse:{file}").draw(300_000, 1_000_000, seed=1)
    drawn = ReuseHistogram.of(ids)
    np.testing.assert_allclose(drawn.row_share, measured.row_share, atol=0.01)
    np.testing.assert_allclose(drawn.id_share[:11], measured.id_share[:11], atol=0.012)
    assert drawn.mean_count == pytest.approx(measured.mean_count, rel=0.05)
    with pytest.raises(ConfigError, match="different rows, which the table has"):
        parse_index_trace(f"reuse:{file}").draw(300_000, 1000, seed=1)


@pytest.mark.parametrize(
    "spec",
    ["unifrom", "uniform:1", "zipf", "zipf:", "zipf:-1", "zipf:nan", "zipf:9", "stack", "stack:8",
     "stack:8=2", "stack:8=0.5,4=0.6", "stack:8=0.5,9=0.4", "stack:1=0.5", "stack:x=0.5"],
)  # fmt: skip
def test_refuses(spec: str) -> None:
    with pytest.raises(ConfigError, match="--ids"):
        parse_index_trace(spec)
