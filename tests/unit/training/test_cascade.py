"""A cascade's ranking against a plain statement of it."""

from __future__ import annotations

import numpy as np
import pytest

from tailrank.core.errors import RequestError
from tailrank.metrics import BinaryMetrics, per_group
from tailrank.training.cascade import cascade


def rows_of(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> BinaryMetrics:
    rows = BinaryMetrics()
    rows.update(scores, labels, groups)
    return rows


def plain(score_SB: list[np.ndarray], group_B: np.ndarray, keep: list[int]) -> list[list[int]]:
    """Rows of each query, best first."""
    ranked = []
    for group in np.unique(group_B):
        rows, behind = np.flatnonzero(group_B == group).tolist(), []
        for scores, kept in zip(score_SB, [*keep, len(group_B)], strict=True):
            rows.sort(key=lambda row: (-scores[row], row))
            behind = rows[kept:] + behind
            rows = sorted(rows[:kept])
        last = score_SB[-1]
        ranked.append(sorted(rows, key=lambda row: (-last[row], row)) + behind)
    return ranked


@pytest.mark.parametrize("keep", [[3], [5, 2], [1], [100]])
def test_a_cascade_ranks_as_it_is_stated(keep: list[int]) -> None:
    rng = np.random.default_rng(len(keep))
    group_B = rng.integers(40, size=500)
    label_B = rng.integers(2, size=500)
    # Coarse scores, so that there are ties.
    score_SB = [rng.integers(6, size=500) / 5 for _ in keep] + [rng.random(500)]
    found = cascade([rows_of(scores, label_B, group_B) for scores in score_SB], keep)
    wanted = plain(score_SB, group_B, keep)
    rank_B = np.zeros(500)
    for rows in wanted:
        ordered = sorted(rows, key=lambda row: (-found.rank_B[row], row))
        reached = rows[: keep[-1]]
        assert ordered[: len(reached)] == reached
        rank_B[rows] = -np.arange(len(rows))
    sizes = [len(rows) for rows in wanted]
    seen = [sum(min(size, kept) for size in sizes) for kept in [10**9, *keep]]
    assert found.items_S == tuple(seen)
    assert found.num_queries == 40
    best = [
        len({*rows[: keep[-1]]} & {*sorted(rows, key=lambda row: -score_SB[-1][row])[:10]})
        / min(10, len(rows))
        for rows in wanted
    ]
    assert found.best_kept_fraction == pytest.approx(np.mean(best))
    assert found.alone.ndcg_at_10 == per_group(score_SB[-1], label_B == 1, group_B).ndcg_at_10
    if keep == [100]:
        assert found.ranked.ndcg_at_10 == found.alone.ndcg_at_10
    if keep[-1] == 1:
        first = [label_B[rows[0]] for rows in wanted if label_B[rows].any()]
        assert np.mean(first) <= found.ranked.hit_rate_at_10


def test_scores_that_hardly_differ_stay_apart() -> None:
    group_B, label_B = np.zeros(3, dtype=int), np.array([0, 0, 1])
    light = rows_of(np.array([0.1, 0.5, 0.5]), label_B, group_B)
    heavy = rows_of(np.array([1.0, 1e-30, 2e-30]), label_B, group_B)
    found = cascade([light, heavy], [2])
    assert found.rank_B.argsort().tolist() == [0, 1, 2]


def test_rows_that_cannot_be_ranked_are_refused() -> None:
    scores, labels = np.array([0.1, 0.2]), np.array([0, 1])
    lone = rows_of(scores, labels, None)
    with pytest.raises(RequestError, match="no users or queries"):
        cascade([lone, lone], [1])
    one, other = (rows_of(scores, labels, np.array(groups)) for groups in ([0, 0], [0, 1]))
    with pytest.raises(RequestError, match="same rows"):
        cascade([one, other], [1])
