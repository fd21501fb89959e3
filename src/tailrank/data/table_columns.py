"""A table of clicks parsed once into columns on disk: labels, times, queries, numbers, codes.

Categories are codes here (see `table_codes`): which texts are known is decided later, on training
rows. Memory follows the number of different texts, not of rows. Knows no split and no fitted
vocabulary.

Legend: B rows, N dense features of one side, L ids.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tailrank.data.dataset import ReadingProgress
from tailrank.data.jagged import Ints, range_indices
from tailrank.data.schema import FeatureColumn, Schema
from tailrank.data.scratch import ScratchColumns
from tailrank.data.table_cells import holds_dates, labels, numbers, texts, times
from tailrank.data.table_codes import CodeBook, Codes, id_codes
from tailrank.data.table_file import TableBlock, open_table, require_columns
from tailrank.features import SIDES, Side


class CodeColumn:
    """The codes of one feature.

    Args:
        code_L: of all rows.
        offsets: where the list of each row begins, and the end; None: one code a row.
    """

    def __init__(self, code_L: Codes, offsets: Ints | None) -> None:
        self._code_L, self._offsets = code_L, offsets

    @property
    def is_list(self) -> bool:
        """Whether rows may have any number of codes."""
        return self._offsets is not None

    def take(self, row_B: Ints) -> tuple[Codes, Ints]:
        """The codes of some rows, in their order, and how many each has."""
        if self._offsets is None:
            return np.asarray(self._code_L[row_B]), np.ones(len(row_B), dtype=np.int64)
        first_B = np.asarray(self._offsets[row_B])
        length_B = np.asarray(self._offsets[row_B + 1]) - first_B
        return np.asarray(self._code_L[range_indices(first_B, length_B)]), length_B


class TableColumns:
    """The columns of a file.

    Args:
        path: the file.
        schema: what its columns mean.
        scratch: folder for the columns; None: the system's.
        progress: told how far reading is.

    Raises:
        ConfigError: the name's ending is none of a table.
        DataError: the file cannot be used; names line or row, column and value.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        scratch: Path | None = None,
        progress: ReadingProgress | None = None,
    ) -> None:
        self.file = open_table(path)
        require_columns(self.file, schema.columns)
        store, parser = ScratchColumns(scratch), _Parser(schema)
        self.num_rows, started = 0, time.monotonic()
        for block in self.file.blocks(schema.columns):
            parser.append(block, store)
            self.num_rows += block.frame.height
            if progress is not None:
                rate = self.num_rows / max(1e-9, time.monotonic() - started)
                progress(self.file.fraction_read, f"{rate:,.0f} rows/s")
        self.sha256 = self.file.sha256
        self.label_B: NDArray[np.uint8] = store.finish("label", np.uint8)
        self.time_B = None if schema.time is None else store.finish("time", np.float64)
        self.query_B = None if schema.query_id is None else store.finish("query", np.uint64)
        self.dense: dict[Side, NDArray[np.float64]] = {
            side: store.finish(f"dense {side}", np.float64, len(dense_features(schema, side)))
            for side in SIDES
        }
        self.codes = {
            feature.name: CodeColumn(
                store.finish(f"codes {feature.name}", np.int32),
                store.finish(f"offsets {feature.name}", np.int64)
                if feature.name in parser.num_codes
                else None,
            )
            for feature in schema.features
            if feature.kind != "dense"
        }
        self.texts: dict[str, pl.Series] = {
            name: book.texts for name, book in parser.books.items() if book.buckets is None
        }


def dense_features(schema: Schema, side: Side) -> list[FeatureColumn]:
    """Dense features of a side, in the order of their columns."""
    return [f for f in schema.features if f.kind == "dense" and f.side == side]


class _Parser:
    """Turns blocks into columns."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.num_codes: dict[str, int] = {}
        """Codes so far of the features that hold lists."""
        self.books = {
            name: CodeBook(feature.buckets)
            for name, feature in schema.tables.items()
            if feature.encode != "id"
        }
        self._dates: bool | None = None

    def append(self, block: TableBlock, store: ScratchColumns) -> None:
        """Parse a block and write it to the columns."""
        schema = self.schema
        store.append("label", labels(block, schema.label))
        if schema.time is not None:
            if self._dates is None:
                self._dates = holds_dates(block.frame[schema.time])
            store.append("time", times(block, schema.time, dates=self._dates))
        if schema.query_id is not None:
            store.append("query", _query_keys(block, schema.query_id))
        for side in SIDES:
            dense = [numbers(block, f.source) for f in dense_features(schema, side)]
            if dense:
                store.append(f"dense {side}", np.stack(dense, axis=1))
        for feature in schema.features:
            if feature.kind != "dense":
                self._append_codes(block, feature, store)

    def _append_codes(
        self, block: TableBlock, feature: FeatureColumn, store: ScratchColumns
    ) -> None:
        """Write the codes of one feature."""
        found = texts(
            block, feature.source, separator=feature.separator, max_length=feature.max_length
        )
        if feature.encode == "id":
            code_L = id_codes(block, feature, found)
        else:
            code_L = self.books[feature.table_name].codes(found.text_L)
        store.append(f"codes {feature.name}", code_L)
        if found.length_B is None:
            return
        name = f"offsets {feature.name}"
        if feature.name not in self.num_codes:
            self.num_codes[feature.name] = 0
            store.append(name, np.zeros(1, dtype=np.int64))
        store.append(name, self.num_codes[feature.name] + np.cumsum(found.length_B))
        self.num_codes[feature.name] += len(code_L)


def _query_keys(block: TableBlock, column: str) -> NDArray[np.uint64]:
    """A number for each query, equal for equal ids; see `CodeBook` for the odds."""
    found = texts(block, column, separator=None, max_length=None)
    if found.length_B is not None:
        raise block.wrong_type(column, "texts or whole numbers")
    missing_B = found.text_L.is_null()
    if missing_B.any():
        raise block.fault(int(missing_B.to_numpy().argmax()), column, "expected the id of a query")
    return found.text_L.hash().to_numpy()
