"""The paired bootstrap against resampling rows and groups one draw at a time."""

import math
from typing import get_args

import numpy as np
import pytest
from tests.unit.metrics.test_binary_metrics import brute_force_auc

from tailrank.core.errors import ConfigError
from tailrank.metrics import (
    BinaryMetrics,
    PairedMetric,
    bootstrap,
    paired_bootstrap,
    paired_bootstraps,
    per_group,
    ranking,
)


def bootstrap_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    truth = rng.random(1500)
    labels = rng.random(1500) < truth
    return truth + rng.normal(0, 0.1, 1500), truth + rng.normal(0, 0.6, 1500), labels


def test_paired_bootstrap_equals_resampling_by_brute_force() -> None:
    good, poor, labels = (rows[:60] for rows in bootstrap_rows())
    told: list[int] = []
    difference, low, high = paired_bootstrap(
        good, poor, labels, num_resamples=200, seed=5, progress=told.append
    )
    rng, drawn = np.random.default_rng(5), []
    for _ in range(200):
        rows = rng.integers(60, size=60)
        drawn.append(
            brute_force_auc(good[rows], labels[rows]) - brute_force_auc(poor[rows], labels[rows])
        )
    assert told == [32, 64, 96, 128, 160, 192, 200]
    assert difference == pytest.approx(
        brute_force_auc(good, labels) - brute_force_auc(poor, labels)
    )
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))


def test_paired_bootstrap_sees_a_better_model_and_no_difference_from_itself() -> None:
    good, poor, labels = bootstrap_rows()
    difference, low, high = paired_bootstrap(good, poor, labels, num_resamples=200)
    assert 0.0 < low < difference < high
    assert paired_bootstrap(good, good, labels, num_resamples=20) == (0.0, 0.0, 0.0)


def test_paired_bootstrap_averages_the_aucs_of_several_runs() -> None:
    good, poor, labels = bootstrap_rows()
    single = [paired_bootstrap(run, poor, labels, num_resamples=9)[0] for run in (good, poor)]
    both = paired_bootstrap(np.stack([good, poor]), poor, labels, num_resamples=50)
    assert both[0] == pytest.approx(sum(single) / 2)
    assert both[1] < both[0] < both[2]


def test_paired_bootstrap_needs_both_classes_and_equal_rows() -> None:
    with pytest.raises(ConfigError, match="both classes"):
        paired_bootstrap([0.1, 0.2], [0.2, 0.1], [1, 1])
    with pytest.raises(ConfigError, match="rows each"):
        paired_bootstrap([0.1, 0.2], [0.2], [1, 0])


def test_rows_of_one_class_have_a_logloss_to_compare_and_an_ndcg() -> None:
    rows = ([0.2, 0.4, 0.2], [0.1, 0.3, 0.2], [1, 1, 1], [0, 0, 1])
    found, low, high = paired_bootstrap(*rows, metric="logloss", num_resamples=100)
    assert found == pytest.approx((math.log(0.1 / 0.2) + math.log(0.3 / 0.4)) / 3)
    assert low < found < high <= 0.0
    assert paired_bootstrap(*rows, metric="ndcg_at_10", num_resamples=20) == (0.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match="both classes, for grouped_auc"):
        paired_bootstrap(*rows, metric="grouped_auc")


@pytest.mark.parametrize("metric", get_args(PairedMetric))
def test_cluster_bootstrap_equals_resampling_groups_by_brute_force(metric: str) -> None:
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(12), rng.integers(2, 15, 12))
    labels = rng.random(len(groups)) < 0.4
    good, poor = (np.round(labels + rng.normal(0, s, len(groups)), 1) for s in (0.5, 2.0))
    squashed = [1 / (1 + np.exp(-s)) for s in (good, poor)]
    found = paired_bootstrap(
        *squashed, labels, groups * 3 - 4, metric=metric, num_resamples=50, seed=2
    )

    def value(scores: np.ndarray, chosen: np.ndarray) -> float:
        metrics = BinaryMetrics()
        for copy, group in enumerate(chosen):  # a group that is drawn twice stays two groups
            here = groups == group
            metrics.update(scores[here], labels[here], np.full(here.sum(), copy))
        return getattr(metrics.compute(), metric)

    draws, drawn = np.random.default_rng(2), []
    for _ in range(50):
        chosen = draws.integers(12, size=12)
        drawn.append(value(squashed[0], chosen) - value(squashed[1], chosen))
    whole = value(squashed[0], np.arange(12)) - value(squashed[1], np.arange(12))
    assert found == pytest.approx((whole, *np.percentile(drawn, [2.5, 97.5])))


def weighted_value(metric: str, rows: tuple[np.ndarray, ...], weight_G: np.ndarray) -> float:
    """A metric of rows whose groups count as often as their weight says, draw by draw."""
    scores, labels, groups = rows
    weights = weight_G[groups]
    if metric == "logloss":
        clipped = np.clip(scores, 1e-7, 1 - 1e-7)
        losses = -np.log(np.where(labels, clipped, 1 - clipped))
        return float((losses * weights).sum() / weights.sum())
    if metric == "auc":  # every pair of rows, which ties share
        above = (scores[labels][:, None] > scores[~labels]) + 0.5 * (
            scores[labels][:, None] == scores[~labels]
        )
        pairs = np.outer(weights[labels], weights[~labels])
        return float((above * pairs).sum() / pairs.sum()) if pairs.sum() else math.nan
    each = per_group(scores, labels, groups)
    value_G = getattr(each, metric + "_G" if metric != "grouped_auc" else "auc_G")
    counted = weight_G * (each.num_rows_G if metric == "grouped_auc" else 1)
    known = ~np.isnan(value_G)
    total = counted[known].sum()
    return float((value_G[known] * counted[known]).sum() / total) if total else math.nan


@pytest.mark.parametrize(
    ("metric", "grouped"),
    [*((m, True) for m in get_args(PairedMetric)), ("auc", False), ("logloss", False)],
)
@pytest.mark.parametrize("decimals", [1, 16])
def test_draws_in_blocks_equal_draws_one_by_one(
    metric: PairedMetric, grouped: bool, decimals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks that end in the middle of the draws, and of the sorted rows.
    monkeypatch.setattr(bootstrap, "_BLOCK_WEIGHTS", 7 * (23 if grouped else 150) + 1)
    monkeypatch.setattr(ranking, "_BLOCK_STRETCHES", 5)
    rng = np.random.default_rng(decimals)
    good, poor = np.round(rng.random((2, 150)), decimals)
    labels = rng.random(150) < good
    groups = np.r_[np.arange(23), rng.integers(23, size=127)] if grouped else np.arange(150)
    labels &= groups != 4  # one of a single class
    told: list[int] = []
    given = groups if grouped else None
    found = paired_bootstrap(
        good, poor, labels, given, metric=metric, num_resamples=40, seed=9, progress=told.append
    )
    draws, count, drawn = np.random.default_rng(9), int(groups.max()) + 1, []
    for _ in range(40):
        weight_G = np.bincount(draws.integers(count, size=count), minlength=count)
        mine, other = (weighted_value(metric, (s, labels, groups), weight_G) for s in (good, poor))
        drawn.append(mine - other)
    whole = [weighted_value(metric, (s, labels, groups), np.ones(count)) for s in (good, poor)]
    wanted = (whole[0] - whole[1], *np.percentile(drawn, [2.5, 97.5]))
    assert found == pytest.approx(wanted, rel=1e-12, abs=1e-14)
    assert told == [7, 14, 21, 28, 35, 40]


def test_metrics_together_are_those_of_one_at_a_time() -> None:
    rng = np.random.default_rng(4)
    good, poor = np.round(rng.random((2, 120)), 1)
    labels, groups = rng.random(120) < good, rng.integers(15, size=120)
    told: list[int] = []
    metrics = get_args(PairedMetric)
    together = paired_bootstraps(
        good, poor, labels, groups, metrics=metrics, num_resamples=50, progress=told.append
    )
    for metric, found in zip(metrics, together, strict=True):
        assert found == paired_bootstrap(
            good, poor, labels, groups, metric=metric, num_resamples=50
        )
    assert told == [32, 50]  # a draw is one of all metrics, so that none takes longer than others
    with pytest.raises(ConfigError, match="groups"):
        paired_bootstraps(good, poor, labels, metrics=["auc", "grouped_auc"])


def test_draws_without_both_classes_are_left_out() -> None:
    scores, others, labels = [0.1, 0.2, 0.9], [0.2, 0.1, 0.1], [0, 0, 1]
    drawn, rng = [], np.random.default_rng(0)
    for _ in range(64):
        rows = rng.integers(3, size=3)
        if 0 < sum(labels[row] for row in rows) < 3:
            lost = [0.5 if others[row] == 0.1 else 1.0 for row in rows if not labels[row]]
            drawn.append(sum(lost) / len(lost))
    low, high = paired_bootstrap(scores, others, labels, num_resamples=64)[1:]
    assert 10 < len(drawn) < 64
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))


def test_cluster_bootstrap_is_wider_where_rows_of_a_group_agree() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 25)
    taste = np.repeat(rng.random(40), 25)
    labels = rng.random(1000) < taste
    good, poor = taste, np.repeat(rng.random(40), 25)
    _, low, high = paired_bootstrap(good, poor, labels, groups, num_resamples=200)
    _, row_low, row_high = paired_bootstrap(good, poor, labels, num_resamples=200)
    assert high - low > 1.5 * (row_high - row_low)


def test_metrics_per_group_need_groups_and_a_known_name() -> None:
    with pytest.raises(ConfigError, match="groups"):
        paired_bootstrap([0.1, 0.2], [0.2, 0.1], [1, 0], metric="grouped_auc")
    with pytest.raises(ConfigError, match="as many as rows"):
        paired_bootstrap([0.1, 0.2], [0.2, 0.1], [1, 0], [1])
    with pytest.raises(ConfigError, match="metric"):
        paired_bootstrap([0.1, 0.2], [0.2, 0.1], [1, 0], [1, 1], metric="accuracy")
