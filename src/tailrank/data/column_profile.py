"""What the columns of an unknown table look like: kinds of values, how many differ, how they lie.

The file is read twice, block by block: the first pass tells what a column holds, the second counts
the members of lists and finds the columns that never change inside a query. Decides nothing: what
a column should be used for is `schema_proposal`'s.

Legend: B rows of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tailrank.data.category_index import CategoryIndex
from tailrank.data.dataset import ReadingProgress
from tailrank.data.table_cells import Floats, moments, without_empty
from tailrank.data.table_file import TableFile

ValueKind = Literal["empty", "boolean", "whole", "number", "moment", "text", "list", "other"]
DISTINCT_MAX = 1_000_000
"""Different values are counted up to here: 30 MB a column, and enough to ask for hashing."""
_EXAMPLES, _EXAMPLE_LETTERS = 3, 24
_SEPARATORS = "|; ,"
# Prose has spaces and commas too; what is joined by them is a list if every member has a digit.
_LISTS_OF_IDS = {sign: rf"^[^\s,]*\d[^\s,]*({sign}[^\s,]*\d[^\s,]*)*$" for sign in " ,"}
_LIST_SHARE = 0.1  # of the cells that hold a separator, for it to be one


class DistinctCounter:
    """Counts different values, up to `DISTINCT_MAX`."""

    def __init__(self) -> None:
        self._index: CategoryIndex | None = CategoryIndex()
        self.count = 0
        self.all_different = True
        """Whether no value came twice, as far as was counted."""
        self.lies_together = True
        """Whether equal values stand in rows that follow one another, as far as was counted."""
        self.num_seen = 0
        """Values counted, equal ones too."""
        self._num_runs = 0
        self._last: np.uint64 | None = None

    def add(self, hash_B: NDArray[np.uint64]) -> None:
        """Take note of values, by their hash."""
        if self._index is None or not len(hash_B):
            return
        self.num_seen += len(hash_B)
        self._num_runs += int((hash_B[1:] != hash_B[:-1]).sum()) + int(hash_B[0] != self._last)
        self._last = hash_B[-1]
        self._index.code(hash_B)
        self.all_different = self._index.num_keys == self.num_seen
        self.lies_together = self._index.num_keys == self._num_runs
        self.count = min(self._index.num_keys, DISTINCT_MAX)
        if self._index.num_keys >= DISTINCT_MAX:
            self._index = None

    @property
    def is_full(self) -> bool:
        """Whether there may be more than were counted."""
        return self._index is None


@dataclass(slots=True, kw_only=True)
class ColumnProfile:
    """One column.

    Args:
        name: of the column.
        kind: what all its values are; `whole` numbers may be floats without a fraction.
        num_rows: of the file.
        num_missing: rows without a value.
        distinct: different values; of a list, different members.
        minimum: of numbers.
        maximum: of numbers.
        skewness: of numbers; above 0 where a few are far larger than most.
        is_rising: whether numbers or moments never fall from row to row.
        separator: between the members of a list that stands in a text.
        longest: members of the longest list.
        constant_in_queries: whether it has one value in each query; None: nobody asked.
        examples: some values, shortened.
    """

    name: str
    kind: ValueKind = "empty"
    num_rows: int = 0
    num_missing: int = 0
    distinct: DistinctCounter = field(default_factory=DistinctCounter)
    minimum: float = math.inf
    maximum: float = -math.inf
    skewness: float = 0.0
    is_rising: bool = True
    separator: str | None = None
    longest: int = 0
    constant_in_queries: bool | None = None
    examples: tuple[str, ...] = ()

    @property
    def is_binary(self) -> bool:
        """Whether it holds two values that can be a label."""
        zero_or_one = self.minimum == 0 and self.maximum == 1 and self.distinct.count == 2
        numbers = self.kind in ("whole", "number") and zero_or_one
        return numbers or (self.kind == "boolean" and self.distinct.count == 2)


def profile_columns(file: TableFile, progress: ReadingProgress) -> dict[str, ColumnProfile]:
    """The first pass: what each column holds.

    Raises:
        DataError: the file cannot be read.
    """
    scans = {name: _Scan(name) for name in file.columns}
    for block in file.blocks(list(file.columns)):
        for name, scan in scans.items():
            scan.add(block.frame[name])
        rows = block.first_row + block.frame.height
        progress(file.fraction_read / 2, f"{rows:,} rows")
    return {name: scan.finish() for name, scan in scans.items()}


def profile_lists_and_queries(
    file: TableFile,
    profiles: dict[str, ColumnProfile],
    query_id: str | None,
    progress: ReadingProgress,
) -> None:
    """The second pass: members of lists, and which columns have one value per query.

    Args:
        file: the same.
        profiles: filled in.
        query_id: column whose equal values make a query; None: there is none.
        progress: told how far reading is.
    """
    lists = [profile for profile in profiles.values() if profile.kind == "list"]
    candidates = [p for p in profiles.values() if p.kind not in ("other", "empty")]
    pairs = {profile.name: DistinctCounter() for profile in candidates if query_id is not None}
    queries = DistinctCounter()
    for profile in lists:
        profile.distinct = DistinctCounter()
    for block in file.blocks(list(file.columns)):
        for profile in lists:
            members = _members(block.frame[profile.name], profile.separator)
            length_B = members.list.len().fill_null(0).to_numpy()
            profile.longest = max(profile.longest, int(length_B.max()))
            flat = members.filter(pl.Series(length_B > 0)).explode()
            profile.distinct.add(_as_texts(flat).drop_nulls().hash().to_numpy())
        if query_id is not None:
            query_B = _as_texts(block.frame[query_id])
            queries.add(query_B.drop_nulls().hash().to_numpy())
            for name in [name for name, pair in pairs.items() if pair.count <= queries.count]:
                pair_B = pl.DataFrame({"query": query_B, "cell": _as_texts(block.frame[name])})
                pairs[name].add(pair_B.filter(query_B.is_not_null()).hash_rows().to_numpy())
        progress(0.5 + file.fraction_read / 2, f"{block.first_row + block.frame.height:,} rows")
    for name, pair in pairs.items():
        profiles[name].constant_in_queries = pair.count == queries.count


class _Scan:
    """Collects what one column holds."""

    def __init__(self, name: str) -> None:
        self._profile = ColumnProfile(name=name)
        self._kinds: list[ValueKind] = []
        self._origin: float | None = None
        self._powers = np.zeros(4)
        self._last = -math.inf
        self._with_separator = dict.fromkeys(_SEPARATORS, 0)

    def add(self, cells: pl.Series) -> None:
        """Take note of a block's cells."""
        profile = self._profile
        texts = _as_texts(cells)
        present = texts.drop_nulls()
        profile.num_rows += len(cells)
        profile.num_missing += len(cells) - len(present)
        profile.distinct.add(present.hash().to_numpy())
        if len(profile.examples) < _EXAMPLES:
            shown = [_shortened(text) for text in present.head(100)]
            profile.examples = tuple(dict.fromkeys([*profile.examples, *shown]))[:_EXAMPLES]
        if not len(present):
            return
        possible = self._possible_kinds(cells, present)
        both: list[ValueKind] = [kind for kind in self._kinds if kind in possible]
        self._kinds = (both or ["other"]) if self._kinds else possible
        if self._kinds[0] in ("whole", "number"):
            self._add_numbers(_values(cells, pl.Float64))
        elif self._kinds[0] == "moment":
            self._add_numbers(
                moments(cells).drop_nulls().cast(pl.Int64).cast(pl.Float64).to_numpy()
            )
        elif self._kinds[0] == "text":
            self._count_separators(present)

    def finish(self) -> ColumnProfile:
        """The profile."""
        profile = self._profile
        profile.kind = self._kinds[0] if self._kinds else "empty"
        num_present = profile.num_rows - profile.num_missing
        if profile.kind == "text":
            for sign, count in self._with_separator.items():
                if count >= max(1.0, _LIST_SHARE * num_present):
                    profile.kind, profile.separator = "list", sign
                    break
        count, first, second, third = self._powers / max(1.0, self._powers[0])
        variance = second - first**2
        if count and variance > 0:
            third_moment = third - 3 * first * second + 2 * first**3
            profile.skewness = float(third_moment / variance**1.5)
        return profile

    def _possible_kinds(self, cells: pl.Series, present: pl.Series) -> list[ValueKind]:
        """What these cells may be, the narrowest first."""
        dtype = cells.dtype
        if isinstance(dtype, (pl.List, pl.Array)):
            inner = dtype.inner
            scalar = not isinstance(inner, (pl.List, pl.Array, pl.Struct))
            # Lists of numbers with a fraction are vectors, which a schema cannot name.
            return ["list"] if scalar and not inner.is_float() else ["other"]
        if dtype == pl.Boolean:
            return ["boolean"]
        if dtype.is_numeric():
            value_B = _values(cells, pl.Float64)
            if not np.isfinite(value_B).all():
                return ["other"]
            return ["whole", "number"] if (value_B == np.floor(value_B)).all() else ["number"]
        if dtype in (pl.Date, pl.Datetime):
            return ["moment"]
        if dtype != pl.String:
            return ["text"] if dtype in (pl.Categorical, pl.Enum) else ["other"]
        kinds: list[ValueKind] = []
        asked = self._kinds or ["boolean", "whole", "number", "moment"]
        if "boolean" in asked and present.str.to_lowercase().is_in(["true", "false"]).all():
            kinds.append("boolean")
        if "whole" in asked and not present.cast(pl.Int64, strict=False).null_count():
            kinds.append("whole")
        if "number" in asked:
            number_B = present.cast(pl.Float64, strict=False)
            if not number_B.null_count() and number_B.is_finite().all():
                kinds.append("number")
        # Most texts are no dates, which the first few tell.
        if "moment" in asked and not kinds and not moments(present.head(99)).null_count():
            kinds += [] if moments(present).null_count() else ["moment"]
        return [*kinds, "text"]

    def _add_numbers(self, value_B: Floats) -> None:
        """Take note of numbers."""
        profile = self._profile
        # Sums of powers are of the distance to the first value, or large numbers would drown them.
        self._origin = float(value_B[0]) if self._origin is None else self._origin
        distance_B = value_B - self._origin
        self._powers += [np.sum(distance_B**power) for power in range(4)]
        profile.minimum = min(profile.minimum, float(value_B.min()))
        profile.maximum = max(profile.maximum, float(value_B.max()))
        rising = value_B[0] >= self._last and not (np.diff(value_B) < 0).any()
        profile.is_rising = profile.is_rising and bool(rising)
        self._last = float(value_B[-1])

    def _count_separators(self, present: pl.Series) -> None:
        """Take note of the cells that hold a separator, while it may be one."""
        for sign in list(self._with_separator):
            pattern = _LISTS_OF_IDS.get(sign)
            if pattern is not None and not present.str.contains(pattern).all():
                del self._with_separator[sign]
            else:
                holding = present.str.contains(sign, literal=True).sum()
                self._with_separator[sign] += int(holding)


def _values(cells: pl.Series, dtype: Any) -> Floats:
    """Numbers of the cells that are not missing."""
    texts = without_empty(cells) if cells.dtype == pl.String else cells
    return texts.drop_nulls().cast(dtype).to_numpy()


def _members(cells: pl.Series, separator: str | None) -> pl.Series:
    """The members of each cell's list."""
    if cells.dtype == pl.String and separator is not None:
        return without_empty(cells).str.split(separator)
    return cells.arr.to_list() if isinstance(cells.dtype, pl.Array) else cells


def _as_texts(cells: pl.Series) -> pl.Series:
    """Cells as texts, to be counted and shown; null where missing, as empty lists are."""
    if cells.dtype == pl.String:
        return without_empty(cells)
    if isinstance(cells.dtype, pl.Array):
        cells = cells.arr.to_list()
    if isinstance(cells.dtype, pl.List):
        inner = cells.dtype.inner
        if isinstance(inner, (pl.List, pl.Array, pl.Struct)):
            return pl.Series(cells.name, ["…"] * len(cells))
        return without_empty(cells.cast(pl.List(pl.String)).list.join(" | ", ignore_nulls=True))
    try:
        return without_empty(cells.cast(pl.String))
    except pl.exceptions.PolarsError:
        return pl.Series(cells.name, ["…"] * len(cells))


def _shortened(text: str) -> str:
    """A value as a comment can show it."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= _EXAMPLE_LETTERS else printable[:_EXAMPLE_LETTERS] + "…"
