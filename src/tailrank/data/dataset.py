"""What every data set offers to training and evaluation. Knows no file format and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.features import FeatureBatch, FeatureSpec, Labels, SideFeatures

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")
ReadingProgress = Callable[[float, str], None]
"""Told the fraction of a file that is read, and a remark such as `412,000 rows/s`."""
Batches = Iterator[tuple[FeatureBatch, Labels]]


class Dataset(Protocol):
    """Labelled rows in time order, cut into train, validation and test."""

    name: str
    spec: FeatureSpec
    tasks: tuple[str, ...]
    """What is predicted: a name per column of the labels (T of them)."""
    fingerprint: str
    """Hex digest of content and settings: same digest, same batches."""
    rows_fingerprint: str
    """Hex digest of the rows and how they are split, however they are encoded: same digest, same
    test rows."""
    fitted_fingerprint: str | None
    """Hex digest of what was fitted on the training rows (a vocabulary); None: nothing is."""

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Item rows of these splits together."""
        ...

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """The rows of these splits in batches, a pure function of the arguments.

        Args:
            splits: which rows, in time order.
            batch_items: items of every batch but the last, which may be smaller.
            shuffle_seed: seed of a new order; None keeps time order.
            first_batch: batches to leave out at the start, to continue an interrupted run.
        """
        ...

    def save_fitted(self, folder: Path) -> None:
        """Write what was fitted into a model's folder, so that other rows are read alike."""
        ...

    def for_refit(self) -> Dataset:
        """The same rows with everything that is fitted (vocabulary) fitted on train + validation.

        Its `spec` may differ, as more categories become frequent enough to be known.
        """
        ...


def split_bounds(num_rows: int) -> dict[Split, tuple[int, int]]:
    """Row ranges [first, last) of the splits: five sevenths, the sixth seventh, the last."""
    train, validation = num_rows * 5 // 7, num_rows * 6 // 7
    return {
        "train": (0, train),
        "validation": (train, validation),
        "test": (validation, num_rows),
    }


def contiguous_range(bounds: dict[Split, tuple[int, int]], splits: Sequence[Split]) -> range:
    """Rows of splits that follow one another.

    Raises:
        ConfigError: none, an unknown one, or a gap between them.
    """
    if not splits or any(split not in bounds for split in splits):
        raise ConfigError("--split", list(splits), " or ".join(SPLITS))
    for before, after in pairwise(splits):
        if bounds[before][1] != bounds[after][0]:
            raise ConfigError("splits", list(splits), f"neighbours in the order of {SPLITS}")
    return range(bounds[splits[0]][0], bounds[splits[-1]][1])


def empty_side(num_rows: int) -> SideFeatures:
    """A side without features."""
    return SideFeatures(
        dense_RN=torch.zeros(num_rows, 0),
        values_L=torch.zeros(0, dtype=torch.int64),
        offsets=torch.zeros(1, dtype=torch.int64),
    )


def all_item_batch(dense_BN: Tensor, ids_BF: Tensor) -> FeatureBatch:
    """One id per sparse feature, everything on the item side, one featureless user.

    Args:
        dense_BN: float32.
        ids_BF: int64.
    """
    num_items, num_features = ids_BF.shape
    return FeatureBatch(
        user=empty_side(min(1, num_items)),
        item=SideFeatures(
            dense_RN=dense_BN,
            values_L=ids_BF.reshape(-1),
            offsets=torch.arange(num_items * num_features + 1),
        ),
        item_to_user_B=torch.zeros(num_items, dtype=torch.int64),
    )
