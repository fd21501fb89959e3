"""Likes by leave-one-out, as NCF is measured: a user's held-out item among items it has not met.

Training rows are every positive with `num_negatives` items that its user has not met, drawn anew
in each pass; a positive and its negatives are a *query* and share one user row. The test is that of
the files. For validation one training row of every user is held out, with negatives of its own. It
is chosen at random and not as the last in the file: there is no time in the training rows, and
where the original order is known, as for MovieLens-1M, the test items, each user's latest, stand
anywhere in it, so that the last row is no more like the test than another. Knows no model.

Legend: U user rows, B item rows, P positives, Q queries of candidates, K rows per positive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.data.dataset import Batches, Split, contiguous_range
from tailrank.data.jagged import Ints, range_indices
from tailrank.data.ncf_file import NCFRows, read_ncf
from tailrank.data.negatives import UnmetItems
from tailrank.data.permutation import Permutation
from tailrank.data.queries import cut_queries
from tailrank.features import Feature, FeatureBatch, FeatureSpec, Labels, SideFeatures, TableSpec

# Batches whose rows are drawn together: by fours the calls would cost more than the draws.
_BLOCK_BATCHES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NCFDataConfig:
    """How to read the files.

    Args:
        path: their folder, or FOLDER/PREFIX.
        embedding_dim: dim of both tables.
        num_negatives: rows of label 0 for each positive in training. Source: arXiv 1708.05031, 4.1.
        validation_negatives: items to rank a held-out item of validation among; the test's file
            says its own, which are 99 as published.
        holdout_seed: of the rows held out for validation, and of their negatives.
    """

    path: Path
    embedding_dim: int = 16
    num_negatives: int = 4
    validation_negatives: int = 99
    holdout_seed: int = 0

    def __post_init__(self) -> None:
        for field in ("embedding_dim", "num_negatives", "validation_negatives"):
            if getattr(self, field) < 1:
                raise ConfigError(f"ncf.{field}", getattr(self, field), "at least 1")
        if self.holdout_seed < 0:
            raise ConfigError("ncf.holdout_seed", self.holdout_seed, "0 or more")


class NCFDataset:
    """The likes; see `data.dataset.Dataset`. `Labels.group_B` is the user.

    Splits with `train` in them have drawn negatives; validation and test have candidates, and no
    rows of both kinds come in one stream. Without a shuffle a stream is the same in every pass.

    Args:
        config: how to read them.

    Raises:
        DataError: a file is missing, damaged or not in the format; names line, column, value.
        ConfigError: a user has not enough items left to draw negatives from.
    """

    name = "ncf"

    def __init__(self, config: NCFDataConfig) -> None:
        self.config = config
        rows = read_ncf(config.path)
        self._rows = rows
        self.tasks: tuple[str, ...] = ("label",)
        held_B = _held_out(rows, config.holdout_seed)
        # Training rows first, so that with and without those of validation they are a slice.
        order = np.argsort(held_B, kind="stable")
        self._user_P, self._item_P = rows.user_B[order], rows.item_B[order]
        self._num_train = int((~held_B).sum())
        self._candidates = _Candidates(rows, held_B, config)
        self._unmet: dict[int, UnmetItems] = {}
        self.spec = self._spec()
        text = f"{rows.sha256} {config.validation_negatives} {config.holdout_seed}"
        self.rows_fingerprint = hashlib.sha256(text.encode()).hexdigest()
        text += f" {config.embedding_dim} {config.num_negatives}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.fitted_fingerprint: str | None = None

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Rows of these splits together, negatives counted."""
        if "train" in splits:
            return self._num_positives(splits) * (1 + self.config.num_negatives)
        return self._candidates.num_rows(splits)

    def save_fitted(self, folder: Path) -> None:
        """Nothing: nothing is fitted."""

    def for_refit(self) -> NCFDataset:
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

        A query that a batch has no room for is cut, and its user row is in both batches.
        """
        if "train" in splits:
            return self._training_batches(
                self._num_positives(splits), batch_items, shuffle_seed, first_batch
            )
        return self._candidates.batches(splits, batch_items, shuffle_seed, first_batch)

    def _num_positives(self, splits: Sequence[Split]) -> int:
        """Positives to train on: those of train, or of train and validation."""
        if tuple(splits) == ("train",):
            return self._num_train
        if tuple(splits) == ("train", "validation"):
            return len(self._user_P)
        allowed = "train, train and validation, or parts without train: candidates to rank"
        raise ConfigError("--split", list(splits), allowed)

    def _training_batches(
        self, num_positives: int, batch_items: int, shuffle_seed: int | None, first_batch: int
    ) -> Batches:
        """Positives, each followed by its negatives."""
        if num_positives not in self._unmet:
            self._unmet[num_positives] = UnmetItems(
                self._user_P[:num_positives],
                self._item_P[:num_positives],
                self._rows.num_users,
                self._rows.num_items,
            )
        rows_per_query = 1 + self.config.num_negatives
        order = None if shuffle_seed is None else Permutation(num_positives, shuffle_seed)
        seed, num_rows = shuffle_seed or 0, num_positives * rows_per_query
        block_rows = _BLOCK_BATCHES * batch_items
        for block in range(first_batch // _BLOCK_BATCHES, -(-num_rows // block_rows)):
            start, stop = block * block_rows, min((block + 1) * block_rows, num_rows)
            first, last = start // rows_per_query, -(-stop // rows_per_query)
            place_P = np.arange(first, last) if order is None else order.range(first, last)
            drawn = self._with_negatives(place_P, num_positives, (seed, block))
            skipped = max(0, first_batch - block * _BLOCK_BATCHES) * batch_items
            for row in range(start + skipped, stop, batch_items):
                yield drawn.batch(
                    row - first * rows_per_query,
                    min(row + batch_items, stop) - first * rows_per_query,
                )

    def _with_negatives(self, place_P: Ints, num_positives: int, seed: tuple[int, int]) -> _Drawn:
        """The positives at these places, with negatives that the seed decides."""
        user_P = self._user_P[place_P]
        item_PK = np.empty((len(place_P), 1 + self.config.num_negatives), dtype=np.int64)
        item_PK[:, 0] = self._item_P[place_P]
        user_L = np.repeat(user_P, self.config.num_negatives)
        negative_L = self._unmet[num_positives].draw(user_L, np.random.default_rng(seed))
        item_PK[:, 1:] = negative_L.reshape(len(place_P), -1)
        return _Drawn(user_P, item_PK)

    def _spec(self) -> FeatureSpec:
        """One id on each side."""
        counts = {"user": self._rows.num_users, "item": self._rows.num_items}
        return FeatureSpec(
            features=(
                Feature(name="user_id", side="user", kind="bag", table="user"),
                Feature(name="item_id", side="item", kind="bag", table="item"),
            ),
            tables=tuple(
                TableSpec(name=name, num_embeddings=n, embedding_dim=self.config.embedding_dim)
                for name, n in counts.items()
            ),
        )


class _Drawn:
    """Positives with their negatives, some ten thousand rows, to cut batches from.

    Args:
        user_P: of each positive.
        item_PK: the positive item and its negatives.
    """

    def __init__(self, user_P: Ints, item_PK: Ints) -> None:
        self._rows_per_query = item_PK.shape[1]
        label_PK = np.zeros(item_PK.shape, dtype=np.float32)
        label_PK[:, 0] = 1.0
        self._user_P = torch.from_numpy(user_P)
        self._item_B = torch.from_numpy(item_PK.reshape(-1))
        self._label_BT = torch.from_numpy(label_PK.reshape(-1, 1))
        self._query_B = torch.arange(len(user_P)).repeat_interleave(self._rows_per_query)
        self._group_B = self._user_P[self._query_B]

    def batch(self, first: int, last: int) -> tuple[FeatureBatch, Labels]:
        """Rows [first, last), in views as far as may be."""
        query, end = first // self._rows_per_query, -(-last // self._rows_per_query)
        features = FeatureBatch(
            user=_one_id(self._user_P[query:end]),
            item=_one_id(self._item_B[first:last]),
            item_to_user_B=self._query_B[first:last] - query,
        )
        labels = Labels(values_BT=self._label_BT[first:last], group_B=self._group_B[first:last])
        return features, labels


class _Candidates:
    """Held-out items among others: queries of validation, then of test, each in order of users.

    Args:
        rows: the files.
        held_B: which training rows validation has.
        config: how many negatives these get.
    """

    def __init__(self, rows: NCFRows, held_B: np.ndarray, config: NCFDataConfig) -> None:
        user_Q, item_Q = rows.user_B[held_B], rows.item_B[held_B]
        unmet = UnmetItems(rows.user_B, rows.item_B, rows.num_users, rows.num_items)
        rng = np.random.default_rng((config.holdout_seed, 1))
        negative_QK = unmet.draw_distinct(user_Q, config.validation_negatives, rng)
        num_negatives_Q = np.full(len(user_Q), config.validation_negatives)
        self._user_Q = np.r_[user_Q, rows.test_user_Q]
        self._length_Q = 1 + np.r_[num_negatives_Q, rows.num_negatives_Q]
        self._end_Q = np.cumsum(self._length_Q)
        # The positive comes first; metrics do not look at the order of rows.
        self._label_B = np.zeros(self._end_Q[-1], dtype=np.float32)
        self._label_B[self._end_Q - self._length_Q] = 1.0
        self._item_B = np.empty(self._end_Q[-1], dtype=np.int64)
        self._item_B[self._label_B == 1.0] = np.r_[item_Q, rows.test_item_Q]
        self._item_B[self._label_B == 0.0] = np.r_[negative_QK.reshape(-1), rows.negative_L]
        num_held = len(user_Q)
        self._bounds: dict[Split, tuple[int, int]] = {
            "validation": (0, num_held),
            "test": (num_held, len(self._user_Q)),
        }

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Rows of these splits together."""
        queries = contiguous_range(self._bounds, splits)
        return int(self._length_Q[queries.start : queries.stop].sum())

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        shuffle_seed: int | None,
        first_batch: int,
    ) -> Iterator[tuple[FeatureBatch, Labels]]:
        """See `Dataset.batches`."""
        order_Q = np.array(contiguous_range(self._bounds, splits), dtype=np.int64)
        if shuffle_seed is not None:
            order_Q = np.random.default_rng(shuffle_seed).permutation(order_Q)
        for query_U, skip_U, length_U in cut_queries(
            order_Q, self._length_Q, batch_items, first_batch
        ):
            first_U = self._end_Q[query_U] - self._length_Q[query_U] + skip_U
            row_B = range_indices(first_U, length_U)
            user_U = torch.from_numpy(self._user_Q[query_U])
            to_user_B = torch.from_numpy(np.repeat(np.arange(len(query_U)), length_U))
            features = FeatureBatch(
                user=_one_id(user_U),
                item=_one_id(torch.from_numpy(self._item_B[row_B])),
                item_to_user_B=to_user_B,
            )
            label_BT = torch.from_numpy(self._label_B[row_B]).unsqueeze(1)
            yield features, Labels(values_BT=label_BT, group_B=user_U[to_user_B])


def _held_out(rows: NCFRows, seed: int) -> np.ndarray:
    """Which training rows validation has: one of every user that keeps another, at random."""
    order = np.random.default_rng((seed, 0)).permutation(len(rows.user_B))
    first_U = order[np.unique(rows.user_B[order], return_index=True)[1]]
    held_B = np.zeros(len(rows.user_B), dtype=np.bool_)
    held_B[first_U[np.bincount(rows.user_B)[rows.user_B[first_U]] > 1]] = True
    return held_B


def _one_id(id_R: Tensor) -> SideFeatures:
    """A side with one id a row."""
    num_rows = len(id_R)
    return SideFeatures(
        dense_RN=torch.zeros(num_rows, 0), values_L=id_R, offsets=torch.arange(num_rows + 1)
    )
