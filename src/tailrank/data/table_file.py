"""Reads a table of clicks block by block: Parquet, or CSV with a header, plain or gzip.

Memory does not grow with the file. Every fault is named by line (CSV) or row (Parquet), column and
value; to find the line of a cell, only the block that holds it is read again. Cells of CSV are
texts here: what they mean is for the schema to say, which this module does not know.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, Protocol

import polars as pl

from tailrank.core.errors import ConfigError, DataError

_BLOCK_BYTES = 8 << 20
_BLOCK_ROWS = 1 << 16
_RECORD_BYTES_MAX = 8 << 20  # far longer than any row of clicks: then a quote is left open
_SUFFIXES = (".parquet", ".pq", ".csv", ".tsv", ".csv.gz", ".tsv.gz")


class TableFile(Protocol):
    """A file to be read from its start to its end."""

    path: Path
    columns: dict[str, pl.DataType]
    """Names and types in the file's order; of CSV all texts."""
    fraction_read: float

    @property
    def sha256(self) -> str:
        """Hex digest of what was read: of a CSV its text, unpacked."""
        ...

    def blocks(self, columns: Sequence[str]) -> Iterator[TableBlock]:
        """All rows in order, some ten thousand at a time.

        Raises:
            DataError: a row is not sound, or the file is empty or truncated.
        """
        ...

    def fault(self, row: int, column: str, reason: str) -> DataError:
        """The error of one cell.

        Args:
            row: counted from 0, among the rows read so far.
            column: its name.
            reason: what is wrong and what was expected.
        """
        ...


class TableBlock(NamedTuple):
    """Some rows of a file.

    Args:
        file: where they come from.
        first_row: number of the first, counted from 0.
        frame: the columns asked for.
    """

    file: TableFile
    first_row: int
    frame: pl.DataFrame

    def fault(self, index: int, column: str, reason: str) -> DataError:
        """The error of row `index` of this block."""
        return self.file.fault(self.first_row + index, column, reason)

    def wrong_type(self, column: str, allowed: str) -> DataError:
        """The error of a whole column."""
        found = self.frame[column].dtype
        return DataError(self.file.path, f"holds {found}; expected {allowed}", column=column)


def open_table(path: Path) -> TableFile:
    """A file by the ending of its name.

    Raises:
        ConfigError: another ending.
        DataError: there is no such file, or its header or metadata is damaged.
    """
    if not path.name.endswith(_SUFFIXES):
        raise ConfigError("table", str(path), f"a file ending in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise DataError(path, "a folder; expected one file" if path.exists() else "no such file")
    return _ParquetFile(path) if path.suffix in (".parquet", ".pq") else _CsvFile(path)


def require_columns(file: TableFile, columns: Sequence[str]) -> None:
    """Refuse names that are not there.

    Raises:
        DataError: names the column, the closest one and those present.
    """
    for column in columns:
        if column not in file.columns:
            close = difflib.get_close_matches(column, file.columns, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            reason = f"no such column; {hint}there are {', '.join(file.columns)}"
            raise DataError(file.path, reason, column=column)


class _ParquetFile:
    """A Parquet file; see `TableFile`."""

    def __init__(self, path: Path) -> None:
        self.path, self.fraction_read = path, 0.0
        with self._named_faults():
            with path.open("rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            # A path may hold the signs of a pattern, or `key=value` folders: neither is meant.
            self._scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            self.columns: dict[str, pl.DataType] = dict(self._scan.collect_schema())
            self._num_rows = int(self._scan.select(pl.len()).collect().item())

    @property
    def sha256(self) -> str:
        """See `TableFile`: of a Parquet file, all its bytes."""
        return self._sha256

    def blocks(self, columns: Sequence[str]) -> Iterator[TableBlock]:
        """See `TableFile`."""
        if not self._num_rows:
            raise DataError(self.path, "empty: no rows")
        chosen = self._scan.select(list(columns))
        for first in range(0, self._num_rows, _BLOCK_ROWS):
            with self._named_faults():
                frame = chosen.slice(first, _BLOCK_ROWS).collect()
            self.fraction_read = (first + frame.height) / self._num_rows
            yield TableBlock(self, first, frame)

    def fault(self, row: int, column: str, reason: str) -> DataError:
        """See `TableFile`."""
        value = self._scan.select(column).slice(row, 1).collect()[column][0]
        shown = value.to_list() if isinstance(value, pl.Series) else value
        return DataError(self.path, reason, column=column, value=shown, row=row + 1)

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        """Name the file where polars or the system cannot read it."""
        try:
            yield
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = (str(error).splitlines() or ["?"])[0]
            raise DataError(self.path, f"not a sound Parquet file ({reason})") from None


class _Piece(NamedTuple):
    """Where a block of CSV lies: first row and line from 0, and bytes of the unpacked text."""

    first_row: int
    first_line: int
    offset: int
    num_bytes: int


class _CsvFile:
    """Comma-, semicolon- or tab-separated text with a header; see `TableFile`.

    Cells may be quoted and then hold separators and line breaks (RFC 4180). The separator is the
    one of comma, semicolon and tab that the header holds most of.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.fraction_read = path, 0.0
        self._digest = hashlib.sha256()
        self._pieces: list[_Piece] = []
        with self._unpacked() as (file, _):
            header = file.readline(_RECORD_BYTES_MAX)
        self._header_bytes = len(header)
        try:
            text = header.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(path, "not UTF-8 text", line=1) from None
        if not text:
            raise DataError(path, "empty; expected a header with the names of the columns")
        self._separator = max(",;\t", key=text.count)
        names = next(csv.reader([text], delimiter=self._separator))
        wrong = next((name for name in names if not name or names.count(name) > 1), None)
        if wrong is not None:
            raise DataError(path, f"header with the name {wrong!r} twice or empty", line=1)
        self.columns: dict[str, pl.DataType] = dict.fromkeys(names, pl.String())

    @property
    def sha256(self) -> str:
        """See `TableFile`."""
        return self._digest.hexdigest()

    def blocks(self, columns: Sequence[str]) -> Iterator[TableBlock]:
        """See `TableFile`; can be called again."""
        self._digest, self._pieces = hashlib.sha256(), []
        rest, piece = b"", _Piece(0, 1, self._header_bytes, 0)
        for chunk in self._chunks():
            text = rest + chunk
            cut = _end_of_last_row(text)
            if len(self.columns) > 1:  # of one column, a blank line is a missing cell
                cut = _before_blank_lines(text, cut)
            rest = text[cut:]
            if len(rest) > _RECORD_BYTES_MAX:
                line = piece.first_line + text[:cut].count(b"\n") + 1
                reason = f"a row of over {_RECORD_BYTES_MAX} bytes; is a quote left open?"
                raise DataError(self.path, reason, line=line)
            if cut:
                block, piece = self._block(text[:cut], piece, columns)
                yield block
        if len(self.columns) > 1 and not rest.strip(b"\r\n"):
            rest = b""  # blank lines after the last row
        if rest:
            block, piece = self._block(rest + b"\n", piece, columns)
            yield block
        if not piece.first_row:
            raise DataError(self.path, "empty: a header and no rows")

    def fault(self, row: int, column: str, reason: str) -> DataError:
        """See `TableFile`."""
        piece = next(piece for piece in reversed(self._pieces) if piece.first_row <= row)
        with self._unpacked() as (file, _):
            file.seek(piece.offset)
            frame = self._parse(file.read(piece.num_bytes), piece.first_line)
        index = row - piece.first_row
        line = piece.first_line + 1 + index + _count_in_cells(frame.head(index), "\n")
        value = frame[column][index] or ""
        return DataError(self.path, reason, line=line, column=column, value=value)

    def _chunks(self) -> Iterator[bytes]:
        """The text after the header in pieces, unpacked."""
        size = max(1, self.path.stat().st_size)
        with self._unpacked() as (file, position):
            self._digest.update(file.read(self._header_bytes))
            while chunk := file.read(_BLOCK_BYTES):
                self._digest.update(chunk)
                self.fraction_read = position() / size
                yield chunk

    @contextmanager
    def _unpacked(self) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
        """The text, and how far the packed file has been read."""
        try:
            with self.path.open("rb") as raw:
                file: Any = gzip.GzipFile(fileobj=raw) if self.path.suffix == ".gz" else raw
                yield file, raw.tell
        except EOFError:
            raise DataError(self.path, "truncated gzip file") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(self.path, f"not a sound gzip file ({error})") from None
        except OSError as error:
            raise DataError(self.path, error.strerror or str(error)) from None

    def _block(
        self, text: bytes, piece: _Piece, columns: Sequence[str]
    ) -> tuple[TableBlock, _Piece]:
        """Whole rows, and where those after them begin."""
        self._pieces.append(piece._replace(num_bytes=len(text)))
        frame = self._parse(text, piece.first_line)
        following = _Piece(
            piece.first_row + frame.height,
            piece.first_line + text.count(b"\n"),
            piece.offset + len(text),
            0,
        )
        return TableBlock(self, piece.first_row, frame.select(columns)), following

    def _parse(self, text: bytes, first_line: int) -> pl.DataFrame:
        """Every cell as text; an empty one is null."""
        try:
            frame = pl.read_csv(
                io.BytesIO(text),
                separator=self._separator,
                has_header=False,
                schema=dict.fromkeys(self.columns, pl.String),
            )
        except pl.exceptions.PolarsError as error:
            self._explain(text, first_line, str(error).splitlines()[0])
        # Polars fills short rows with nulls. Long ones it refuses, so with the right number of
        # separators in all there is no short one either; those inside quotes do not count.
        separators, lines = text.count(self._separator.encode()), text.count(b"\n")
        if b'"' in text:
            separators -= _count_in_cells(frame, self._separator)
            lines -= _count_in_cells(frame, "\n")
        if separators != frame.height * (len(self.columns) - 1) or lines != frame.height:
            self._explain(text, first_line, "rows that cannot be told apart")
        return frame

    def _explain(self, text: bytes, first_line: int, otherwise: str) -> NoReturn:
        """Raise the error of the first bad row."""
        lines = text.split(b"\n")
        for number, content in enumerate(lines, start=first_line + 1):
            try:
                content.decode()
            except UnicodeDecodeError:
                raise DataError(self.path, "not UTF-8 text", line=number) from None
        reader = csv.reader(
            io.StringIO(text.decode(), newline=""), delimiter=self._separator, strict=True
        )
        expected, line = len(self.columns), first_line + 1
        try:
            for cells in reader:
                if len(cells) != expected:
                    found = f"{len(cells)} columns" if cells else "a blank line"
                    reason = f"{found}; expected {expected} columns, as in the header"
                    raise DataError(self.path, reason, line=line)
                line = first_line + reader.line_num + 1
        except csv.Error as error:
            raise DataError(self.path, str(error), line=line) from None
        sign = re.escape(self._separator.encode())
        stray = re.compile(rb'[^"' + sign + rb']"[^"\r' + sign + rb"]")
        for number, content in enumerate(lines, start=first_line + 1):
            if stray.search(content):
                reason = "a quote in the middle of a cell; quote the whole cell and double it"
                raise DataError(self.path, reason, line=number)
        raise DataError(self.path, otherwise, line=first_line + 1)


def _end_of_last_row(text: bytes) -> int:
    """Bytes up to the last line break that is not inside quotes; 0: there is none."""
    cut = text.rfind(b"\n") + 1
    quotes = text.count(b'"', 0, cut)
    while cut and quotes % 2:
        end, cut = cut, text.rfind(b"\n", 0, cut - 1) + 1
        quotes -= text.count(b'"', cut, end)
    return cut


def _before_blank_lines(text: bytes, cut: int) -> int:
    """The last cut at or before `cut` with no blank line just before it."""
    while text.endswith((b"\n\n", b"\n\r\n"), 0, cut):
        cut = text.rfind(b"\n", 0, cut - 1) + 1
    return cut if text[:cut].strip(b"\r\n") else 0


def _count_in_cells(frame: pl.DataFrame, sign: str) -> int:
    """How often a sign stands inside cells."""
    counts = frame.select(pl.all().str.count_matches(sign, literal=True).sum())
    return sum(count or 0 for count in counts.row(0))
