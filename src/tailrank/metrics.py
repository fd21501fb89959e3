"""How well scores rank and predict binary labels: streaming, NumPy only.

Knows no model and no data set. A score is a predicted probability of label 1. Scores are kept
(9 bytes a row), because an exact AUC needs all of them at once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailrank.core.errors import ConfigError

PROBABILITY_MIN = 1e-7
"""Probabilities are clipped to [1e-7, 1 - 1e-7] in the logloss; one sure miss costs 16.1 nats."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValues:
    """Metrics of one set of rows.

    Args:
        num_rows: rows scored.
        auc: area under the ROC curve, ties count half; NaN where only one class occurs.
        logloss: mean cross entropy in nats, probabilities clipped at `PROBABILITY_MIN`.
        normalised_entropy: logloss over that of always predicting the observed rate; below 1 is
            better than knowing the rate; NaN where only one class occurs.
            Source: He et al., Practical Lessons from Predicting Clicks on Ads, ADKDD 2014, 3.
        calibration: mean predicted over mean observed rate; NaN without a positive row.
    """

    num_rows: int
    auc: float
    logloss: float
    normalised_entropy: float
    calibration: float

    def to_dict(self) -> dict[str, float]:
        """The values by name."""
        return asdict(self)


class BinaryMetrics:
    """Collects scores and labels batch by batch."""

    def __init__(self) -> None:
        self._scores: list[Floats] = []
        self._labels: list[NDArray[np.bool_]] = []
        self._groups: list[NDArray[np.int64]] = []

    def update(self, scores: ArrayLike, labels: ArrayLike, groups: ArrayLike | None = None) -> None:
        """Add rows.

        Args:
            scores: predicted probabilities, any shape, each in [0, 1].
            labels: 0 or 1, as many.
            groups: the user or query of each row, for metrics per group; all updates bring them,
                or none does.

        Raises:
            ConfigError: sizes differ, a score is NaN or outside [0, 1], or a label is neither.
        """
        score = np.array(scores, dtype=np.float64).reshape(-1)
        label = np.asarray(labels).reshape(-1)
        if score.shape != label.shape:
            raise ConfigError("labels", label.shape, f"as many as scores, {score.shape}")
        outside = ~((score >= 0.0) & (score <= 1.0))
        if outside.any():
            place = int(np.flatnonzero(outside)[0])
            raise ConfigError(f"scores[{place}]", float(score[place]), "a probability, not NaN")
        positive = label == 1
        if not (positive | (label == 0)).all():
            raise ConfigError("labels", np.unique(label)[:4].tolist(), "0 and 1")
        if (groups is not None) != (len(self._groups) == len(self._scores)) and self._scores:
            raise ConfigError("groups", "some", "groups in all updates, or in none")
        if groups is not None:
            group = np.asarray(groups, dtype=np.int64).reshape(-1)
            if group.shape != score.shape:
                raise ConfigError("groups", group.shape, f"as many as scores, {score.shape}")
            self._groups.append(group)
        self._scores.append(score)
        self._labels.append(positive)

    @property
    def scores(self) -> Floats:
        """All scores so far, in order."""
        return np.concatenate(self._scores) if self._scores else np.empty(0)

    @property
    def labels(self) -> NDArray[np.bool_]:
        """All labels so far, in order."""
        return np.concatenate(self._labels) if self._labels else np.empty(0, dtype=np.bool_)

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Groups of all rows so far, in order; None where there are none."""
        return np.concatenate(self._groups) if self._groups else None

    def compute(self) -> MetricValues:
        """Metrics of everything so far.

        Raises:
            ConfigError: there is no row.
        """
        scores, labels = self.scores, self.labels
        if not len(scores):
            raise ConfigError("num_rows", 0, "at least one row")
        rate, loss = float(labels.mean()), logloss(scores, labels)
        entropy = 0.0
        if 0.0 < rate < 1.0:
            entropy = -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)
        return MetricValues(
            num_rows=len(scores),
            auc=auc(scores, labels),
            logloss=loss,
            normalised_entropy=loss / entropy if entropy else math.nan,
            calibration=float(scores.mean()) / rate if rate else math.nan,
        )


def logloss(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Mean cross entropy in nats, probabilities clipped at `PROBABILITY_MIN`."""
    clipped = np.clip(scores, PROBABILITY_MIN, 1.0 - PROBABILITY_MIN)
    return float(-np.mean(np.where(labels, np.log(clipped), np.log1p(-clipped))))


def auc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Probability that a positive row scores above a negative one, ties counting half."""
    return _RankedRows(scores, labels).auc(np.ones(len(scores)))


def paired_bootstrap_auc(
    scores: ArrayLike,
    other_scores: ArrayLike,
    labels: ArrayLike,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """AUC of `scores` minus AUC of `other_scores` on the same rows, with an interval.

    Rows are resampled with replacement, the same ones for both models, so the luck of the draw
    that both share cancels. The interval is that of percentiles.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 13.3.

    Args:
        scores: one score per row; or one line per run of a model trained from several seeds,
            whose AUC is then the mean over its runs.
        other_scores: likewise, of the model to compare with.
        labels: 0 or 1 per row.
        num_resamples: draws of as many rows as there are.
        seed: of the draws.
        confidence: of the interval.

    Returns:
        (difference, low, high).

    Raises:
        ConfigError: the three differ in length, or only one class occurs.
    """
    positive = np.asarray(labels).reshape(-1) == 1
    both = [np.atleast_2d(np.asarray(s, dtype=np.float64)) for s in (scores, other_scores)]
    if any(runs.shape[1] != len(positive) for runs in both):
        raise ConfigError("scores", [runs.shape for runs in both], f"{len(positive)} rows each")
    if positive.all() or not positive.any():
        raise ConfigError("labels", "one class", "both classes")
    first, second = ([_RankedRows(run, positive) for run in runs] for runs in both)

    def difference(weights: Floats) -> float:
        mine, other = ([run.auc(weights) for run in runs] for runs in (first, second))
        return sum(mine) / len(mine) - sum(other) / len(other)

    rng, count = np.random.default_rng(seed), len(positive)
    differences = np.empty(num_resamples)
    for draw in range(num_resamples):
        weights = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        differences[draw] = difference(weights)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.nanpercentile(differences, [tail, 100.0 - tail])
    return difference(np.ones(count)), float(low), float(high)


class _RankedRows:
    """Rows sorted by score once, to weigh them differently many times."""

    def __init__(self, scores: Floats, labels: NDArray[np.bool_]) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._positive = labels[self._order]
        self._tie_starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])

    def auc(self, weights: Floats) -> float:
        """Weighted AUC; NaN where a class has no weight."""
        ordered = weights[self._order]
        positive = np.add.reduceat(np.where(self._positive, ordered, 0.0), self._tie_starts)
        negative = np.add.reduceat(np.where(self._positive, 0.0, ordered), self._tie_starts)
        pairs = positive.sum() * negative.sum()
        if pairs == 0.0:
            return math.nan
        below = np.cumsum(negative) - 0.5 * negative
        return float(positive @ below / pairs)
