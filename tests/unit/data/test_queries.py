"""Rows of a query stay together, in time order, and batches cut them without losing any."""

from __future__ import annotations

import numpy as np
import pytest

from tailrank.data.dataset import SPLITS
from tailrank.data.queries import QueryRows, RowOrder, cut_queries


def make_order(num_rows: int = 500, seed: int = 0) -> tuple[RowOrder, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    query_B = rng.integers(60, size=num_rows).astype(np.uint64) * np.uint64(2**58 // 7)
    time_B = rng.integers(90, size=num_rows).astype(np.float64)
    return RowOrder(num_rows, time_B, query_B), time_B, query_B


def rows_of(batches: list[QueryRows]) -> list[int]:
    return np.concatenate([rows.row_B for rows in batches]).tolist()


def test_queries_come_by_their_earliest_row_and_rows_by_time() -> None:
    order, time_B, query_B = make_order()
    by_time = np.argsort(time_B, kind="stable").tolist()
    queries = dict.fromkeys(query_B[by_time].tolist())
    expected = [row for query in queries for row in by_time if query_B[row] == query]
    assert rows_of(list(order.blocks())) == expected
    assert order.num_queries == len(queries)


def test_without_time_the_files_order_counts() -> None:
    _, _, query_B = make_order()
    expected = [
        row for q in dict.fromkeys(query_B.tolist()) for row in np.flatnonzero(query_B == q)
    ]
    assert rows_of(list(RowOrder(len(query_B), None, query_B).blocks())) == expected
    assert rows_of(list(RowOrder(9, None, None).blocks())) == list(range(9))
    assert rows_of(list(RowOrder(4, np.array([3, 1, 2, 1]), None).blocks())) == [1, 3, 2, 0]


def test_no_query_is_in_two_splits() -> None:
    order, _, query_B = make_order()
    seen: list[set[int]] = []
    for split, share in zip(SPLITS, (5 / 7, 1 / 7, 1 / 7), strict=True):
        rows = rows_of(list(order.blocks((split,))))
        assert len(rows) == order.num_rows((split,)) == pytest.approx(500 * share, abs=12)
        seen.append(set(query_B[rows].tolist()))
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert not seen[0] & seen[2]


@pytest.mark.parametrize("batch_items", [1, 7, 64, 1000])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches_cut_queries_and_lose_no_row(batch_items: int, seed: int | None) -> None:
    order, _, query_B = make_order()
    batches = list(order.batches(("train", "validation"), batch_items, shuffle_seed=seed))
    assert {len(rows.row_B) for rows in batches[:-1]} <= {batch_items}
    assert sorted(rows_of(batches)) == sorted(rows_of(list(order.blocks(SPLITS[:2]))))
    for rows in batches:
        first_B = rows.first_row_U[rows.item_to_user_B]
        assert (query_B[rows.row_B] == query_B[first_B]).all()
        assert (np.diff(rows.item_to_user_B) >= 0).all()
        assert len(np.unique(rows.query_B)) == len(rows.first_row_U)
    rest = order.batches(("train", "validation"), batch_items, shuffle_seed=seed, first_batch=2)
    assert rows_of(batches[2:] or batches) == rows_of(list(rest) or batches)


def test_a_cut_query_goes_on_where_it_was_cut() -> None:
    cuts = list(cut_queries(np.array([2, 0, 1]), np.array([2, 1, 5]), 3, 0))
    expected = [([2], [0], [3]), ([2, 0], [3, 0], [2, 1]), ([0, 1], [1, 0], [1, 1])]
    assert [tuple(part.tolist() for part in cut) for cut in cuts] == expected
    assert list(cut_queries(np.array([], dtype=int), np.array([], dtype=int), 3, 0)) == []
