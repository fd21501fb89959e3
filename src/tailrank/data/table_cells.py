"""What stands in the cells of a table: numbers, labels, times, categories.

A category is a text, so that the whole number 7 of a Parquet file and the `7` of a CSV file are the
same one; an empty text is a missing one. A missing number is NaN here; NaN and infinity in a file
are faults. Knows no features.

Legend: B rows of a block, L ids.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tailrank.data.jagged import Ints
from tailrank.data.schema import LabelColumn
from tailrank.data.table_file import TableBlock

Floats = NDArray[np.float64]
_A_TIME = "a number, or a time such as 2024-05-01 or 2024-05-01 12:30:00"


class Texts(NamedTuple):
    """Categories of a column.

    Args:
        text_L: texts, null where missing.
        length_B: how many of them each row has; None: one each.
    """

    text_L: pl.Series
    length_B: Ints | None


def numbers(block: TableBlock, column: str) -> Floats:
    """Numbers; NaN where missing.

    Raises:
        DataError: another type, a text that is no number, NaN or infinity.
    """
    cells = block.frame[column]
    if cells.dtype == pl.String:
        cells = without_empty(cells)
        number_B = cells.cast(pl.Float64, strict=False)
        _refuse(block, column, number_B.is_null() & cells.is_not_null(), "expected a number")
    elif cells.dtype.is_numeric() or cells.dtype in (pl.Boolean, pl.Null):
        number_B = cells.cast(pl.Float64)
    else:
        raise block.wrong_type(column, "numbers")
    _refuse(
        block,
        column,
        (~number_B.cast(pl.Float32).is_finite()).fill_null(False),
        "expected a finite number; leave the cell empty where it is missing",
    )
    return number_B.fill_null(float("nan")).to_numpy()


def labels(block: TableBlock, label: LabelColumn) -> NDArray[np.uint8]:
    """0 or 1 of each row.

    Raises:
        DataError: a label is missing or none of the two, or the column holds no numbers.
    """
    cells = block.frame[label.column]
    if cells.dtype == pl.String and label.at_least is None:
        words = cells.str.to_lowercase().replace({"false": "0", "true": "1"})
        block = block._replace(frame=words.to_frame())
    number_B = numbers(block, label.column)
    if label.at_least is not None:
        allowed, sound_B = "a number", ~np.isnan(number_B)
        value_B = number_B >= label.at_least
    else:
        allowed, sound_B = "0 or 1", (number_B == 0) | (number_B == 1)
        value_B = number_B == 1
    _refuse(block, label.column, pl.Series(~sound_B), f"not a label; expected {allowed}")
    return value_B.astype(np.uint8)


def times(block: TableBlock, column: str, *, dates: bool) -> Floats:
    """Times as numbers that rise.

    Args:
        block: rows.
        column: of numbers, dates or texts of one of the two.
        dates: whether its texts are dates; see `holds_dates`.

    Raises:
        DataError: a time is missing, or neither number nor date, or not as the others are.
    """
    cells = block.frame[column]
    if dates:
        moment_B = moments(cells)
        _refuse(block, column, moment_B.is_null(), f"expected {_A_TIME}, as in other rows")
        # Microseconds stay below 2 ** 53 for 285 years around 1970.
        return moment_B.cast(pl.Int64).cast(pl.Float64).to_numpy()
    if not (cells.dtype == pl.String or cells.dtype.is_numeric()):
        raise block.wrong_type(column, "numbers, dates or times")
    number_B = numbers(block, column)
    _refuse(block, column, pl.Series(np.isnan(number_B)), f"expected {_A_TIME}")
    return number_B


def holds_dates(cells: pl.Series) -> bool:
    """Whether a column of times holds dates; told by its type or its first text."""
    if cells.dtype in (pl.Date, pl.Datetime):
        return True
    if cells.dtype != pl.String:
        return False
    first = without_empty(cells).drop_nulls().head(1)
    return len(first) > 0 and first.cast(pl.Float64, strict=False).null_count() > 0


def texts(
    block: TableBlock, column: str, *, separator: str | None, max_length: int | None
) -> Texts:
    """Categories of a column: one a row, or those of its lists.

    Args:
        block: rows.
        column: of texts, whole numbers, booleans, or lists of them.
        separator: cuts texts into lists; None: a text is one category.
        max_length: only the last so many of a list; None: all.

    Raises:
        DataError: another type, or a number that is not whole.
    """
    cells = block.frame[column]
    if cells.dtype == pl.String and separator is not None:
        cells = without_empty(cells).str.split(separator)
    if not isinstance(cells.dtype, (pl.List, pl.Array)):
        index_B = np.arange(len(cells))
        return Texts(_as_texts(block, column, cells, index_B), None)
    if isinstance(cells.dtype, pl.Array):
        cells = cells.arr.to_list()
    if max_length is not None:
        cells = cells.list.tail(max_length)
    # An absent list is an empty one: no history is nothing unknown.
    length_B = cells.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    flat_L = cells.filter(pl.Series(length_B > 0)).explode()
    row_L = np.repeat(np.arange(len(length_B)), length_B)
    return Texts(_as_texts(block, column, flat_L, row_L), length_B)


def _as_texts(block: TableBlock, column: str, cells: pl.Series, row_L: Ints) -> pl.Series:
    """Scalars as texts; `row_L` names their rows."""
    if cells.dtype == pl.String:
        return without_empty(cells)
    if cells.dtype.is_float():
        # Columns of whole numbers with missing values often come as floats.
        whole_L = cells.cast(pl.Int64, strict=False)
        broken_L = cells.is_not_null() & (whole_L.cast(cells.dtype) != cells).fill_null(True)
        if broken_L.any():
            row = int(row_L[broken_L.arg_max()])
            raise block.fault(row, column, "expected a text or a whole number")
        cells = whole_L
    scalars = (pl.Categorical, pl.Enum, pl.Boolean, pl.Null)
    if not (cells.dtype.is_integer() or cells.dtype in scalars):
        raise block.wrong_type(column, "texts, whole numbers, or lists of them")
    return without_empty(cells.cast(pl.String))


def moments(cells: pl.Series) -> pl.Series:
    """Dates as moments in microseconds; null where they are none.

    Texts begin with the year: of `01/02/2024` nobody can say which is the month.
    """
    if cells.dtype == pl.String:
        cells = without_empty(cells)
        cells = cells.set(~cells.str.contains(r"^\d{4}[-/]").fill_null(True), None)
        try:
            cells = cells.str.to_datetime(time_unit="us", strict=False)
        except pl.exceptions.PolarsError:
            return pl.Series(cells.name, [None] * len(cells), dtype=pl.Datetime("us"))
    return (
        cells.cast(pl.Datetime("us")) if cells.dtype == pl.Date else cells.dt.cast_time_unit("us")
    )


def without_empty(cells: pl.Series) -> pl.Series:
    """Texts with null for empty ones."""
    return cells.set(cells == "", None)


def _refuse(block: TableBlock, column: str, bad_B: pl.Series, reason: str) -> None:
    """Raise the error of the first bad row."""
    if bad_B.any():
        index = bad_B.arg_max()
        assert index is not None, "there is a bad row"
        raise block.fault(index, column, reason)
