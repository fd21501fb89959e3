"""Collects scores and labels batch by batch: streaming, without torch.

Knows no model and no data set. A score is a predicted probability of label 1. Scores are kept
(9 bytes a row, 17 with groups), because an exact AUC needs all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from tailrank.core.errors import ConfigError
from tailrank.metrics.ranking import Bools, Floats, GroupValues, Ints, auc, logloss, per_group


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
        grouped_auc: see `GroupValues`; NaN without groups.
        ndcg_at_10: likewise.
        hit_rate_at_10: likewise.
    """

    num_rows: int
    auc: float
    logloss: float
    normalised_entropy: float
    calibration: float
    grouped_auc: float = math.nan
    ndcg_at_10: float = math.nan
    hit_rate_at_10: float = math.nan

    def to_dict(self) -> dict[str, float]:
        """The values by name."""
        return asdict(self)


class BinaryMetrics:
    """Collects scores and labels batch by batch."""

    def __init__(self) -> None:
        self._scores: list[Floats] = []
        self._labels: list[Bools] = []
        self._groups: list[Ints] = []

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
    def labels(self) -> Bools:
        """All labels so far, in order."""
        return np.concatenate(self._labels) if self._labels else np.empty(0, dtype=np.bool_)

    @property
    def groups(self) -> Ints | None:
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
        groups = self.per_group()
        return MetricValues(
            num_rows=len(scores),
            auc=auc(scores, labels),
            logloss=loss,
            normalised_entropy=loss / entropy if entropy else math.nan,
            calibration=float(scores.mean()) / rate if rate else math.nan,
            grouped_auc=math.nan if groups is None else groups.grouped_auc,
            ndcg_at_10=math.nan if groups is None else groups.ndcg_at_10,
            hit_rate_at_10=math.nan if groups is None else groups.hit_rate_at_10,
        )

    def known(self) -> dict[str, float]:
        """The metrics that the rows have, by name; of no rows, their number alone."""
        if not self._scores:
            return {"num_rows": 0}
        values = self.compute().to_dict()
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def per_group(self) -> GroupValues | None:
        """Metrics of every group of everything so far; None where the rows have no groups."""
        groups = self.groups
        return None if groups is None else per_group(self.scores, self.labels, groups)


def known_by_task(scored: Mapping[str, BinaryMetrics]) -> dict[str, float]:
    """Metrics of each task that its rows have: `auc`; `income.auc` where there are several tasks.

    Args:
        scored: the rows of each task whose label is known.
    """
    if len(scored) == 1:
        return next(iter(scored.values())).known()
    return {
        f"{task}.{name}": value
        for task, one in scored.items()
        for name, value in one.known().items()
    }
