"""Metrics against brute-force statements of their definitions."""

import math
from typing import get_args

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.metrics import BinaryMetrics, PairedMetric, paired_bootstrap


def brute_force_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
    return float(wins / (len(positive) * len(negative)))


@pytest.mark.parametrize("decimals", [1, 2, 16])
def test_streamed_metrics_equal_their_definitions(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    scores = np.round(rng.random(700), decimals)  # one decimal: ties everywhere, 0 and 1 occur
    labels = (rng.random(700) < 0.3 + 0.4 * scores).astype(np.float32)
    metrics = BinaryMetrics()
    for start in range(0, 700, 128):
        metrics.update(scores[start : start + 128], labels[start : start + 128, None])
    values = metrics.compute()

    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    loss = -sum(math.log(p if y else 1 - p) for p, y in zip(clipped, labels, strict=True)) / 700
    rate = labels.mean()
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert values.num_rows == 700
    assert values.auc == pytest.approx(brute_force_auc(scores, labels), abs=1e-12)
    assert values.logloss == pytest.approx(loss, rel=1e-9)
    assert values.normalised_entropy == pytest.approx(loss / entropy, rel=1e-6)
    assert values.calibration == pytest.approx(scores.mean() / rate, rel=1e-6)


def test_constant_rate_has_normalised_entropy_one_and_auc_half() -> None:
    metrics = BinaryMetrics()
    metrics.update(np.full(8, 0.25), [1, 0, 0, 0, 1, 0, 0, 0])
    values = metrics.compute()
    assert values.auc == 0.5
    assert values.normalised_entropy == pytest.approx(1.0)
    assert values.calibration == pytest.approx(1.0)


def test_one_class_has_no_auc() -> None:
    metrics = BinaryMetrics()
    metrics.update([0.2, 0.4], [0, 0])
    values = metrics.compute()
    assert math.isnan(values.auc)
    assert math.isnan(values.normalised_entropy)
    assert math.isnan(values.calibration)
    assert values.logloss == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


@pytest.mark.parametrize(
    ("scores", "labels", "place"),
    [
        ([0.1, math.nan], [0, 1], r"scores\[1\]"),
        ([1.5], [1], r"scores\[0\]"),
        ([0.5], [2], "labels"),
        ([0.5, 0.5], [1], "labels"),
    ],
)
def test_bad_rows_are_refused(scores: list[float], labels: list[int], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        BinaryMetrics().update(scores, labels)


def test_no_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_rows"):
        BinaryMetrics().compute()


def test_update_copies_what_it_is_given() -> None:
    metrics, buffer = BinaryMetrics(), np.array([0.9, 0.1])
    metrics.update(buffer, [1, 0])
    buffer[:] = [0.1, 0.9]
    assert metrics.compute().auc == 1.0


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
    assert told == list(range(1, 201))
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


def slow_ndcg(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over random orders of ties, exactly: every row's expected discount."""
    gained = 0.0
    for score in np.unique(scores):
        tied = scores == score
        ranks = (scores > score).sum() + np.arange(1, tied.sum() + 1)
        discounts = [1 / math.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks]
        gained += labels[tied].sum() * sum(discounts) / len(discounts)
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(10, int(labels.sum())) + 1))
    return gained / ideal


def slow_hit_rate(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of all sets of ten rows, best first and ties in any order, that hold a positive one."""
    missed = 1.0
    for score in np.unique(scores):
        tied, places = scores == score, 10 - int((scores > score).sum())
        count, positive = int(tied.sum()), int(labels[tied].sum())
        drawn = min(count, max(0, places))
        missed *= math.comb(count - positive, drawn) / math.comb(count, drawn)
    return 1.0 - missed


def grouped_rows(seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of 1 to 30 rows, scattered, some of one class."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(rng.permutation(400)[:60] - 100, rng.integers(1, 31, 60)))
    scores = np.round(rng.random(len(groups)), decimals)
    labels = (rng.random(len(groups)) < 0.2 + 0.5 * scores) & (groups % 7 != 0)
    return scores, labels | (groups % 5 == 0), groups


@pytest.mark.parametrize("decimals", [0, 1, 16])
def test_metrics_per_group_equal_their_definitions(decimals: int) -> None:
    scores, labels, groups = grouped_rows(decimals, decimals)
    metrics = BinaryMetrics()
    for start in range(0, len(scores), 97):  # groups are cut by updates
        stop = start + 97
        metrics.update(scores[start:stop], labels[start:stop], groups[start:stop])
    aucs, ndcgs, hits, rows = [], [], [], []
    for group in np.unique(groups):
        score, label = scores[groups == group], labels[groups == group].astype(int)
        both = 0 < label.sum() < len(label)
        aucs.append(brute_force_auc(score, label) if both else math.nan)
        ndcgs.append(slow_ndcg(score, label) if label.any() else math.nan)
        hits.append(slow_hit_rate(score, label) if label.any() else math.nan)
        rows.append(len(label))
    assert 1 in rows
    assert np.isnan(aucs).sum() > np.isnan(ndcgs).sum() > 0

    found = metrics.per_group()
    assert found is not None
    assert found.group_G.tolist() == np.unique(groups).tolist()
    assert found.num_rows_G.tolist() == rows
    assert found.auc_G == pytest.approx(np.array(aucs), abs=1e-12, nan_ok=True)
    assert found.ndcg_at_10_G == pytest.approx(np.array(ndcgs), abs=1e-12, nan_ok=True)
    assert found.hit_rate_at_10_G == pytest.approx(np.array(hits), abs=1e-12, nan_ok=True)
    known = ~np.isnan(aucs)
    values = metrics.compute()
    weighted = np.average(np.array(aucs)[known], weights=np.array(rows)[known])
    assert values.grouped_auc == pytest.approx(weighted, abs=1e-12)
    assert values.ndcg_at_10 == pytest.approx(np.nanmean(ndcgs), abs=1e-12)
    assert values.hit_rate_at_10 == pytest.approx(np.nanmean(hits), abs=1e-12)


def test_ndcg_of_ties_is_the_mean_over_their_orders() -> None:
    rng = np.random.default_rng(0)
    labels, groups = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], [9] * 12
    tied, drawn = BinaryMetrics(), []
    tied.update([0.5] * 12, labels, groups)
    for _ in range(4000):
        one = BinaryMetrics()
        one.update(rng.permutation(12) / 12, labels, groups)
        drawn.append(one.compute().ndcg_at_10)
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert tied.compute().ndcg_at_10 == pytest.approx(np.mean(drawn), abs=4 * error)


def test_hit_rate_of_ties_is_the_mean_over_their_orders() -> None:
    rng = np.random.default_rng(4)
    scores, labels = np.r_[np.full(4, 0.9), np.full(20, 0.5)], np.r_[np.zeros(18), np.ones(6)]
    tied, drawn = BinaryMetrics(), []
    tied.update(scores, labels, [9] * 24)
    for _ in range(2000):
        best = np.lexsort((rng.random(24), -scores))[:10]
        drawn.append(labels[best].any())
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert tied.compute().hit_rate_at_10 == pytest.approx(np.mean(drawn), abs=4 * error)


def test_groups_of_one_class_have_no_grouped_auc_and_no_groups_no_metric() -> None:
    metrics = BinaryMetrics()
    metrics.update([0.2, 0.4, 0.6], [0, 0, 1], [1, 1, 2])
    values = metrics.compute()
    assert math.isnan(values.grouped_auc)
    assert values.ndcg_at_10 == values.hit_rate_at_10 == 1.0
    alone = BinaryMetrics()
    alone.update([0.2, 0.4], [0, 1])
    assert alone.per_group() is None
    assert math.isnan(alone.compute().ndcg_at_10)
    assert math.isnan(alone.compute().hit_rate_at_10)


@pytest.mark.parametrize("order", [(None, [1]), ([1], None)])
def test_groups_come_with_every_update_or_with_none(order: tuple) -> None:
    metrics = BinaryMetrics()
    metrics.update([0.5], [1], order[0])
    with pytest.raises(ConfigError, match="groups"):
        metrics.update([0.5], [1], order[1])
    with pytest.raises(ConfigError, match="groups"):
        BinaryMetrics().update([0.5, 0.2], [1, 0], [1])


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
