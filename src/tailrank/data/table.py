"""Any table of clicks as a data set: a Parquet or CSV file and a schema of its columns.

The file is parsed once into memory-mapped columns in temporary files, so that any order of rows
costs no memory. Rows are ordered by time and split; rows of one query stay together, share one
user row and are shuffled as one. A missing number is 0 after its transform (the mean, where that
is `standardise`); a missing category is a row of its table, another than that of unknown ones; a
missing list is an empty one. Knows no model.

Legend: U user rows, B item rows, R rows of one side, N dense width of one side, L ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.core.files import replace_text
from tailrank.data.dataset import SPLITS, Batches, ReadingProgress, Split, empty_side
from tailrank.data.jagged import Ints, JaggedColumn, row_major
from tailrank.data.queries import QueryRows, RowOrder
from tailrank.data.schema import FeatureColumn, Schema, load_schema
from tailrank.data.table_columns import TableColumns, dense_features
from tailrank.data.table_fit import (
    FITTED_FILE,
    NumberScale,
    TableFit,
    fit,
    id_of_code,
    load_fit,
)
from tailrank.data.vocabulary import FIRST_KNOWN_ID
from tailrank.features import (
    SIDES,
    Feature,
    FeatureBatch,
    FeatureSpec,
    Labels,
    Side,
    SideFeatures,
    TableSpec,
)

SCHEMA_FILE = "schema.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableConfig:
    """How to read a table.

    Args:
        path: Parquet or CSV file; see `table_file`.
        schema: what its columns mean.
        min_count: where the schema does not say: categories seen fewer times are *unknown*.
        embedding_dim: dim of every table.
        scratch: folder for the temporary columns; None: the system's.
    """

    path: Path
    schema: Schema
    min_count: int = 2
    embedding_dim: int = 16
    scratch: Path | None = None

    def __post_init__(self) -> None:
        for field in ("min_count", "embedding_dim"):
            if getattr(self, field) < 1:
                raise ConfigError(field, getattr(self, field), "at least 1")


def load_fitted(folder: Path, schema: Path | None = None) -> tuple[Schema, TableFit]:
    """Read what `TableDataset.save_fitted` wrote into a model's folder.

    Args:
        folder: the model's.
        schema: a schema file that the user named as well.

    Raises:
        RequestError: that schema is another one.
        DataError: missing or damaged files.
    """
    trained = load_schema(folder / SCHEMA_FILE)
    if schema is not None and load_schema(schema) != trained:
        reason = f"{schema} is another one than the model has in {folder}; leave it out"
        raise RequestError("--schema", reason)
    return trained, load_fit(folder / FITTED_FILE, trained)


def fitted_digest(schema: Schema, fitted: TableFit) -> str:
    """Hex digest of a schema and what was fitted: same digest, rows are read alike."""
    return hashlib.sha256(f"{schema.to_toml()} {fitted.fingerprint}".encode()).hexdigest()


class TableDataset:
    """The rows; see `data.dataset.Dataset`. `Labels.group_B` numbers the queries, if there are any.

    Args:
        config: how to read them.
        fitted: of a model that is already trained; None: fitted on train.
        progress: told how far reading is.

    Raises:
        DataError: the file cannot be used; names line or row, column and value.
    """

    name = "table"
    tasks: tuple[str, ...] = ("label",)

    def __init__(
        self,
        config: TableConfig,
        fitted: TableFit | None = None,
        progress: ReadingProgress | None = None,
    ) -> None:
        columns = TableColumns(config.path, config.schema, config.scratch, progress)
        order = RowOrder(columns.num_rows, columns.time_B, columns.query_B)
        # A later log may be scored as a whole, however short it is.
        if fitted is None and not all(order.num_rows((split,)) for split in SPLITS):
            what = "rows" if config.schema.query_id is None else "queries"
            reason = f"{order.num_queries} {what}; too few for train, validation and test"
            raise DataError(config.path, reason)
        if config.schema.query_id is not None:
            _check_users(columns, config.schema, order)
        if fitted is not None:
            _check_lists(columns, config.schema, fitted)
        self._assemble(config, columns, order, fitted)

    def _assemble(
        self,
        config: TableConfig,
        columns: TableColumns,
        order: RowOrder,
        fitted: TableFit | None,
        fit_on: tuple[Split, ...] = ("train",),
    ) -> None:
        """Join rows and what is fitted on them."""
        self.config, self._columns, self._order = config, columns, order
        schema = config.schema
        if fitted is None:

            def blocks() -> Iterator[Ints]:
                return (rows.row_B for rows in order.blocks(fit_on))

            fitted = fit(columns, schema, blocks, config.min_count)
        self.fitted = fitted
        self.spec = _spec(schema, fitted, config.embedding_dim)
        self._sides = {side: _SideReader(columns, schema, fitted, side) for side in SIDES}
        text = f"{columns.sha256} {schema.label} {schema.query_id!r} {schema.time!r}"
        self.rows_fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.fitted_fingerprint: str | None = fitted_digest(schema, fitted)
        text = f"{self.rows_fingerprint} {self.fitted_fingerprint} {config.embedding_dim}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Rows of these splits together."""
        return self._order.num_rows(splits)

    def save_fitted(self, folder: Path) -> None:
        """Write schema and vocabulary."""
        replace_text(folder / SCHEMA_FILE, self.config.schema.to_toml())
        self.fitted.save(folder / FITTED_FILE)

    def for_refit(self) -> TableDataset:
        """The same rows with vocabulary and spreads fitted on train + validation."""
        refitted = TableDataset.__new__(TableDataset)
        refitted._assemble(self.config, self._columns, self._order, None, ("train", "validation"))
        return refitted

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """See `Dataset.batches`; a query that a batch has no room for goes on in the next."""
        for rows in self._order.batches(
            splits, batch_items, shuffle_seed=shuffle_seed, first_batch=first_batch
        ):
            label_B = self._columns.label_B[rows.row_B].astype(np.float32)
            yield (
                self._features(rows),
                Labels(
                    values_BT=torch.from_numpy(label_B).unsqueeze(1),
                    group_B=None
                    if self.config.schema.query_id is None
                    else torch.from_numpy(rows.query_B),
                ),
            )

    def _features(self, rows: QueryRows) -> FeatureBatch:
        """The features of some rows."""
        item = self._sides["item"].take(rows.row_B)
        if self._sides["user"].is_empty:
            return FeatureBatch(
                user=empty_side(1),
                item=item,
                item_to_user_B=torch.zeros(len(rows.row_B), dtype=torch.int64),
            )
        return FeatureBatch(
            user=self._sides["user"].take(rows.first_row_U),
            item=item,
            item_to_user_B=torch.from_numpy(rows.item_to_user_B),
        )


class _SideReader:
    """Reads the features of one side.

    Args:
        columns: all rows.
        schema: what they mean.
        fitted: what is known.
        side: which one.
    """

    def __init__(self, columns: TableColumns, schema: Schema, fitted: TableFit, side: Side) -> None:
        dense = dense_features(schema, side)
        self._dense = columns.dense[side]
        self._scale = NumberScale(dense, fitted)
        id_of_code_by_table = {
            table: id_of_code(texts, fitted.known[table]) for table, texts in columns.texts.items()
        }
        self._sparse = [
            (columns.codes[feature.name], id_of_code_by_table.get(feature.table_name))
            for feature in schema.features
            if feature.kind != "dense" and feature.side == side
        ]
        self._has_lists = any(column.is_list for column, _ in self._sparse)

    @property
    def is_empty(self) -> bool:
        """Whether the side has no feature."""
        return not self._sparse and not self._scale.width

    def take(self, row_R: Ints) -> SideFeatures:
        """The features of some rows of the file."""
        columns = []
        for column, ids in self._sparse:
            code_L, length_R = column.take(row_R)
            id_L = code_L if ids is None else ids[code_L]
            columns.append(JaggedColumn(id_L.astype(np.int64), length_R))
        if not columns:
            values_L, offsets = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
        elif self._has_lists:
            values_L, offsets = row_major(columns)
        else:
            values_L = np.stack([column.values_L for column in columns], axis=1).reshape(-1)
            offsets = np.arange(len(values_L) + 1)
        return SideFeatures(
            dense_RN=torch.from_numpy(self._numbers(row_R)),
            values_L=torch.from_numpy(values_L),
            offsets=torch.from_numpy(offsets),
        )

    def _numbers(self, row_R: Ints) -> NDArray[np.float32]:
        """Dense features, transformed."""
        if not self._scale.width:
            return np.zeros((len(row_R), 0), dtype=np.float32)
        return self._scale(self._dense[row_R])


def _spec(schema: Schema, fitted: TableFit, embedding_dim: int) -> FeatureSpec:
    """Features and tables."""

    def rows(table: str, feature: FeatureColumn) -> int:
        known = len(fitted.known[table]) if table in fitted.known else feature.buckets or 1
        return FIRST_KNOWN_ID + known

    return FeatureSpec(
        features=tuple(
            Feature(name=feature.name, side=feature.side, kind="dense")
            if feature.kind == "dense"
            else Feature(
                name=feature.name,
                side=feature.side,
                kind=feature.kind,
                table=feature.table_name,
                pooling_factor=fitted.pooling_factor[feature.name],
            )
            for feature in schema.features
        ),
        tables=tuple(
            TableSpec(name=table, num_embeddings=rows(table, feature), embedding_dim=embedding_dim)
            for table, feature in schema.tables.items()
        ),
    )


def _check_lists(columns: TableColumns, schema: Schema, fitted: TableFit) -> None:
    """Refuse single values where training read lists: each text would be one unknown category.

    Raises:
        DataError: names the column.
    """
    for feature in schema.features:
        if feature.kind == "dense" or columns.codes[feature.name].is_list:
            continue
        mean = fitted.pooling_factor[feature.name]
        if mean != 1.0:
            reason = f"single values; the model was trained on lists, of {mean:g} ids on average"
            raise DataError(columns.file.path, reason, column=feature.source)


def _check_users(columns: TableColumns, schema: Schema, order: RowOrder) -> None:
    """Refuse user features that differ inside a query.

    Raises:
        DataError: names the first row of such a query, in the order of time, that differs.
    """
    dense = dense_features(schema, "user")
    sparse = [f for f in schema.features if f.side == "user" and f.kind != "dense"]
    for rows in order.blocks():
        first_B = rows.first_row_U[rows.item_to_user_B]
        for number, feature in enumerate(dense):
            here_B, there_B = (
                columns.dense["user"][row_B, number] for row_B in (rows.row_B, first_B)
            )
            differs_B = (here_B != there_B) & ~(np.isnan(here_B) & np.isnan(there_B))
            _refuse_difference(columns, feature, rows.row_B, first_B, differs_B)
        for feature in sparse:
            here_L, length_B = columns.codes[feature.name].take(rows.row_B)
            there_L, other_B = columns.codes[feature.name].take(first_B)
            differs_B = length_B != other_B
            if not differs_B.any():
                row_L = np.repeat(np.arange(len(length_B)), length_B)
                differs_B[row_L[here_L != there_L]] = True
            _refuse_difference(columns, feature, rows.row_B, first_B, differs_B)


def _refuse_difference(
    columns: TableColumns,
    feature: FeatureColumn,
    row_B: Ints,
    first_B: Ints,
    differs_B: NDArray[np.bool_],
) -> None:
    """Raise the error of the first row that differs."""
    if not differs_B.any():
        return
    index, column = int(differs_B.argmax()), feature.source
    other = columns.file.fault(int(first_B[index]), column, "")
    place = f"line {other.line}" if other.row is None else f"row {other.row}"
    reason = (
        f"differs from {other.value!r} in {place} of the same query; a feature of side 'user' "
        "has one value per query"
    )
    raise columns.file.fault(int(row_B[index]), column, reason)
