"""How well scores rank and predict binary labels: streaming, NumPy only.

Knows no model and no data set. A score is a predicted probability of label 1. Scores are kept
(9 bytes a row, 17 with groups), because an exact AUC needs all of them at once.

Legend: G groups (users or queries).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailrank.core.errors import ConfigError

PROBABILITY_MIN = 1e-7
"""Probabilities are clipped to [1e-7, 1 - 1e-7] in the logloss; one sure miss costs 16.1 nats."""

DEPTH = 10
"""Rows of a group, best scores first, that NDCG and hit rate look at."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
PairedMetric = Literal["auc", "logloss", "grouped_auc", "ndcg_at_10", "hit_rate_at_10"]
GROUP_METRICS = ("grouped_auc", "ndcg_at_10", "hit_rate_at_10")
"""Metrics that only rows with groups have."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupValues:
    """Metrics of every group.

    Args:
        group_G: the groups, rising.
        num_rows_G: rows of each.
        auc_G: AUC inside each, ties counting half; NaN where only one class occurs.
        ndcg_at_10_G: NDCG of the ten best scores of each, gain 1 for a positive row and discount
            1 / log2(1 + rank); NaN without a positive row. Rows of one score share the mean of
            what they would gain in any order among themselves.
            Source: McSherry and Najork, Computing Information Retrieval Performance Measures
            Efficiently in the Presence of Tied Scores, ECIR 2008.
        hit_rate_at_10_G: whether a positive row is among the ten best scores of each, 0 or 1, or
            in how many orders of rows of one score it is; NaN without a positive row.
    """

    group_G: Ints
    num_rows_G: Ints
    auc_G: Floats
    ndcg_at_10_G: Floats
    hit_rate_at_10_G: Floats

    @property
    def grouped_auc(self) -> float:
        """Mean AUC, groups weighing as many rows as they have; NaN where no group has one.

        Source: Zhu et al., Optimized Cost per Click in Taobao, KDD 2017; Zhou et al., Deep
        Interest Network, arXiv 1706.06978, 6.2, with rows for impressions.
        """
        return _mean_of_known(self.auc_G, self.num_rows_G)

    @property
    def ndcg_at_10(self) -> float:
        """Mean NDCG over groups with a positive row; NaN where there is none."""
        return _mean_of_known(self.ndcg_at_10_G, np.ones(len(self.ndcg_at_10_G)))

    @property
    def hit_rate_at_10(self) -> float:
        """Share of the groups with a positive row that rank one among their ten best."""
        return _mean_of_known(self.hit_rate_at_10_G, np.ones(len(self.hit_rate_at_10_G)))


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


def logloss(scores: Floats, labels: Bools) -> float:
    """Mean cross entropy in nats, probabilities clipped at `PROBABILITY_MIN`."""
    return float(_row_losses(scores, labels).mean())


def auc(scores: Floats, labels: Bools) -> float:
    """Probability that a positive row scores above a negative one, ties counting half."""
    return _RankedRows(scores, labels).auc(np.ones(len(scores)))


def per_group(scores: Floats, labels: Bools, groups: Ints) -> GroupValues:
    """Metrics of every group of rows; rows of a group need not stand together."""
    group_G, group_B = np.unique(groups, return_inverse=True)
    # Best first inside each group, so that a run of equal scores ends at its worst rank.
    order = np.lexsort((-scores, group_B))
    score_B, positive_B, group_B = scores[order], labels[order].astype(np.float64), group_B[order]
    new_group_B = np.r_[True, group_B[1:] != group_B[:-1]]
    first_T = np.flatnonzero(new_group_B | np.r_[True, score_B[1:] != score_B[:-1]])  # T ties
    first_G, of_T = np.flatnonzero(new_group_B), group_B[first_T]
    num_G = np.diff(np.r_[first_G, len(order)])
    num_T = np.diff(np.r_[first_T, len(order)])
    positive_T = np.add.reduceat(positive_B, first_T)
    positive_G = np.add.reduceat(positive_B, first_G)
    # Positives of better score in the same group: all those before, less those of other groups.
    above_T = np.cumsum(positive_T) - positive_T - (np.cumsum(positive_G) - positive_G)[of_T]
    wins_T = (num_T - positive_T) * (above_T + 0.5 * positive_T)
    pairs_G = positive_G * (num_G - positive_G)
    # gain_at[r]: what r positive rows gain in the first r places.
    gain_at = np.r_[0.0, np.cumsum(1.0 / np.log2(np.arange(2, DEPTH + 2)))]
    rank_T = first_T - first_G[of_T]
    taken_T = np.clip(DEPTH - rank_T, 0, num_T)
    places_T = gain_at[np.minimum(rank_T, DEPTH) + taken_T] - gain_at[np.minimum(rank_T, DEPTH)]
    gained_G = np.bincount(of_T, positive_T / num_T * places_T, len(group_G))
    ideal_G = gain_at[np.minimum(positive_G, DEPTH).astype(np.int64)]
    miss_G = np.multiply.reduceat(
        _miss(num_T, positive_T, taken_T), np.flatnonzero(new_group_B[first_T])
    )
    unknown = np.full(len(group_G), math.nan)
    wins_G = np.bincount(of_T, wins_T, len(group_G))
    return GroupValues(
        group_G=group_G,
        num_rows_G=num_G,
        auc_G=np.divide(wins_G, pairs_G, out=unknown.copy(), where=pairs_G > 0),
        ndcg_at_10_G=np.divide(gained_G, ideal_G, out=unknown.copy(), where=ideal_G > 0),
        hit_rate_at_10_G=np.where(positive_G > 0, 1.0 - miss_G, unknown),
    )


def paired_bootstrap(
    scores: ArrayLike,
    other_scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    metric: PairedMetric = "auc",
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[float, float, float]:
    """A metric of `scores` minus that of `other_scores` on the same rows, with an interval.

    Rows are resampled with replacement, the same ones for both models, so the luck of the draw
    that both share cancels. Rows of a group resemble one another, so where there are groups whole
    groups are resampled instead. The interval is that of percentiles.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 13.3; Davison and Hinkley,
    Bootstrap Methods and Their Application, 3.8 (groups).

    Args:
        scores: one score per row; or one line per run of a model trained from several seeds,
            whose metric is then the mean over its runs.
        other_scores: likewise, of the model to compare with.
        labels: 0 or 1 per row.
        groups: the group of each row; None: every row is its own.
        metric: what to compare; those of `GROUP_METRICS` need groups.
        num_resamples: draws of as many rows, or groups, as there are.
        seed: of the draws.
        confidence: of the interval.
        progress: told the draws done, after each.

    Returns:
        (difference, low, high).

    Raises:
        ConfigError: they differ in length, or classes or groups that the metric needs are missing.
    """
    positive = np.asarray(labels).reshape(-1) == 1
    both = [np.atleast_2d(np.asarray(s, dtype=np.float64)) for s in (scores, other_scores)]
    if any(runs.shape[1] != len(positive) for runs in both):
        raise ConfigError("scores", [runs.shape for runs in both], f"{len(positive)} rows each")
    if metric in ("auc", "grouped_auc") and (positive.all() or not positive.any()):
        raise ConfigError("labels", "one class", f"both classes, for {metric}")
    if metric not in get_args(PairedMetric):
        raise ConfigError("metric", metric, " or ".join(get_args(PairedMetric)))
    if groups is None and metric in GROUP_METRICS:
        raise ConfigError("groups", None, f"the group of each row, which {metric} needs")
    group_B = np.arange(len(positive)) if groups is None else np.asarray(groups).reshape(-1)
    if len(group_B) != len(positive):
        raise ConfigError("groups", len(group_B), f"{len(positive)}, as many as rows")
    if groups is not None:
        group_B = np.unique(group_B, return_inverse=True)[1]
    first, second = ([_reweighted(metric, run, positive, group_B) for run in runs] for runs in both)

    def difference(weight_G: Floats) -> float:
        mine, other = ([run(weight_G) for run in runs] for runs in (first, second))
        return sum(mine) / len(mine) - sum(other) / len(other)

    rng, count = np.random.default_rng(seed), int(group_B.max()) + 1
    differences = np.empty(num_resamples)
    for draw in range(num_resamples):
        weight_G = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        differences[draw] = difference(weight_G)
        progress(draw + 1)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.nanpercentile(differences, [tail, 100.0 - tail])
    return difference(np.ones(count)), float(low), float(high)


def _reweighted(
    metric: PairedMetric, scores: Floats, labels: Bools, group_B: Ints
) -> Callable[[Floats], float]:
    """The metric of these rows as a function of the weights of their groups."""
    if metric == "auc":
        rows = _RankedRows(scores, labels)
        return lambda weight_G: rows.auc(weight_G[group_B])
    if metric == "logloss":
        loss_B = _row_losses(scores, labels)
        return lambda weight_G: float(np.average(loss_B, weights=weight_G[group_B]))
    groups = per_group(scores, labels, group_B)
    if metric == "grouped_auc":
        return lambda weight_G: _mean_of_known(groups.auc_G, weight_G * groups.num_rows_G)
    value_G = groups.ndcg_at_10_G if metric == "ndcg_at_10" else groups.hit_rate_at_10_G
    return lambda weight_G: _mean_of_known(value_G, weight_G)


def _miss(num_T: Ints, positive_T: Floats, taken_T: Ints) -> Floats:
    """Probability that `taken_T` rows, drawn from runs of `num_T`, hold no positive one."""
    miss_T = np.ones(len(num_T))
    for drawn in range(DEPTH):
        left_T = np.maximum(num_T - drawn, 1)
        negative_T = np.maximum(num_T - positive_T - drawn, 0.0)
        miss_T *= np.where(drawn < taken_T, negative_T / left_T, 1.0)
    return miss_T


def _row_losses(scores: Floats, labels: Bools) -> Floats:
    """Cross entropy of each row in nats."""
    clipped = np.clip(scores, PROBABILITY_MIN, 1.0 - PROBABILITY_MIN)
    losses: Floats = -np.where(labels, np.log(clipped), np.log1p(-clipped))
    return losses


def _mean_of_known(values: Floats, weights: Floats | Ints) -> float:
    """Weighted mean of the values that are not NaN; NaN where none has weight."""
    known = ~np.isnan(values)
    total = weights[known].sum()
    return float(values[known] @ weights[known] / total) if total else math.nan


class _RankedRows:
    """Rows sorted by score once, to weigh them differently many times."""

    def __init__(self, scores: Floats, labels: Bools) -> None:
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
