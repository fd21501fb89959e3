"""The Criteo Kaggle Display Advertising log as a data set, split by time.

The file is parsed once into encoded rows in a temporary file: 160 bytes a row on disk, 212 with
buckets. They are not kept from run to run: parsing is quick, and a cache that outlives its file or
its settings is a fault waiting. Memory does not grow with the rows. It does with the different
categories: where a vocabulary is fitted, about 60 bytes for each, rare ones included. Knows no
model.

A category's *code* is its place among those of the whole file, in the order in which they are met,
so that one pass over the text is enough and another vocabulary means another map from code to id.
With a given vocabulary, only what it knows has a code.

Legend: B rows, C different categories, N dense (13), F categories (26) and, if asked for, buckets
(13).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.category_index import ABSENT, CategoryIndex, Keys
from tailrank.data.criteo_file import NUM_CATEGORIES, NUM_DENSE, NUM_VALUES, CriteoFile
from tailrank.data.dataset import (
    SPLITS,
    Batches,
    ReadingProgress,
    Split,
    all_item_batch,
    contiguous_range,
    split_bounds,
)
from tailrank.data.permutation import Permutation
from tailrank.data.row_file import RowFile
from tailrank.data.vocabulary import Vocabulary
from tailrank.features import Feature, FeatureSpec, Labels, TableSpec

VOCABULARY_FILE = "vocabulary.safetensors"
_BLOCK_ROWS = 1 << 13
_ROWS_MIN = 7  # one per seventh


@dataclass(frozen=True, slots=True, kw_only=True)
class CriteoConfig:
    """How to read the log.

    Args:
        path: TSV file as published, `.gz` allowed.
        min_count: categories seen fewer times in the rows used for fitting become *unknown*.
        embedding_dim: dim of every table.
        integer_buckets: whether each integer is also a category (its bucket): 13 more tables.
        scratch: folder for the temporary columns; None: the system's.
    """

    path: Path
    min_count: int = 2
    embedding_dim: int = 16
    integer_buckets: bool = False
    scratch: Path | None = None

    def __post_init__(self) -> None:
        for field in ("min_count", "embedding_dim"):
            if getattr(self, field) < 1:
                raise ConfigError(field, getattr(self, field), "at least 1")

    @property
    def num_sparse(self) -> int:
        """F."""
        return NUM_VALUES if self.integer_buckets else NUM_CATEGORIES


class CriteoDataset:
    """The log; see `data.dataset.Dataset`. All features are on the item side.

    Args:
        config: how to read it.
        vocabulary: known categories, for a model that is already trained; None: fitted on train.
        progress: told how far reading is.

    Raises:
        ConfigError: the vocabulary is not for this number of features.
        DataError: the file is missing, empty, damaged or not in the format; names line, column and
            value.
    """

    name = "criteo"
    tasks: tuple[str, ...] = ("label",)

    def __init__(
        self,
        config: CriteoConfig,
        vocabulary: Vocabulary | None = None,
        progress: ReadingProgress | None = None,
    ) -> None:
        self.config = config
        self._key_C: Keys | None = None
        if vocabulary is None:
            seen = CategoryIndex()
            self._read(seen.code, progress)
            if (num_rows := self.num_rows(SPLITS)) < _ROWS_MIN:
                reason = f"{num_rows} rows; expected at least {_ROWS_MIN} to split by time"
                raise DataError(config.path, reason)
            self._key_C = seen.key_C
            self._fit(self._bounds["train"][1])
            return
        if len(vocabulary.known) != config.num_sparse:
            allowed = f"as the vocabulary, which knows {len(vocabulary.known)} features"
            raise ConfigError("integer_buckets", config.integer_buckets, allowed)
        index, id_of_code = vocabulary.index()
        self._read(index.find, progress)
        self._know(vocabulary, id_of_code)

    def _read(
        self, encode: Callable[[Keys], NDArray[np.int32]], progress: ReadingProgress | None
    ) -> None:
        """Parse the file into encoded rows."""
        file = CriteoFile(
            self.config.path, integer_buckets=self.config.integer_buckets, progress=progress
        )
        self._rows = RowFile(NUM_DENSE, self.config.num_sparse, self.config.scratch)
        for rows in file.blocks():
            self._rows.append(rows.label_B, rows.dense_BN, encode(rows.key_BF))
        self._bounds: dict[Split, tuple[int, int]] = split_bounds(file.num_rows)
        self.rows_fingerprint = file.sha256

    def _fit(self, num_rows: int) -> None:
        """Know the categories of the first so many rows."""
        assert self._key_C is not None
        count_C = np.zeros(len(self._key_C) + 1, dtype=np.int64)
        for first in range(0, num_rows, _BLOCK_ROWS):
            rows = self._rows.read(first, min(first + _BLOCK_ROWS, num_rows))
            np.add.at(count_C, rows["code"].reshape(-1), 1)
        config = self.config
        vocabulary = Vocabulary.fit(self._key_C, count_C[1:], config.num_sparse, config.min_count)
        index, id_of_known = vocabulary.index()
        code_of_known = np.append(np.int32(ABSENT), index.find(self._key_C))
        self._know(vocabulary, id_of_known[code_of_known])

    def _know(self, vocabulary: Vocabulary, id_of_code: NDArray[np.int32]) -> None:
        """Encode with these categories from now on."""
        self.vocabulary, self._id_of_code = vocabulary, id_of_code
        self.spec = _spec(vocabulary.table_rows, self.config.embedding_dim)
        self.fitted_fingerprint: str | None = vocabulary.fingerprint
        text = f"{self.rows_fingerprint} {vocabulary.fingerprint} {self.config.embedding_dim}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Rows of these splits together."""
        return len(contiguous_range(self._bounds, splits))

    def save_fitted(self, folder: Path) -> None:
        """Write the vocabulary."""
        self.vocabulary.save(folder / VOCABULARY_FILE)

    def for_refit(self) -> CriteoDataset:
        """The same rows with the vocabulary fitted on train + validation; a given one stays."""
        refitted = copy.copy(self)
        if self._key_C is not None:
            refitted._fit(self._bounds["validation"][1])
        return refitted

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """See `Dataset.batches`."""
        rows = contiguous_range(self._bounds, splits)
        order = None if shuffle_seed is None else Permutation(len(rows), shuffle_seed)
        for first in range(first_batch * batch_items, len(rows), batch_items):
            last = min(first + batch_items, len(rows))
            if order is None:
                here = self._rows.read(rows.start + first, rows.start + last)
            else:
                here = self._rows.take(rows.start + order.range(first, last))
            id_BF = self._id_of_code.take(here["code"])
            # Copies: torch takes nothing that is read-only.
            yield (
                all_item_batch(
                    torch.from_numpy(here["dense"].copy()),
                    torch.from_numpy(id_BF.astype(np.int64)),
                ),
                Labels(values_BT=torch.from_numpy(here["label"].copy()).unsqueeze(1)),
            )


def _spec(table_rows: list[int], embedding_dim: int) -> FeatureSpec:
    """Features and tables for a vocabulary."""
    dense = [Feature(name="integers", side="item", kind="dense", width=NUM_DENSE)]
    names = [f"category_{index}" for index in range(1, NUM_CATEGORIES + 1)]
    names += [f"bucket_{index}" for index in range(1, NUM_DENSE + 1)]
    names = names[: len(table_rows)]
    bags = [Feature(name=name, side="item", kind="bag", table=name) for name in names]
    tables = [
        TableSpec(name=name, num_embeddings=rows, embedding_dim=embedding_dim)
        for name, rows in zip(names, table_rows, strict=True)
    ]
    return FeatureSpec(features=(*dense, *bags), tables=tuple(tables))
