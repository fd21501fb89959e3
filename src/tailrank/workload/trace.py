"""A recorded trace of queries: when they came and how large they were, row by row.

Parquet or CSV. Row numbers count from 1; a CSV file's header has none. Knows nothing of what is
made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

TRACE_PREFIX = "trace:"
# Columns of time by their unit in s; those of `queries.parquet`, which `simulate` writes, included.
TIME_COLUMNS = {
    "time": 1.0,
    "time_s": 1.0,
    "time_ms": 1e-3,
    "time_us": 1e-6,
    "time_ns": 1e-9,
    "scheduled_ns": 1e-9,
}
SIZE_COLUMNS = ("size", "num_items")


class Trace:
    """The columns of a file; each is checked when it is asked for.

    Args:
        path: the file.
        frame: its content.
    """

    def __init__(self, path: Path, frame: pl.DataFrame) -> None:
        self._path, self._frame = path, frame

    def times_s(self) -> NDArray[np.float64]:
        """Arrival times in s from the first one, never falling, at least two and not all alike.

        Raises:
            DataError: there is no such column, or a row has no time or one before the last row's;
                names file, row and value.
        """
        name = self._column(tuple(TIME_COLUMNS))
        values, unit_s = self._numbers(name, dates=True), TIME_COLUMNS[name]
        if self._frame[name].dtype.is_temporal():
            unit_s = 1e-9
        self._check_order(name, values)
        if len(values) < 2 or values[-1] == values[0]:
            raise DataError(
                self._path, "fewer than two different times; expected a trace", column=name
            )
        # The first is taken off before the unit comes in: times since 1970 have more digits than
        # floats.
        times_s: NDArray[np.float64] = (values - values[0]).astype(np.float64) * unit_s
        return times_s

    def sizes(self, items_max: int) -> NDArray[np.int64]:
        """Items of each query, in order of arrival: whole numbers from 1 to `items_max`.

        Raises:
            DataError: there is no such column, or a row has another size, or a time before the last
                row's where there are times; names file, row, value.
        """
        name = self._column(SIZE_COLUMNS)
        for time in [column for column in TIME_COLUMNS if column in self._frame.columns]:
            self._check_order(time, self._numbers(time, dates=True))
        values = self._numbers(name)
        if not len(values):
            raise DataError(self._path, "no rows; expected a trace")
        reason = f"not a size; allowed: whole numbers from 1 to {items_max:,}"
        self._refuse(name, np.flatnonzero(values != np.floor(values)), reason)
        self._refuse(name, np.flatnonzero(values < 1), reason)
        reason = f"more items than a query may have here; allowed: up to {items_max:,}"
        self._refuse(name, np.flatnonzero(values > items_max), reason)
        sizes: NDArray[np.int64] = values.astype(np.int64)
        return sizes

    def _column(self, names: Sequence[str]) -> str:
        found = [name for name in names if name in self._frame.columns]
        if len(found) != 1:
            there = ", ".join(map(repr, self._frame.columns[:8])) or "none"
            raise DataError(
                self._path, f"expected one column of {', '.join(names)}; found: {there}"
            )
        return found[0]

    def _numbers(self, name: str, *, dates: bool = False) -> NDArray[Any]:
        """The column, a finite number in each row; a date as ns since 1970."""
        import polars as pl

        column = self._frame[name]
        if not len(column):
            return np.empty(0)  # whatever type a column without a row was taken for
        if dates and column.dtype.base_type() is pl.Datetime:
            column = column.cast(pl.Datetime("ns")).to_physical()
        if not column.dtype.is_numeric():
            text = column.cast(pl.String, strict=False)
            bad = ~text.cast(pl.Float64, strict=False).is_finite().fill_null(False)
            # Where every text is a number, the column's type is what is wrong, from row 1 on.
            rows = np.flatnonzero(bad.to_numpy()) if bad.any() else np.arange(len(column))
            self._refuse(name, rows, "not a number")
        missing = column.is_null().to_numpy()
        self._refuse(name, np.flatnonzero(missing), "a number is missing")
        values: NDArray[Any] = column.to_numpy()
        self._refuse(name, np.flatnonzero(~np.isfinite(values)), "not a finite number")
        return values

    def _check_order(self, name: str, values: NDArray[Any]) -> None:
        falling = np.flatnonzero(values[1:] < values[:-1]) + 1
        if len(falling):
            before = self._frame[name][int(falling[0]) - 1]
            self._refuse(name, falling, f"earlier than the row before, {before}")

    def _refuse(self, name: str, rows: NDArray[np.int64], reason: str) -> None:
        if len(rows):
            row = int(rows[0])
            value = self._frame[name][row]
            raise DataError(self._path, reason, column=name, value=value, row=row + 1)


def read_trace(path: str) -> Trace:
    """Open a trace, Parquet or (any other name) CSV with a header.

    Raises:
        DataError: there is no such file, or it is not of that form.
    """
    file = Path(path.strip())
    if not path.strip() or not file.is_file():
        raise DataError(file, "no such file; expected a trace, Parquet or CSV")
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, mtime_ns: int, num_bytes: int) -> Trace:
    """The file, once for each time that it was written: a search draws dozens of schedules."""
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return Trace(path, pl.read_parquet(path))
        return Trace(path, pl.read_csv(path, infer_schema_length=None, try_parse_dates=True))
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise DataError(path, f"not a table: {reason}") from None
