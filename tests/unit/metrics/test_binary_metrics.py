"""Metrics against brute-force statements of their definitions."""

import math

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.metrics import BinaryMetrics


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
