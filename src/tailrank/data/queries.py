"""Rows in queries: which rows belong together, in which order they come, and cut into batches.

Knows no features and no file format.

Legend: U queries of one batch, B rows, Q queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrank.data.dataset import SPLITS, Split, contiguous_range, split_bounds
from tailrank.data.jagged import Ints, range_indices
from tailrank.data.permutation import Permutation

_BLOCK_ROWS = 1 << 16


class QueryRows(NamedTuple):
    """Consecutive rows of some queries.

    Args:
        row_B: their numbers in the file.
        first_row_U: the number of each query's first row in its order.
        item_to_user_B: the place in `first_row_U` of each row's query.
        query_B: the number of each row's query.
    """

    row_B: Ints
    first_row_U: Ints
    item_to_user_B: Ints
    query_B: Ints


class RowOrder:
    """The rows of a log ordered by time and cut into splits, those of a query kept together.

    A query comes at the time of its earliest row, wherever its others stand in the file; rows of
    equal time keep the file's order. Sorting needs some 50 bytes a row, for the time of the sort;
    nothing is sorted where there is neither time nor query.

    Args:
        num_rows: of the log.
        time_B: anything that rises; None: file order.
        query_B: equal for rows of one query; None: each row is a query of its own.
    """

    def __init__(
        self, num_rows: int, time_B: NDArray[Any] | None, query_B: NDArray[Any] | None
    ) -> None:
        self._num_rows = num_rows
        self._row_B: Ints | None = None
        self._first_Q: Ints | None = None
        self._length_Q: Ints | None = None
        if query_B is not None:
            self._sort_queries(time_B, query_B)
        elif time_B is not None and bool((time_B[1:] < time_B[:-1]).any()):
            self._row_B = np.argsort(time_B, kind="stable")
        self._bounds = self._query_bounds()

    @property
    def num_queries(self) -> int:
        """Q."""
        return self._num_rows if self._first_Q is None else len(self._first_Q)

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Rows of splits that follow one another."""
        queries = contiguous_range(self._bounds, splits)
        if self._first_Q is None or self._length_Q is None:
            return len(queries)
        return int(self._length_Q[queries.start : queries.stop].sum())

    def blocks(self, splits: Sequence[Split] = SPLITS) -> Iterator[QueryRows]:
        """The rows of splits in order, some ten thousand at a time; a query may be cut."""
        return self.batches(splits, _BLOCK_ROWS)

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Iterator[QueryRows]:
        """See `Dataset.batches`; a shuffle reorders queries, whose rows stay together."""
        queries = contiguous_range(self._bounds, splits)
        order = None if shuffle_seed is None else Permutation(len(queries), shuffle_seed)
        if self._first_Q is None or self._length_Q is None:
            for start in range(first_batch * batch_items, len(queries), batch_items):
                stop = min(start + batch_items, len(queries))
                place_B = np.arange(start, stop) if order is None else order.range(start, stop)
                query_B = place_B + queries.start
                row_B = self._rows(query_B)
                yield QueryRows(row_B, row_B, np.arange(len(row_B)), query_B)
            return
        place_Q = np.arange(len(queries)) if order is None else order.range(0, len(queries))
        for query_U, skip_U, length_U in cut_queries(
            place_Q + queries.start, self._length_Q, batch_items, first_batch
        ):
            place_U = self._first_Q[query_U]
            to_user_B = np.repeat(np.arange(len(query_U)), length_U)
            yield QueryRows(
                self._rows(range_indices(place_U + skip_U, length_U)),
                self._rows(place_U),
                to_user_B,
                query_U[to_user_B],
            )

    def _rows(self, place_B: Ints) -> Ints:
        """Numbers in the file of places in the order."""
        return place_B if self._row_B is None else self._row_B[place_B]

    def _sort_queries(self, time_B: NDArray[Any] | None, query_B: NDArray[Any]) -> None:
        """Bring the rows of each query together and the queries into the order of time."""
        keys = (query_B,) if time_B is None else (time_B, query_B)
        row_B = np.lexsort(keys)
        sorted_B = query_B[row_B]
        first_Q = np.flatnonzero(np.r_[True, sorted_B[1:] != sorted_B[:-1]])
        length_Q = np.diff(np.r_[first_Q, len(row_B)])
        earliest_Q = row_B[first_Q]
        keys = (earliest_Q,) if time_B is None else (earliest_Q, time_B[earliest_Q])
        order_Q = np.lexsort(keys)
        self._length_Q = length_Q[order_Q]
        self._first_Q = np.cumsum(self._length_Q) - self._length_Q
        self._row_B = row_B[range_indices(first_Q[order_Q], self._length_Q)]

    def _query_bounds(self) -> dict[Split, tuple[int, int]]:
        """Queries of each split: five sevenths, a seventh and a seventh of the rows, rounded."""
        bounds = split_bounds(self._num_rows)
        if self._first_Q is None:
            return bounds
        cuts = np.searchsorted(self._first_Q, [bounds[split][1] for split in SPLITS])
        firsts = [0, *cuts[:-1]]
        return {
            split: (int(first), int(cut))
            for split, first, cut in zip(SPLITS, firsts, cuts, strict=True)
        }


def cut_queries(
    order_Q: Ints, length_Q: Ints, batch_items: int, first_batch: int
) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Cut queries that follow one another into batches of `batch_items` rows.

    A query that a batch has no room for is cut, and goes on in the next batch.

    Args:
        order_Q: numbers of the queries, in the order in which they come.
        length_Q: rows of every query, by number.
        batch_items: rows of every batch but the last.
        first_batch: batches to leave out at the start.

    Yields:
        (query_U, skip_U, length_U): queries of a batch, rows of each that came before, rows here.
    """
    end_Q = np.cumsum(length_Q[order_Q])
    num_rows = int(end_Q[-1]) if len(end_Q) else 0
    for start in range(first_batch * batch_items, num_rows, batch_items):
        stop = min(start + batch_items, num_rows)
        first, last = np.searchsorted(end_Q, [start, stop - 1], side="right")
        query_U = order_Q[first : last + 1]
        length_U, skip_U = length_Q[query_U], np.zeros(len(query_U), dtype=np.int64)
        skip_U[0] = start - (end_Q[first] - length_U[0])
        length_U[0] -= skip_U[0]
        length_U[-1] -= end_Q[last] - stop
        yield query_U, skip_U, length_U
