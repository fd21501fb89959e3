"""Rows from outside, encoded as those that a model was trained on: what a request brings.

A side comes as columns of raw values: numbers, texts, lists of them, None where one is missing; or
as arrays, which are read without a Python loop where they hold table rows. All
faults are named by side, column and row. Knows no file, no request format and no vocabulary.

Legend: R rows of one side, F sparse features of that side, N dense width, L ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError, TailrankError
from tailrank.data.dataset import empty_side
from tailrank.data.jagged import Ints, JaggedColumn, range_indices, row_major
from tailrank.features import SIDES, FeatureBatch, FeatureSpec, Side, SideFeatures

Values = Sequence[object] | NDArray[Any]
Column = Values | JaggedColumn
Floats = NDArray[np.float64]
IdsOf = Callable[[Values], Ints]
"""Table rows of values, one each; `REFUSED` for a value that is not allowed."""
REFUSED = -1
_NUMBERS = frozenset((int, float, bool))
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Rows(NamedTuple):
    """Raw values of one side.

    Args:
        side: which one.
        columns: by name, all of one length.
        num_rows: that length (R).
        blame: makes the error of row, column and reason, where rows come from a file.
    """

    side: Side
    columns: Mapping[str, Column]
    num_rows: int
    blame: Callable[[int, str, str], TailrankError] | None = None

    def fault(self, column: str, row: int, allowed: str) -> TailrankError:
        """The error of one value; `user.NAME` or `items.NAME[ROW]`, as a request has them."""
        if self.blame is not None:
            return self.blame(row, column, f"expected {allowed}")
        place = f"user.{column}" if self.side == "user" else f"items.{column}[{row}]"
        return ConfigError(place, self._value(column, row), allowed)

    def _value(self, column: str, row: int) -> object:
        values = self.columns[column]
        if isinstance(values, JaggedColumn):
            end = int(values.length_R[: row + 1].sum())
            return values.values_L[end - int(values.length_R[row]) : end].tolist()
        value: object = values[row]
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryColumn:
    """Where the ids of a sparse feature come from.

    Args:
        column: its name.
        ids: makes table rows of values.
        allowed: which values it takes, in words.
        takes_arrays: whether `ids` reads an array of whole numbers as it is.
        is_list: rows are lists, of which a missing one is empty; else a missing row is a value.
        separator: cuts texts into lists; None: a text is one value.
        max_length: only the last so many of a list; None: all.
        num_values: where it takes whole numbers from 0, how many.
        known: some of its categories, where those are texts.
        mean_length: values of a row on average.
        unknown_row: the table row that training has for what it does not know; None: it has none.
    """

    column: str
    ids: IdsOf
    allowed: str
    takes_arrays: bool = False
    is_list: bool = False
    separator: str | None = None
    max_length: int | None = None
    num_values: int | None = None
    known: Sequence[str] = ()
    mean_length: float = 1.0
    unknown_row: int | None = None

    def read(self, rows: Rows) -> JaggedColumn:
        """The ids of all rows.

        Raises:
            ConfigError: a value is not allowed.
        """
        flat, length_R = self._flat(rows.columns[self.column])
        if isinstance(flat, np.ndarray) and not (self.takes_arrays and flat.dtype.kind in "iu"):
            flat = flat.tolist()
        id_L = self.ids(flat)
        refused_L = id_L == REFUSED
        if refused_L.any():
            row = int(np.searchsorted(np.cumsum(length_R), int(refused_L.argmax()), side="right"))
            raise rows.fault(self.column, row, self.allowed)
        return JaggedColumn(id_L, length_R)

    def _flat(self, values: Column) -> tuple[Values, Ints]:
        """All values, and how many each row has."""
        if isinstance(values, JaggedColumn):
            return self._latest(values)
        if isinstance(values, np.ndarray):
            return values, np.ones(len(values), dtype=np.int64)
        if self.separator is not None:
            values = [
                (v.split(self.separator) if v else None) if type(v) is str else v for v in values
            ]
        kinds = set(map(type, values))
        if list not in kinds and not (self.is_list and NoneType in kinds):
            return values, np.ones(len(values), dtype=np.int64)
        lists = [self._as_list(value) for value in values]
        length_R = np.fromiter(map(len, lists), np.int64, len(lists))
        return list(chain.from_iterable(lists)), length_R

    def _latest(self, column: JaggedColumn) -> JaggedColumn:
        """As much of each row's list as counts."""
        values_L, length_R = column
        if self.max_length is None or not (length_R > self.max_length).any():
            return column
        kept_R = np.minimum(length_R, self.max_length)
        return JaggedColumn(values_L[range_indices(np.cumsum(length_R) - kept_R, kept_R)], kept_R)

    def _as_list(self, value: object) -> list[object]:
        if type(value) is not list:
            return [] if value is None and self.is_list else [value]
        return value if self.max_length is None else value[-self.max_length :]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumns:
    """Where the numbers of a dense feature come from.

    Args:
        columns: one for each number; or a single one, whose rows are then lists of them.
        width: numbers per row.
        optional: whether a number may be missing.
    """

    columns: tuple[str, ...]
    width: int = 1
    optional: bool = False

    @property
    def allowed(self) -> str:
        """Which values a column takes, in words."""
        if len(self.columns) < self.width:
            return f"a list of {self.width} finite numbers"
        return "a finite number" + (", or null where it is missing" if self.optional else "")

    def read(self, rows: Rows) -> Floats:
        """The numbers of all rows, (R, width); NaN where one is missing.

        Raises:
            ConfigError: a value is no finite number.
        """
        if len(self.columns) == self.width:
            read = [self._numbers(rows, name, rows.columns[name]) for name in self.columns]
            return np.stack(read, axis=1)
        (name,) = self.columns
        values = rows.columns[name]
        if isinstance(values, np.ndarray) and values.shape == (rows.num_rows, self.width):
            return self._numbers(rows, name, values.reshape(-1)).reshape(values.shape)
        flat: list[object] = []
        for row, value in enumerate(values):
            if type(value) is not list or len(value) != self.width:
                raise rows.fault(name, row, self.allowed)
            flat.extend(value)
        return self._numbers(rows, name, flat).reshape(rows.num_rows, self.width)

    def _numbers(self, rows: Rows, name: str, values: Values) -> Floats:
        if isinstance(values, np.ndarray):
            if values.ndim == 1 and values.dtype.kind in "fiub":
                number_L: Floats = values.astype(np.float64)
                bad_L = ~(np.abs(number_L) <= _FLOAT32_MAX)
                if self.optional:
                    bad_L &= ~np.isnan(number_L)
                return self._refuse(rows, name, number_L, bad_L)
            values = values.tolist()
        kinds = set(map(type, values))
        missing_L = np.zeros(len(values), dtype=np.bool_)
        if self.optional and NoneType in kinds:
            missing_L = np.array([value is None for value in values])
            values = [float("nan") if value is None else value for value in values]
            kinds.discard(NoneType)
        if kinds <= _NUMBERS:
            number_L = _as_floats(values)
            # Beyond float32 a number would become infinite.
            bad_L = ~(np.abs(number_L) <= _FLOAT32_MAX) & ~missing_L
        else:
            number_L = np.zeros(len(values))
            bad_L = np.array([type(value) not in _NUMBERS for value in values])
        return self._refuse(rows, name, number_L, bad_L)

    def _refuse(self, rows: Rows, name: str, number_L: Floats, bad_L: NDArray[np.bool_]) -> Floats:
        """The numbers, if none is bad."""
        if bad_L.any():
            per_row = self.width if len(self.columns) < self.width else 1
            raise rows.fault(name, int(bad_L.argmax()) // per_row, self.allowed)
        return number_L


class RowEncoder:
    """Makes features of columns of raw values.

    Args:
        spec: the features.
        sources: by feature, where it comes from.
        scale: by side, what the model reads of its numbers, (R, N) with NaN where one is missing;
            None: they are read as they are.
        mean_sides: sides on which each id of a bag weighs one over their number.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        sources: Mapping[str, CategoryColumn | NumberColumns],
        scale: Mapping[Side, Callable[[Floats], NDArray[np.float32]]] | None = None,
        mean_sides: frozenset[Side] = frozenset(),
    ) -> None:
        self._scale, self._mean_sides = scale or {}, mean_sides
        self._sparse: dict[Side, list[CategoryColumn]] = {side: [] for side in SIDES}
        self._dense: dict[Side, list[NumberColumns]] = {side: [] for side in SIDES}
        self.columns: dict[Side, dict[str, CategoryColumn | NumberColumns]] = {
            side: {} for side in SIDES
        }
        """By side, the columns that rows have to have."""
        for feature in spec.features:
            source = sources[feature.name]
            if isinstance(source, CategoryColumn):
                self._sparse[feature.side].append(source)
                names: tuple[str, ...] = (source.column,)
            else:
                self._dense[feature.side].append(source)
                names = source.columns
            for name in names:
                self.columns[feature.side].setdefault(name, source)

    def features(self, user: Rows, items: Rows) -> FeatureBatch:
        """The features of one user and some candidates.

        Args:
            user: one row.
            items: R rows, at least one.

        Raises:
            ConfigError: a value is not allowed; names side, column and row.
        """
        return FeatureBatch(
            user=self.side(user),
            item=self.side(items),
            item_to_user_B=torch.zeros(items.num_rows, dtype=torch.int64),
        )

    def side(self, rows: Rows) -> SideFeatures:
        """The features of one side.

        Raises:
            ConfigError: a value is not allowed; see `Rows.fault`.
        """
        side, num_rows = rows.side, rows.num_rows
        if not self.columns[side]:
            return empty_side(num_rows)
        numbers = [source.read(rows) for source in self._dense[side]]
        dense_RN: NDArray[np.float32] = np.zeros((num_rows, 0), dtype=np.float32)
        if numbers:
            raw_RN = np.concatenate(numbers, axis=1)
            scale = self._scale.get(side)
            dense_RN = raw_RN.astype(np.float32) if scale is None else scale(raw_RN)
        ids = [source.read(rows) for source in self._sparse[side]]
        return self._joined(side, dense_RN, ids)

    def without_unknown(self, side: Side) -> tuple[str, ...]:
        """The columns of which the model has nothing for a value that it does not know."""
        single = [source for source in self._sparse[side] if not source.is_list]
        return tuple(source.column for source in single if source.unknown_row is None)

    def unknown(self, side: Side) -> SideFeatures | None:
        """One row of what training makes of unknown or missing values: categories, no lists, zeros.

        None: of some of them it makes nothing, see `without_unknown`.
        """
        if not self.columns[side]:
            return empty_side(1)
        if self.without_unknown(side):
            return None
        width = sum(source.width for source in self._dense[side])
        row_F = [() if source.is_list else (source.unknown_row,) for source in self._sparse[side]]
        ids = [JaggedColumn(np.array(row, dtype=np.int64), np.array([len(row)])) for row in row_F]
        return self._joined(side, np.zeros((1, width), dtype=np.float32), ids)

    def _joined(
        self, side: Side, dense_RN: NDArray[np.float32], ids: Sequence[JaggedColumn]
    ) -> SideFeatures:
        """Numbers and ids as one side."""
        if ids:
            values_L, offsets = row_major(ids)
        else:
            values_L, offsets = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
        weights_L = None
        if side in self._mean_sides:
            size_G = np.diff(offsets)
            weights_L = torch.from_numpy(np.repeat(1.0 / np.maximum(size_G, 1), size_G)).float()
        return SideFeatures(
            dense_RN=torch.from_numpy(dense_RN),
            values_L=torch.from_numpy(values_L),
            offsets=torch.from_numpy(offsets),
            weights_L=weights_L,
        )


def row_ids(spec: FeatureSpec, mean_sides: frozenset[Side] = frozenset()) -> RowEncoder:
    """The encoder where rows bring what the model reads: table rows and numbers.

    Args:
        spec: the features; each comes from the column of its name.
        mean_sides: see `RowEncoder`.
    """
    sources: dict[str, CategoryColumn | NumberColumns] = {}
    for feature in spec.features:
        if feature.kind == "dense":
            sources[feature.name] = NumberColumns(columns=(feature.name,), width=feature.width)
            continue
        limit = spec.table(feature.table).num_embeddings
        sources[feature.name] = CategoryColumn(
            column=feature.name,
            ids=ids_below(limit),
            allowed=f"whole numbers 0 to {limit - 1}",
            takes_arrays=True,
            is_list=feature.kind == "sequence" or feature.pooling_factor != 1.0,
            num_values=limit,
            mean_length=feature.pooling_factor,
        )
    return RowEncoder(spec, sources, mean_sides=mean_sides)


def ids_below(limit: int, first_row: int = 0, missing_row: int = REFUSED) -> IdsOf:
    """Whole numbers from 0 to `limit` - 1 as table rows.

    Args:
        limit: how many there are.
        first_row: the table row of 0.
        missing_row: the table row of a missing one; default: it is not allowed.
    """

    def ids(values: Values) -> Ints:
        if isinstance(values, np.ndarray):
            if not len(values) or (values.min() >= 0 and values.max() < limit):
                row_L: Ints = values.astype(np.int64, copy=False)
                return row_L + first_row if first_row else row_L
            inside_L = (values >= 0) & (values < limit)
            return np.where(inside_L, values.astype(np.int64) + first_row, REFUSED)
        if set(map(type, values)) <= {int}:
            try:
                id_L = np.fromiter(values, np.int64, len(values))
            except OverflowError:
                pass
            else:
                return np.where((id_L >= 0) & (id_L < limit), id_L + first_row, REFUSED)
        return np.array([one(value) for value in values], dtype=np.int64)

    def one(value: object) -> int:
        if value is None:
            return missing_row
        inside = type(value) is int and 0 <= value < limit
        return value + first_row if inside else REFUSED  # type: ignore[operator]

    return ids


def _as_floats(values: Values) -> Floats:
    """Numbers; whole ones that no float can hold are infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return np.array([_as_float(value) for value in values], dtype=np.float64)


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # a number, as the caller checked
    except OverflowError:
        return float("inf")
