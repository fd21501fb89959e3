"""Metrics of scored rows, whole and group by group, by their definitions; NumPy and SciPy only.

Legend: B rows, G groups (users or queries), T runs of rows of one score,
S stretches of sorted rows, D draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

PROBABILITY_MIN = 1e-7
"""Probabilities are clipped to [1e-7, 1 - 1e-7] in the logloss; one sure miss costs 16.1 nats."""

_BLOCK_STRETCHES = 4096
"""Stretches of sorted rows weighed at once: for 32 draws 1 MiB, which stays in a cache."""

DEPTH = 10
"""Rows of a group, best scores first, that NDCG and hit rate look at."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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


def logloss(scores: Floats, labels: Bools) -> float:
    """Mean cross entropy in nats, probabilities clipped at `PROBABILITY_MIN`."""
    return float(row_losses(scores, labels).mean())


def auc(scores: Floats, labels: Bools) -> float:
    """Probability that a positive row scores above a negative one, ties counting half."""
    together = np.zeros(len(scores), dtype=np.int64)
    return float(RankedRows(scores, labels, together).auc(np.ones((1, 1)))[0])


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


def _miss(num_T: Ints, positive_T: Floats, taken_T: Ints) -> Floats:
    """Probability that `taken_T` rows, drawn from runs of `num_T`, hold no positive one."""
    miss_T = np.ones(len(num_T))
    for drawn in range(DEPTH):
        left_T = np.maximum(num_T - drawn, 1)
        negative_T = np.maximum(num_T - positive_T - drawn, 0.0)
        miss_T *= np.where(drawn < taken_T, negative_T / left_T, 1.0)
    return miss_T


def row_losses(scores: Floats, labels: Bools) -> Floats:
    """Cross entropy of each row in nats."""
    clipped = np.clip(scores, PROBABILITY_MIN, 1.0 - PROBABILITY_MIN)
    losses: Floats = -np.where(labels, np.log(clipped), np.log1p(-clipped))
    return losses


def _mean_of_known(values: Floats, weights: Floats | Ints) -> float:
    """Weighted mean of the values that are not NaN; NaN where none has weight."""
    return float(means_of_known(values, weights, np.ones((len(values), 1)))[0])


def means_of_known(value_G: Floats, size_G: Floats | Ints, weight_GD: Floats) -> Floats:
    """Means, a draw each, of the values that are not NaN, by size times weight; NaN for none."""
    known_G = ~np.isnan(value_G)
    total_D = np.where(known_G, size_G, 0.0) @ weight_GD
    return _ratio(np.where(known_G, value_G * size_G, 0.0) @ weight_GD, total_D)


def _ratio(sum_D: Floats, total_D: Floats) -> Floats:
    """Their quotients; NaN where there is nothing to divide by."""
    ratio_D = np.full(len(total_D), math.nan)
    np.divide(sum_D, total_D, out=ratio_D, where=total_D > 0)
    return ratio_D


class RankedRows:
    """Rows sorted by score once, to weigh their groups differently many times.

    Rows of one score are a stretch where they are of both classes; of all others, negative rows
    and the positive ones right above them are, since their order among themselves is known.
    """

    def __init__(self, scores: Floats, labels: Bools, group_B: Ints) -> None:
        order = np.argsort(scores, kind="stable")
        score_B, positive_B, group_B = scores[order], labels[order], group_B[order]
        first_T = np.flatnonzero(np.r_[True, score_B[1:] != score_B[:-1]])
        positive_T = np.add.reduceat(positive_B, first_T, dtype=np.int64)
        tied_T = (positive_T > 0) & (positive_T < np.diff(np.r_[first_T, len(order)]))
        falls_T = (positive_T == 0) & np.r_[False, positive_T[:-1] > 0]
        begins_T = np.r_[True, tied_T[:-1]] | tied_T | falls_T
        tied_S, bound_S = tied_T[begins_T], np.r_[first_T[begins_T], len(order)]
        shape = int(group_B.max()) + 1
        self._blocks = [
            (
                _counts(bound_S[start : start + _BLOCK_STRETCHES + 1], positive_B, group_B, shape),
                _counts(bound_S[start : start + _BLOCK_STRETCHES + 1], ~positive_B, group_B, shape),
                0.5 * tied_S[start : start + _BLOCK_STRETCHES, None],
            )
            for start in range(0, len(tied_S), _BLOCK_STRETCHES)
        ]

    def auc(self, weight_GD: Floats) -> Floats:
        """AUC of each draw; NaN where a class has no weight.

        Weights that are counts give sums of halves, which are exact in any order.
        """
        wins_D, positive_D, negative_D = np.zeros((3, weight_GD.shape[1]))
        for positive_SG, negative_SG, half_S1 in self._blocks:
            positive_SD, negative_SD = positive_SG @ weight_GD, negative_SG @ weight_GD
            below_SD = negative_D + np.cumsum(negative_SD, axis=0)
            negative_D = below_SD[-1].copy()
            below_SD -= half_S1 * negative_SD
            wins_D += np.einsum("sd,sd->d", positive_SD, below_SD)
            positive_D += positive_SD.sum(axis=0)
        return _ratio(wins_D, positive_D * negative_D)


def _counts(bound_S: Ints, counted_B: Bools, group_B: Ints, num_groups: int) -> csr_array:
    """How many rows that count each group has in each stretch, (S, G) and sparse.

    Args:
        bound_S: where the stretches begin, and where the last one ends.
        counted_B: the rows that count.
        group_B: the group of each row.
        num_groups: G.
    """
    num_stretches = len(bound_S) - 1
    stretch_B = np.repeat(np.arange(num_stretches), np.diff(bound_S))
    rows = slice(bound_S[0], bound_S[-1])
    counted = counted_B[rows]
    places = stretch_B[counted], group_B[rows][counted]
    return csr_array((np.ones(len(places[0])), places), shape=(num_stretches, num_groups))
