"""Reads the published Criteo Kaggle format: tab-separated, no header, 40 columns.

A label (0 or 1), 13 integers, 26 categories of up to eight hexadecimal digits; an empty field is a
missing value. Plain or gzip. The file is read in blocks, so memory does not grow with it; polars
parses a block, and only a block that polars or a check refuses is looked at line by line, to name
the fault. Knows no vocabulary and no model.

Legend: B rows, N dense (13), F categories (26) and buckets (13).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tailrank.core.errors import DataError

NUM_DENSE, NUM_CATEGORIES = 13, 26
NUM_VALUES = NUM_CATEGORIES + NUM_DENSE
_NUM_COLUMNS = 1 + NUM_DENSE + NUM_CATEGORIES
_BLOCK_BYTES = 16 << 20
_LINE_BYTES_MAX = 1 << 16  # a row takes about 240 bytes; far longer means: not this format
_INTEGER = re.compile(rb"-?[0-9]{1,18}")
_HEX = re.compile(rb"[0-9a-fA-F]{1,8}")
_COLUMNS = (
    ["label"]
    + [f"integer_{index}" for index in range(1, NUM_DENSE + 1)]
    + [f"category_{index}" for index in range(1, NUM_CATEGORIES + 1)]
)
_SCHEMA = {
    name: pl.Int64 if name.startswith("integer") else pl.String if "_" in name else pl.Int8
    for name in _COLUMNS
}


@dataclass(frozen=True, slots=True, eq=False)
class RawRows:
    """Rows as they stand in the file.

    Args:
        label_B: uint8, 0 or 1.
        dense_BN: float32, log(1 + x); 0 where x is missing or negative.
        category_BF: uint32, the hexadecimal values, then the bucket of each integer; 0 where
            missing.
        missing_B: uint64, bit f set where value f of `category_BF` is missing.
    """

    label_B: NDArray[np.uint8]
    dense_BN: NDArray[np.float32]
    category_BF: NDArray[np.uint32]
    missing_B: NDArray[np.uint64]


class CriteoFile:
    """A file to be read once, block by block.

    Args:
        path: `.gz` means gzip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hex digest of the text read so far, unpacked: the same for plain and gzip."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[RawRows]:
        """All rows in order, some ten thousand at a time.

        Raises:
            DataError: missing, empty, truncated or foreign file, or a bad row; names the line.
        """
        rest = b""
        for chunk in self._chunks():
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield self._parse(rest + chunk[:cut])
                rest = chunk[cut:]
            else:
                rest += chunk
            if len(rest) > _LINE_BYTES_MAX:
                self._fail(f"a line of over {_LINE_BYTES_MAX} bytes: not the Criteo format")
        if rest:
            yield self._parse(rest + b"\n")
        if not self.num_rows:
            raise DataError(self.path, f"empty; expected rows of {_NUM_COLUMNS} columns")

    def _chunks(self) -> Iterator[bytes]:
        """The text in pieces, unpacked."""
        unpack = gzip.open if self.path.suffix == ".gz" else open
        try:
            with unpack(self.path, "rb") as file:
                while chunk := file.read(_BLOCK_BYTES):
                    self._digest.update(chunk)
                    yield chunk
        except EOFError:
            self._fail("truncated gzip file; expected its end-of-stream marker")
        except (gzip.BadGzipFile, zlib.error) as error:
            self._fail(f"not a sound gzip file ({error})")
        except OSError as error:
            raise DataError(self.path, error.strerror or str(error)) from None

    def _parse(self, block: bytes) -> RawRows:
        """Whole lines as rows."""
        num_lines = block.count(b"\n")
        # Polars fills short rows with nulls and skips blank ones; with the right number of tabs
        # in all, a short row implies a long one, which it refuses.
        if block.count(b"\t") != num_lines * (_NUM_COLUMNS - 1) or b"+" in block:
            self._explain(block)
        try:
            frame = pl.read_csv(
                io.BytesIO(block), separator="\t", has_header=False, quote_char=None, schema=_SCHEMA
            )
        except pl.exceptions.PolarsError as error:
            self._explain(block)
            self._fail(str(error).splitlines()[0])
        categories = frame.select(pl.col(pl.String))
        values = categories.select(pl.all().str.to_integer(base=16, dtype=pl.UInt32, strict=False))
        label_B = frame["label"].fill_null(-1).to_numpy()
        sound = frame.height == num_lines and not ((label_B != 0) & (label_B != 1)).any()
        if not sound or values.null_count().row(0) != categories.null_count().row(0):
            self._explain(block)
            self._fail("a row that is not in the Criteo format")
        self.num_rows += num_lines
        integers = frame.select(pl.col(pl.Int64))
        missing_BF = pl.concat([categories, integers], how="horizontal").select(pl.all().is_null())
        bits_F = np.uint64(1) << np.arange(NUM_VALUES, dtype=np.uint64)
        integer_BN = integers.select(pl.all().fill_null(0)).to_numpy()
        category_BF = np.empty((num_lines, NUM_VALUES), dtype=np.uint32)
        category_BF[:, :NUM_CATEGORIES] = values.select(pl.all().fill_null(0)).to_numpy()
        category_BF[:, NUM_CATEGORIES:] = _buckets(integer_BN)
        return RawRows(
            label_B=label_B.astype(np.uint8),
            dense_BN=np.log1p(np.maximum(integer_BN, 0)).astype(np.float32, order="C"),
            category_BF=category_BF,
            missing_B=missing_BF.to_numpy().astype(np.uint64) @ bits_F,
        )

    def _explain(self, block: bytes) -> None:
        """Raise the error of the first bad line, if there is one."""
        for line in block.split(b"\n")[:-1]:
            reason = _fault(line)
            if reason is not None:
                self._fail(reason)
            self.num_rows += 1
        self.num_rows -= block.count(b"\n")

    def _fail(self, reason: str) -> NoReturn:
        """Refuse the line after those read."""
        raise DataError(self.path, reason, self.num_rows + 1)


def _buckets(integer_BN: NDArray[np.int64]) -> NDArray[np.uint32]:
    """A category for each integer: itself up to 2, then 2 + floor(ln(x) ** 2).

    Source: the buckets of the winning entry of the Criteo Kaggle contest (3 Idiots, 2014).
    """
    large_BN = 2 + np.floor(np.log(np.maximum(integer_BN, 3)) ** 2).astype(np.int64)
    return np.where(integer_BN > 2, large_BN, integer_BN).astype(np.uint32)


def _fault(line: bytes) -> str | None:
    """What is wrong with one line; None: nothing."""
    fields = line.rstrip(b"\r").split(b"\t")
    if len(fields) != _NUM_COLUMNS:
        return f"{len(fields)} tab-separated columns; expected {_NUM_COLUMNS}"
    for name, value in zip(_COLUMNS, fields, strict=True):
        shown = ascii(value[:20].decode("latin-1"))
        if name == "label" and value not in (b"0", b"1"):
            return f"label {shown}; expected 0 or 1"
        if name.startswith("integer") and value and not _INTEGER.fullmatch(value):
            return f"{name} {shown}; expected an integer or nothing"
        if name.startswith("category") and value and not _HEX.fullmatch(value):
            return f"{name} {shown}; expected up to 8 hexadecimal digits or nothing"
    return None
