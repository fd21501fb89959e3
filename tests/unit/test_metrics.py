"""Metrics against brute-force statements of their definitions."""

import math

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.metrics import BinaryMetrics, paired_bootstrap_auc


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
    difference, low, high = paired_bootstrap_auc(good, poor, labels, num_resamples=200, seed=5)
    rng, drawn = np.random.default_rng(5), []
    for _ in range(200):
        rows = rng.integers(60, size=60)
        drawn.append(
            brute_force_auc(good[rows], labels[rows]) - brute_force_auc(poor[rows], labels[rows])
        )
    assert difference == pytest.approx(
        brute_force_auc(good, labels) - brute_force_auc(poor, labels)
    )
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))


def test_paired_bootstrap_sees_a_better_model_and_no_difference_from_itself() -> None:
    good, poor, labels = bootstrap_rows()
    difference, low, high = paired_bootstrap_auc(good, poor, labels, num_resamples=200)
    assert 0.0 < low < difference < high
    assert paired_bootstrap_auc(good, good, labels, num_resamples=20) == (0.0, 0.0, 0.0)


def test_paired_bootstrap_averages_the_aucs_of_several_runs() -> None:
    good, poor, labels = bootstrap_rows()
    single = [paired_bootstrap_auc(run, poor, labels, num_resamples=9)[0] for run in (good, poor)]
    both = paired_bootstrap_auc(np.stack([good, poor]), poor, labels, num_resamples=50)
    assert both[0] == pytest.approx(sum(single) / 2)
    assert both[1] < both[0] < both[2]


def test_paired_bootstrap_needs_both_classes_and_equal_rows() -> None:
    with pytest.raises(ConfigError, match="both classes"):
        paired_bootstrap_auc([0.1, 0.2], [0.2, 0.1], [1, 1])
    with pytest.raises(ConfigError, match="rows each"):
        paired_bootstrap_auc([0.1, 0.2], [0.2], [1, 0])
