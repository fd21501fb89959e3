"""How well models rank one after the other, against the last one alone.

Knows no model: stages are scores of the same rows.

Legend: B rows, S stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tailrank.core.errors import RequestError
from tailrank.metrics import DEPTH, BinaryMetrics, per_group
from tailrank.metrics.ranking import Bools, Floats, GroupValues, Ints


class CascadeValues(NamedTuple):
    """What stages give.

    Args:
        rank_B: the higher, the better: those that come to a later stage before all others.
        group_B: the query of each row.
        ranked: metrics of each query by `rank_B`.
        alone: likewise by the last stage's scores, if it saw every item.
        items_S: items that each stage scores, of all queries together.
        best_kept_fraction: of each query's `DEPTH` best by the last stage alone, how many came to
            it; mean over queries.
    """

    rank_B: Floats
    group_B: Ints
    ranked: GroupValues
    alone: GroupValues
    items_S: tuple[int, ...]
    best_kept_fraction: float

    @property
    def num_queries(self) -> int:
        """Queries of the rows."""
        return len(self.ranked.group_G)


def cascade(stages: Sequence[BinaryMetrics], keep: Sequence[int]) -> CascadeValues:
    """Rank the rows of each query by stages.

    Args:
        stages: the same rows, scored by the model of each stage; at least two.
        keep: of all stages but the last, how many of a query's rows go on.

    Raises:
        RequestError: the rows belong to no queries, or stages scored different rows.
    """
    last = stages[-1]
    label_B, group_B = last.labels, last.groups
    if group_B is None:
        raise RequestError("--stage", "these rows belong to no users or queries, to rank for")
    for stage in stages:
        groups = stage.groups
        if groups is None or not (
            np.array_equal(stage.labels, label_B) and np.array_equal(groups, group_B)
        ):
            raise RequestError("--stage", "the models do not have the same rows to score")
    reached_B: Bools = np.ones(len(label_B), dtype=np.bool_)
    rank_B, items = np.zeros(len(label_B)), []
    for stage, kept in zip(stages, [*keep, None], strict=True):
        items.append(int(reached_B.sum()))
        # Whole numbers: added to scores, these would round those apart to equal ones.
        order_B = np.unique(stage.scores, return_inverse=True)[1]
        rank_B[reached_B] = rank_B.max() + 1.0 + order_B[reached_B]
        if kept is not None:
            reached_B = _best(rank_B, group_B, kept) & reached_B
    best_B = _best(last.scores, group_B, DEPTH)
    _, query_B = np.unique(group_B, return_inverse=True)
    kept_G = np.bincount(query_B, best_B & reached_B) / np.bincount(query_B, best_B)
    return CascadeValues(
        rank_B=rank_B,
        group_B=group_B,
        ranked=per_group(rank_B, label_B, group_B),
        alone=per_group(last.scores, label_B, group_B),
        items_S=tuple(items),
        best_kept_fraction=float(kept_G.mean()),
    )


def _best(score_B: Floats, group_B: Ints, keep: int) -> Bools:
    """The best rows of each group; of those with equal scores, the first."""
    order = np.lexsort((-score_B, group_B))  # stable
    begins_B = np.r_[True, np.diff(group_B[order]) != 0]
    first_B = np.maximum.accumulate(np.where(begins_B, np.arange(len(order)), 0))
    best_B = np.zeros(len(order), dtype=np.bool_)
    best_B[order] = np.arange(len(order)) - first_B < keep
    return best_B
