"""Amazon reviews as sequences: a user's behaviours so far, and which item came next.

Of each user's items in time order the last is tested, the one before chooses, and each earlier one
but the first is trained on; the history of a *target* is what the user had before it, the last
`history_max`. A target and items that the user has not met share one user row: in training
`num_negatives` of them, drawn anew for every order of the rows, elsewhere a fixed list per user.
No history, and no choice of negatives, looks past the end of its own part. Knows no model.

A behaviour is an item and *one* attribute, so that both sequences have one id per behaviour; of an
item's one to six or more it is the rarest, which says most about it.

Legend: U user rows, B item rows, Q targets, M items, L items of all users, A attributes of all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.amazon_file import AmazonRows, read_amazon
from tailrank.data.dataset import SPLITS, Batches, Split, contiguous_range
from tailrank.data.jagged import Ints, JaggedColumn, range_indices, row_major
from tailrank.data.negatives import UnmetItems
from tailrank.data.queries import cut_queries
from tailrank.features import Feature, FeatureBatch, FeatureSpec, Labels, SideFeatures, TableSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AmazonConfig:
    """How to read a category.

    Args:
        path: of the log, with or without `.txt`.
        embedding_dim: dim of both tables.
        history_max: behaviours of a history, the last ones.
        num_negatives: items beside each target where training rows are read.
        validation_negatives: items beside each target that chooses. Fewer than for the test: whose
            mean over users they hardly disturb, and validation is scored in every pass.
        test_negatives: items beside each tested target.
        seed: of the negatives to choose by and to test with.
    """

    path: Path
    embedding_dim: int = 16
    history_max: int = 50
    num_negatives: int = 4
    validation_negatives: int = 24
    test_negatives: int = 99
    seed: int = 0

    def __post_init__(self) -> None:
        for field in (
            "embedding_dim",
            "history_max",
            "num_negatives",
            "validation_negatives",
            "test_negatives",
        ):
            if getattr(self, field) < 1:
                raise ConfigError(f"amazon.{field}", getattr(self, field), "at least 1")
        if self.seed < 0:
            raise ConfigError("amazon.seed", self.seed, "0 or more")


class AmazonDataset:
    """The targets of a category; see `data.dataset.Dataset`. `Labels.group_B` is the user.

    Where train is among the splits asked for, every target has `num_negatives` items beside it, a
    validation target too: a refit learns from it.

    Args:
        config: how to read them.

    Raises:
        DataError: a file is missing or not in the format, or a user has met so many items that
            too few are left to rank against.
    """

    name = "amazon"
    tasks: tuple[str, ...] = ("label",)

    def __init__(self, config: AmazonConfig) -> None:
        self.config = config
        rows = read_amazon(config.path)
        self._item_L, self._attribute_M = rows.item_L, rarest_attributes(rows)
        self._targets = _Targets(rows.length_U, config.history_max)
        self._unmet: dict[Split, UnmetItems] = {
            split: _unmet_items(rows, split) for split in SPLITS
        }
        self._first_held_out_Q, self._held_out_L = self._held_out(rows)
        self.spec = self._spec(int(rows.attribute_A.max()) + 1)
        # What is tested, and against what; how many items choose is no part of it.
        text = f"{rows.sha256} {config.seed} {config.test_negatives}"
        self.rows_fingerprint = hashlib.sha256(text.encode()).hexdigest()
        text += f" {config.embedding_dim} {config.history_max} {config.num_negatives}"
        text += f" {config.validation_negatives}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.fitted_fingerprint: str | None = None

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Targets of these splits and the items beside them."""
        targets = contiguous_range(self._targets.bounds, splits)
        return int(self._length_Q(splits)[targets.start : targets.stop].sum())

    def save_fitted(self, folder: Path) -> None:
        """Nothing: nothing is fitted."""

    def for_refit(self) -> AmazonDataset:
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
        """See `Dataset.batches`; a shuffle reorders targets, whose items stay together.

        A target whose items a batch has no room for is cut, and its user row is in both batches.
        Items to train on beside targets follow from the shuffle's seed and the batch's number.
        """
        order_Q = np.array(contiguous_range(self._targets.bounds, splits), dtype=np.int64)
        if shuffle_seed is not None:
            order_Q = np.random.default_rng(shuffle_seed).permutation(order_Q)
        cuts = cut_queries(order_Q, self._length_Q(splits), batch_items, first_batch)
        for number, (target_U, skip_U, length_U) in enumerate(cuts, start=first_batch):
            rng = np.random.default_rng((shuffle_seed or 0, number))
            to_user_B = np.repeat(np.arange(len(target_U)), length_U)
            place_B = range_indices(skip_U, length_U)
            item_B = self._candidates(splits, target_U[to_user_B], place_B, rng)
            features = FeatureBatch(
                user=self._users(target_U),
                item=self._items(item_B),
                item_to_user_B=torch.from_numpy(to_user_B),
            )
            labels = Labels(
                values_BT=torch.from_numpy((place_B == 0).astype(np.float32)).unsqueeze(1),
                group_B=torch.from_numpy(self._targets.user_Q[target_U][to_user_B]),
            )
            yield features, labels

    def _candidates(
        self, splits: Sequence[Split], target_B: Ints, place_B: Ints, rng: np.random.Generator
    ) -> Ints:
        """The items at places among those of their targets; at place 0 is the target itself."""
        item_B: Ints = self._item_L[self._targets.end_Q[target_B]]
        beside = np.flatnonzero(place_B)
        target_N = target_B[beside]
        if "train" in splits:
            # Not what the user has met by the end of these splits: what is met later is unknown.
            unmet = self._unmet[splits[-1]]
            item_B[beside] = unmet.draw(self._targets.user_Q[target_N], rng)
        else:
            first_N = self._first_held_out_Q[target_N]
            item_B[beside] = self._held_out_L[first_N + place_B[beside] - 1]
        return item_B

    def _users(self, target_U: Ints) -> SideFeatures:
        """The behaviours before these targets."""
        first_U, end_U = self._targets.first_Q[target_U], self._targets.end_Q[target_U]
        item_L = self._item_L[range_indices(first_U, end_U - first_U)]
        return self._side(JaggedColumn(item_L, end_U - first_U))

    def _items(self, item_B: Ints) -> SideFeatures:
        """Candidates."""
        return self._side(JaggedColumn(item_B, np.ones_like(item_B)))

    def _side(self, items: JaggedColumn) -> SideFeatures:
        """Rows of items, and of the attribute of each."""
        attributes = JaggedColumn(self._attribute_M[items.values_L], items.length_R)
        values_L, offsets = row_major([items, attributes])
        return SideFeatures(
            dense_RN=torch.zeros(len(items.length_R), 0),
            values_L=torch.from_numpy(values_L),
            offsets=torch.from_numpy(offsets),
        )

    def _length_Q(self, splits: Sequence[Split]) -> Ints:
        """Rows of every target: itself and the items beside it."""
        config = self.config
        counts = [config.num_negatives, config.validation_negatives, config.test_negatives]
        if "train" in splits:
            counts = [config.num_negatives] * len(SPLITS)
        sizes = [last - first for first, last in self._targets.bounds.values()]
        return 1 + np.repeat(np.array(counts, dtype=np.int64), sizes)

    def _held_out(self, rows: AmazonRows) -> tuple[Ints, Ints]:
        """Where the negatives of each target start, and those to choose by and to test with."""
        config, users = self.config, np.arange(len(rows.length_U))
        counts: dict[Split, int] = {
            "validation": config.validation_negatives,
            "test": config.test_negatives,
        }
        left_U, needed = self._unmet["test"].num_unmet_U, max(counts.values())
        if left_U.min() < needed:
            user = int(left_U.argmin())
            reason = f"too many: {left_U[user]} are left to rank against; expected {needed} or more"
            met = int(rows.length_U[user])
            raise DataError(rows.log_file, reason, user + 1, column="items", value=met)
        rng = np.random.default_rng(config.seed)
        drawn = [
            self._unmet[split].draw_distinct(users, count, rng).reshape(-1)
            for split, count in counts.items()
        ]
        count_Q = self._length_Q(("test",)) - 1
        count_Q[: self._targets.bounds["train"][1]] = 0
        return np.cumsum(count_Q) - count_Q, np.concatenate(drawn)

    def _spec(self, num_attributes: int) -> FeatureSpec:
        """Features and tables, in the order of `_side`."""
        dim, targets = self.config.embedding_dim, self._targets
        first, last = targets.bounds["train"]
        length_Q = (targets.end_Q - targets.first_Q)[first:last]
        behaviours = round(float(length_Q.mean()), 2) if len(length_Q) else 1.0
        num_rows = {"item": len(self._attribute_M), "attribute": num_attributes}
        user = (("history_items", "item"), ("history_attributes", "attribute"))
        item = (("item_id", "item"), ("attribute", "attribute"))
        return FeatureSpec(
            features=(
                *(
                    Feature(
                        name=name,
                        side="user",
                        kind="sequence",
                        table=table,
                        pooling_factor=behaviours,
                    )
                    for name, table in user
                ),
                *(Feature(name=name, side="item", kind="bag", table=table) for name, table in item),
            ),
            tables=tuple(
                TableSpec(name=name, num_embeddings=count, embedding_dim=dim)
                for name, count in num_rows.items()
            ),
        )


class _Targets:
    """What is predicted: train, then validation, then test, each in the order of users.

    Args:
        length_U: items of each user.
        history_max: behaviours of a history at most.

    Attributes:
        bounds: targets [first, last) of the splits.
        user_Q: the user of each.
        first_Q: where its history starts among the items of all users.
        end_Q: where it ends, which is where the target stands.
    """

    def __init__(self, length_U: Ints, history_max: int) -> None:
        users, end_U = np.arange(len(length_U)), np.cumsum(length_U)
        num_train_U = np.maximum(length_U - 3, 0)
        train_Q = range_indices(end_U - length_U + 1, num_train_U)
        self.end_Q = np.concatenate([train_Q, end_U - 2, end_U - 1])
        self.user_Q = np.concatenate([np.repeat(users, num_train_U), users, users])
        start_Q = (end_U - length_U)[self.user_Q]
        self.first_Q = np.maximum(start_Q, self.end_Q - history_max)
        cuts = np.cumsum([len(train_Q), len(users), len(users)]).tolist()
        self.bounds: dict[Split, tuple[int, int]] = dict(
            zip(SPLITS, pairwise([0, *cuts]), strict=True)
        )


def rarest_attributes(rows: AmazonRows) -> Ints:
    """Of each item's attributes the one that the fewest items have, the first of several (M,)."""
    count_A = np.bincount(rows.attribute_A)[rows.attribute_A]
    item_A = np.repeat(np.arange(len(rows.num_attributes_M)), rows.num_attributes_M)
    order_A = np.lexsort((count_A, item_A))
    end_M = np.cumsum(rows.num_attributes_M)
    found_M: Ints = rows.attribute_A[order_A[end_M - rows.num_attributes_M]]
    return found_M


def _unmet_items(rows: AmazonRows, split: Split) -> UnmetItems:
    """Items that users have not met by the end of a split."""
    held_back = len(SPLITS) - 1 - SPLITS.index(split)
    length_U = rows.length_U - held_back
    met_L = range_indices(np.cumsum(rows.length_U) - rows.length_U, length_U)
    user_L = np.repeat(np.arange(len(length_U)), length_U)
    return UnmetItems(user_L, rows.item_L[met_L], len(length_U), len(rows.num_attributes_M))
