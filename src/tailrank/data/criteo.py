"""The Criteo Kaggle Display Advertising log as a data set, split by time.

The file is parsed once into memory-mapped columns in a temporary folder: up to 400 bytes a row on
disk, none of it held in memory, and any row order at memory speed afterwards. They are not kept
from run to run: parsing is quick, and a cache that outlives its file or its settings is a fault
waiting. Knows no model.

Legend: B rows, N dense (13), F categories (26) and, if asked for, buckets (13).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.criteo_file import NUM_CATEGORIES, NUM_DENSE, NUM_VALUES, CriteoFile
from tailrank.data.dataset import (
    Batches,
    Split,
    all_item_batch,
    contiguous_range,
    split_bounds,
)
from tailrank.data.vocabulary import Bits, Values, Vocabulary
from tailrank.features import Feature, FeatureSpec, Labels, TableSpec

VOCABULARY_FILE = "vocabulary.safetensors"
_BLOCK_ROWS = 1 << 16
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

    Raises:
        DataError: the file is missing, empty, damaged or not in the format; names the line.
    """

    name = "criteo"

    def __init__(self, config: CriteoConfig, vocabulary: Vocabulary | None = None) -> None:
        columns = _Columns(config)
        train = split_bounds(columns.num_rows)["train"]
        self._assemble(config, columns, vocabulary or _fit(columns, train, config))

    def _assemble(self, config: CriteoConfig, columns: _Columns, vocabulary: Vocabulary) -> None:
        """Join columns and vocabulary."""
        self.config, self.vocabulary, self._columns = config, vocabulary, columns
        self._bounds: dict[Split, tuple[int, int]] = split_bounds(columns.num_rows)
        self.spec = _spec(vocabulary.table_rows, config.embedding_dim)
        self.rows_fingerprint = columns.sha256
        self.fitted_fingerprint: str | None = vocabulary.fingerprint
        text = f"{columns.sha256} {vocabulary.fingerprint} {config.embedding_dim}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self._id_BF = columns.create(np.int32, config.num_sparse)
        for rows, block in columns.blocks((0, columns.num_rows)):
            self._id_BF[rows] = vocabulary.ids(*block)

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Rows of these splits together."""
        return len(contiguous_range(self._bounds, splits))

    def save_fitted(self, folder: Path) -> None:
        """Write the vocabulary."""
        self.vocabulary.save(folder / VOCABULARY_FILE)

    def for_refit(self) -> CriteoDataset:
        """The same rows with the vocabulary fitted on train + validation."""
        rows = (0, self._bounds["validation"][1])
        refitted = CriteoDataset.__new__(CriteoDataset)
        vocabulary = _fit(self._columns, rows, self.config)
        refitted._assemble(self.config, self._columns, vocabulary)
        return refitted

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """See `Dataset.batches`; a shuffle costs 8 bytes a row."""
        rows = contiguous_range(self._bounds, splits)
        order = None
        if shuffle_seed is not None:
            order = np.random.default_rng(shuffle_seed).permutation(len(rows)) + rows.start
        for start in range(first_batch * batch_items, len(rows), batch_items):
            stop = min(start + batch_items, len(rows))
            if order is None:
                here: slice | NDArray[np.int64] = slice(rows.start + start, rows.start + stop)
            else:
                here = order[start:stop]
            label_B = self._columns.label_B[here].astype(np.float32)
            dense_BN = np.array(self._columns.dense_BN[here])  # a copy: torch takes no read-only
            id_BF = self._id_BF[here].astype(np.int64)
            yield (
                all_item_batch(torch.from_numpy(dense_BN), torch.from_numpy(id_BF)),
                Labels(values_BT=torch.from_numpy(label_B).unsqueeze(1)),
            )


def _fit(columns: _Columns, rows: tuple[int, int], config: CriteoConfig) -> Vocabulary:
    """The vocabulary of these rows."""
    blocks = (block for _, block in columns.blocks(rows))
    return Vocabulary.fit(blocks, config.num_sparse, config.min_count)


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


class _Columns:
    """The parsed file as memory-mapped columns, in a folder that goes when this object does."""

    def __init__(self, config: CriteoConfig) -> None:
        if config.scratch is not None:
            config.scratch.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="tailrank-criteo-", dir=config.scratch))
        # Maps stay valid after their files are unlinked, so batches may outlive this object.
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._num_files = 0
        file, width = CriteoFile(config.path), config.num_sparse
        paths = [self._folder / name for name in ("label", "dense", "category", "missing")]
        with (
            paths[0].open("wb") as label,
            paths[1].open("wb") as dense,
            paths[2].open("wb") as category,
            paths[3].open("wb") as missing,
        ):
            for rows in file.blocks():
                label.write(rows.label_B.data)
                dense.write(rows.dense_BN.data)
                category.write(np.ascontiguousarray(rows.category_BF[:, :width]).data)
                missing.write(rows.missing_B.data)
        self.num_rows, self.sha256 = file.num_rows, file.sha256
        if self.num_rows < _ROWS_MIN:
            raise DataError(
                config.path, f"{self.num_rows} rows; expected at least {_ROWS_MIN} to split by time"
            )
        self.label_B = np.memmap(paths[0], np.uint8, "r")
        self.dense_BN = np.memmap(paths[1], np.float32, "r").reshape(-1, NUM_DENSE)
        self._category_BF = np.memmap(paths[2], np.uint32, "r").reshape(-1, width)
        self._missing_B = np.memmap(paths[3], np.uint64, "r")

    def blocks(self, rows: tuple[int, int]) -> Iterator[tuple[slice, tuple[Values, Bits]]]:
        """Raw categories of rows [first, last): (rows, (category_BF, missing_B)) per block."""
        for first in range(rows[0], rows[1], _BLOCK_ROWS):
            here = slice(first, min(first + _BLOCK_ROWS, rows[1]))
            yield here, (np.asarray(self._category_BF[here]), np.asarray(self._missing_B[here]))

    def create(self, dtype: type[np.generic], width: int) -> NDArray[Any]:
        """A new column of zeros."""
        self._num_files += 1
        path = self._folder / f"column-{self._num_files}"
        return np.memmap(path, dtype, "w+", shape=(self.num_rows, width))
