"""The order is an order, any part of it can be had, and it looks drawn at random."""

import numpy as np
import pytest
from scipy.stats import chi2

from tailrank.core.errors import ConfigError
from tailrank.data.permutation import Permutation


@pytest.mark.parametrize("length", [*range(1, 70), 1000, 1023, 1024, 1025, 99_991])
def test_every_row_comes_once(length: int) -> None:
    row = Permutation(length, seed=length).range(0, length)
    assert row.dtype == np.int64
    assert np.array_equal(np.sort(row), np.arange(length))


def test_a_part_is_had_without_the_parts_before_it() -> None:
    order = Permutation(10_000, seed=3)
    whole = order.range(0, 10_000)
    assert np.array_equal(order.range(8_192, 9_000), whole[8_192:9_000])
    assert len(order.range(5, 5)) == 0
    assert np.array_equal(Permutation(10_000, seed=3).range(0, 10_000), whole)
    huge = Permutation(1 << 40, seed=3).range((1 << 40) - 1000, 1 << 40)
    assert len(np.unique(huge)) == 1000
    assert 0 <= huge.min() < huge.max() < 1 << 40


@pytest.mark.parametrize("length", [2, 5, 7, 17])
def test_over_seeds_every_row_is_equally_likely_everywhere(length: int) -> None:
    num_seeds = 2_000
    seen = np.zeros((length, length))
    for seed in range(num_seeds):
        seen[np.arange(length), Permutation(length, seed).range(0, length)] += 1
    expected = num_seeds / length
    # Rows and columns of the table both have fixed sums, hence the factor.
    statistic = ((seen - expected) ** 2 / expected).sum() * (length - 1) / length
    assert statistic < chi2.ppf(0.999, (length - 1) ** 2)


@pytest.mark.parametrize("seed", [0, 1, 2, 12_345])
def test_one_long_order_looks_random(seed: int) -> None:
    length = 100_000
    row = Permutation(length, seed).range(0, length)
    # Where a tenth of the positions lands, tenth by tenth.
    seen = np.histogram2d(np.arange(length), row, bins=10)[0]
    expected = length / 100
    assert ((seen - expected) ** 2 / expected).sum() < chi2.ppf(0.999, 81)
    # Neighbours are unrelated: steps from row to row, and what follows an ascent.
    steps = np.histogram((row[1:] - row[:-1]) % length, bins=50)[0]
    assert ((steps - length / 50) ** 2 / (length / 50)).sum() < chi2.ppf(0.999, 49)
    assert abs((row[1:] > row[:-1]).mean() - 0.5) < 4 * np.sqrt(1 / 12 / length)
    assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 4 / np.sqrt(length)
    # A random order has one fixed point on average.
    assert (row == np.arange(length)).sum() < 8


def test_seeds_differ() -> None:
    first, second = (Permutation(100_000, seed).range(0, 100_000) for seed in (0, 1))
    assert (first == second).sum() < 10
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(100_000)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="length"):
        Permutation(0, 1)
    with pytest.raises(ConfigError, match="seed"):
        Permutation(1, -1)
