"""MovieLens-1M as ranking queries: one user with a history, candidate movies, liked or not.

Consecutive rows of a user, in file order, make a *query* of up to `query_items` candidates that
share one user row; each user's queries are split at random into train, validation and test. The
history of a query is what its user rated before it in the file, whatever the split and the rating:
which movies were rated is known, how is the label. So no candidate is in its own history, and
histories are as long and as fresh when a model is tested as when it learns. Ids of a history weigh
one over their number, so that a long history and a short one are of the same size. Knows no model.

Legend: U user rows, B item rows, Q queries, M movies, L genres or ids, G bags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tailrank.core.errors import ConfigError
from tailrank.data.dataset import SPLITS, Batches, Split, contiguous_range
from tailrank.data.jagged import Ints, JaggedColumn, range_indices, row_major
from tailrank.data.movielens_file import (
    AGES,
    GENRES,
    NUM_OCCUPATIONS,
    ZIP_DIGITS,
    MovieLensRows,
    read_movielens,
)
from tailrank.data.queries import cut_queries
from tailrank.features import (
    Feature,
    FeatureBatch,
    FeatureSpec,
    Labels,
    Side,
    SideFeatures,
    TableSpec,
)

LIKED_RATING = 4
"""Ratings from here up are label 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieLensConfig:
    """How to read the ratings.

    Args:
        path: folder of the published files.
        embedding_dim: dim of every table.
        history_max: movies in a history, the last ones. On validation rows 200 are a little better
            than 50, for a factorisation machine more than for a DLRM.
        query_items: candidates that share a user row, at most.
        split_seed: of the split.
    """

    path: Path
    embedding_dim: int = 16
    history_max: int = 200
    query_items: int = 10
    split_seed: int = 0

    def __post_init__(self) -> None:
        for field in ("embedding_dim", "history_max", "query_items"):
            if getattr(self, field) < 1:
                raise ConfigError(f"movielens.{field}", getattr(self, field), "at least 1")
        if self.split_seed < 0:
            raise ConfigError("movielens.split_seed", self.split_seed, "0 or more")


class MovieLensDataset:
    """The ratings; see `data.dataset.Dataset`. `Labels.group_B` is the user.

    Args:
        config: how to read them.

    Raises:
        DataError: a file is missing, damaged or not in the format; names line, column, value.
    """

    name = "movielens"
    tasks: tuple[str, ...] = ("label",)

    def __init__(self, config: MovieLensConfig) -> None:
        self.config = config
        rows = _in_order_of_users(read_movielens(config.path))
        self._rows, self._queries = rows, _Queries(rows, config)
        self._label_B = (rows.rating_B >= LIKED_RATING).astype(np.float32)
        self._genre_end_M = np.cumsum(rows.num_genres_M)
        # Genres of every row of the log, so that those of a history are one slice too.
        num_genres_B = rows.num_genres_M[rows.movie_B]
        first_B = (self._genre_end_M - rows.num_genres_M)[rows.movie_B]
        self._log_genre_L = rows.genre_L[range_indices(first_B, num_genres_B)]
        self._log_genre_end_B = np.r_[0, np.cumsum(num_genres_B)]
        self.spec = self._spec()
        text = f"{rows.sha256} query_items={config.query_items} split_seed={config.split_seed}"
        self.rows_fingerprint = hashlib.sha256(text.encode()).hexdigest()
        text += f" {config.embedding_dim} {config.history_max}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.fitted_fingerprint: str | None = None

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Ratings of these splits together."""
        return len(contiguous_range(self._queries.row_bounds, splits))

    def save_fitted(self, folder: Path) -> None:
        """Nothing: nothing is fitted."""

    def for_refit(self) -> MovieLensDataset:
        """Itself: nothing is fitted."""
        return self

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """See `Dataset.batches`; a shuffle reorders queries, whose items stay together.

        A query that a batch has no room for is cut, and its user row is in both batches. Without a
        shuffle, splits follow one another, each in file order.
        """
        order_Q = np.array(contiguous_range(self._queries.bounds, splits), dtype=np.int64)
        if shuffle_seed is not None:
            order_Q = np.random.default_rng(shuffle_seed).permutation(order_Q)
        length_Q = self._queries.length_Q
        for query_U, skip_U, length_U in cut_queries(order_Q, length_Q, batch_items, first_batch):
            yield self._batch(query_U, self._queries.first_Q[query_U] + skip_U, length_U)

    def _batch(self, query_U: Ints, place_U: Ints, length_U: Ints) -> tuple[FeatureBatch, Labels]:
        """`length_U` items of each query, from `place_U` on."""
        row_B = self._queries.row_B[range_indices(place_U, length_U)]
        features = FeatureBatch(
            user=self._users(query_U),
            item=self._items(self._rows.movie_B[row_B]),
            item_to_user_B=torch.from_numpy(np.repeat(np.arange(len(query_U)), length_U)),
        )
        return features, Labels(
            values_BT=torch.from_numpy(self._label_B[row_B]).unsqueeze(1),
            group_B=torch.from_numpy(self._rows.user_B[row_B]),
        )

    def _users(self, query_U: Ints) -> SideFeatures:
        """The user side of queries."""
        rows, first_U, end_U = self._rows, *self._queries.history(query_U)
        user_U = self._queries.user_Q[query_U]
        columns_U = (rows.gender_U, rows.age_U, rows.occupation_U, rows.zip_U)
        profile = (user_U, *(column_U[user_U] for column_U in columns_U))
        movies = JaggedColumn(
            rows.movie_B[range_indices(first_U, end_U - first_U)], end_U - first_U
        )
        first_U, end_U = self._log_genre_end_B[first_U], self._log_genre_end_B[end_U]
        genres = JaggedColumn(
            self._log_genre_L[range_indices(first_U, end_U - first_U)], end_U - first_U
        )
        return _side([*(_single(column) for column in profile), movies, genres], mean=True)

    def _items(self, movie_B: Ints) -> SideFeatures:
        """The item side of movies."""
        rows = self._rows
        length_B = rows.num_genres_M[movie_B]
        first_B = self._genre_end_M[movie_B] - length_B
        genres = JaggedColumn(rows.genre_L[range_indices(first_B, length_B)], length_B)
        year = _single(rows.year_M[movie_B] - rows.year_M.min())
        return _side([_single(movie_B), genres, year], mean=False)

    def _spec(self) -> FeatureSpec:
        """Features and tables, in the order of `_users` and `_items`."""
        rows, dim = self._rows, self.config.embedding_dim
        first_Q, end_Q = self._queries.history(np.arange(self._queries.bounds["train"][1]))
        ids = round(float((end_Q - first_Q).mean()), 2)
        genres = round(float(rows.num_genres_M[rows.movie_B].mean()), 2)
        history_genres = self._log_genre_end_B[end_Q] - self._log_genre_end_B[first_Q]
        bags: tuple[tuple[str, Side, str, float], ...] = (
            ("user_id", "user", "user_id", 1.0),
            ("gender", "user", "gender", 1.0),
            ("age", "user", "age", 1.0),
            ("occupation", "user", "occupation", 1.0),
            ("zip", "user", "zip", 1.0),
            ("history_movies", "user", "movie", ids),
            ("history_genres", "user", "genre", round(float(history_genres.mean()), 2)),
            ("movie_id", "item", "movie", 1.0),
            ("genres", "item", "genre", genres),
            ("year", "item", "year", 1.0),
        )
        num_rows = {
            "user_id": len(rows.gender_U),
            "gender": 2,
            "age": len(AGES),
            "occupation": NUM_OCCUPATIONS,
            "zip": 10**ZIP_DIGITS,
            "movie": len(rows.year_M),
            "genre": len(GENRES),
            "year": int(np.ptp(rows.year_M)) + 1,
        }
        return FeatureSpec(
            features=tuple(
                Feature(name=name, side=side, kind="bag", table=table, pooling_factor=factor)
                for name, side, table, factor in bags
            ),
            tables=tuple(
                TableSpec(name=name, num_embeddings=count, embedding_dim=dim)
                for name, count in num_rows.items()
            ),
        )


class _Queries:
    """The log cut into queries: train, then validation, then test, each in file order.

    Args:
        rows: the log, the rows of a user together.
        config: split and size.
    """

    def __init__(self, rows: MovieLensRows, config: MovieLensConfig) -> None:
        num_U = np.bincount(rows.user_B, minlength=len(rows.gender_U))
        self._first_row_U = np.cumsum(num_U) - num_U
        place_B = np.arange(len(rows.user_B)) - self._first_row_U[rows.user_B]
        begin_Q = np.flatnonzero(place_B % config.query_items == 0)
        length_Q = np.diff(np.r_[begin_Q, len(rows.user_B)])
        split_Q = _split(rows.user_B[begin_Q], len(num_U), config.split_seed)
        # Queries by split; inside one they stay in the order of users and of the file.
        order_Q = np.argsort(split_Q, kind="stable")
        self.length_Q, self._history_end_Q = length_Q[order_Q], begin_Q[order_Q]
        self.user_Q = rows.user_B[self._history_end_Q]
        self._history_max = config.history_max
        self.row_B = range_indices(self._history_end_Q, self.length_Q)
        row_ends = np.cumsum(self.length_Q)
        self.first_Q = row_ends - self.length_Q
        ends = np.searchsorted(split_Q[order_Q], range(len(SPLITS)), side="right")
        self.bounds, self.row_bounds = _bounds(ends), _bounds(np.r_[0, row_ends][ends])

    def history(self, query_Q: Ints) -> tuple[Ints, Ints]:
        """Rows [first, end) of the log that are the histories of these queries."""
        end_Q = self._history_end_Q[query_Q]
        first_Q = self._first_row_U[self.user_Q[query_Q]]
        return np.maximum(first_Q, end_Q - self._history_max), end_Q


def _bounds(ends: Ints) -> dict[Split, tuple[int, int]]:
    """Ranges of the splits."""
    firsts = np.r_[0, ends[:-1]]
    return {
        split: (int(first), int(end))
        for split, first, end in zip(SPLITS, firsts, ends, strict=True)
    }


def _split(user_Q: Ints, num_users: int, seed: int) -> Ints:
    """The split of each query: of each user, five sevenths, a seventh and a seventh at random.

    Rounded down, so that of two queries one is tested; but a single one is trained on.
    """
    num_U = np.bincount(user_Q, minlength=num_users)
    key_Q = np.random.default_rng(seed).random(len(user_Q))
    rank_Q = np.empty(len(user_Q), dtype=np.int64)
    rank_Q[np.lexsort((key_Q, user_Q))] = np.arange(len(user_Q))
    rank_Q -= (np.cumsum(num_U) - num_U)[user_Q]
    train_U = np.maximum(num_U * 5 // 7, 1)
    validation_U = np.maximum(num_U * 6 // 7, train_U)
    return (rank_Q >= train_U[user_Q]).astype(np.int64) + (rank_Q >= validation_U[user_Q])


def _in_order_of_users(rows: MovieLensRows) -> MovieLensRows:
    """The same rows, those of a user together in file order."""
    order = np.argsort(rows.user_B, kind="stable")
    columns = {name: getattr(rows, name)[order] for name in ("user_B", "movie_B", "rating_B")}
    return replace(rows, **columns)


def _single(ids_R: Ints) -> JaggedColumn:
    """A column of one id a row."""
    return JaggedColumn(ids_R, np.ones_like(ids_R))


def _side(columns: Sequence[JaggedColumn], *, mean: bool) -> SideFeatures:
    """One side without dense features; under `mean` each id weighs one over the size of its bag."""
    values_L, offsets = row_major(columns)
    weights_L = None
    if mean:
        size_G = np.diff(offsets)
        weights_L = torch.from_numpy(np.repeat(1.0 / np.maximum(size_G, 1), size_G)).float()
    return SideFeatures(
        dense_RN=torch.zeros(len(columns[0].length_R), 0),
        values_L=torch.from_numpy(values_L),
        offsets=torch.from_numpy(offsets),
        weights_L=weights_L,
    )
