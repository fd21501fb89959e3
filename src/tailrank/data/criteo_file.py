"""Reads the published Criteo Kaggle format: tab-separated, no header, 40 columns.

A label (0 or 1), 13 integers, 26 categories of up to eight hexadecimal digits; an empty field is a
missing value. Plain or gzip. The file is read in blocks into one buffer, so memory does not grow
with it. All fields of a block are parsed at once, and only a block in which something is wrong is
looked at line by line, to name the fault. Knows no vocabulary and no model.

Legend: B rows, N dense (13), F categories (26) and, if asked for, buckets (13).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import DataError
from tailrank.data.category_index import Keys, category_keys
from tailrank.data.dataset import ReadingProgress
from tailrank.data.text_fields import (
    WORD_BYTES,
    Places,
    decimal_digits,
    hexadecimal_digits,
    words_ending_at,
)

NUM_DENSE, NUM_CATEGORIES = 13, 26
NUM_VALUES = NUM_CATEGORIES + NUM_DENSE
_NUM_COLUMNS = 1 + NUM_DENSE + NUM_CATEGORIES
# About 1,000 rows: what a block needs stays in a core's second-level cache. Larger ones are slower
# (1 MiB by a quarter), and so are smaller ones (64 KiB by a seventh) for Python's part.
_BLOCK_BYTES = 1 << 18
_LINE_BYTES_MAX = 1 << 16  # a row takes about 240 bytes; far longer means: not this format
_REPORT_SECONDS = 0.1
_TAB, _NEWLINE, _RETURN, _MINUS, _ZERO = b"\t\n\r-0"
_SEPARATORS = np.array([_TAB] * (_NUM_COLUMNS - 1) + [_NEWLINE], dtype=np.uint8)
_FORMS = {
    "label": (re.compile(rb"[01]"), "0 or 1"),
    "integer": (re.compile(rb"(-?[0-9]{1,18})?"), "an integer of up to 18 digits or nothing"),
    "category": (re.compile(rb"[0-9a-fA-F]{0,8}"), "up to 8 hexadecimal digits or nothing"),
}
_COLUMNS = (
    ["label"]
    + [f"integer_{index}" for index in range(1, NUM_DENSE + 1)]
    + [f"category_{index}" for index in range(1, NUM_CATEGORIES + 1)]
)


@dataclass(frozen=True, slots=True, eq=False)
class RawRows:
    """Rows as they stand in the file.

    Args:
        label_B: uint8, 0 or 1.
        dense_BN: float32, log(1 + x); 0 where x is missing or negative.
        key_BF: the hexadecimal values, then the bucket of each integer; see `category_index`.
    """

    label_B: NDArray[np.uint8]
    dense_BN: NDArray[np.float32]
    key_BF: Keys


class CriteoFile:
    """A file to be read once, block by block.

    Args:
        path: `.gz` means gzip.
        integer_buckets: whether the bucket of each integer is a category too.
        progress: told some ten times a second how far reading is, and at its end.
    """

    def __init__(
        self,
        path: Path,
        *,
        integer_buckets: bool = False,
        progress: ReadingProgress | None = None,
    ) -> None:
        self.path = path
        self.num_rows = 0
        self._integer_buckets = integer_buckets
        self._progress = progress or (lambda _fraction, _remark: None)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hex digest of the text read so far, unpacked: the same for plain and gzip."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[RawRows]:
        """All rows in order, some thousand at a time.

        Raises:
            DataError: missing, empty, truncated or foreign file, or a bad row; names line, column
                and value.
        """
        # Words are read from before the first field, and the last line may lack its newline.
        text = bytearray(WORD_BYTES + _LINE_BYTES_MAX + _BLOCK_BYTES + 1)
        filled = WORD_BYTES
        for chunk in self._chunks():
            cut, stop = chunk.rfind(b"\n") + 1, filled + len(chunk)
            text[filled:stop] = chunk
            if cut:
                yield self._parse(text, filled + cut)
                cut += filled
                filled = WORD_BYTES + stop - cut
                text[WORD_BYTES:filled] = text[cut:stop]
            else:
                filled = stop
            if filled - WORD_BYTES > _LINE_BYTES_MAX:
                self._refuse(f"a line of over {_LINE_BYTES_MAX} bytes: not the Criteo format")
        if filled > WORD_BYTES:
            text[filled] = _NEWLINE
            yield self._parse(text, filled + 1)
        if not self.num_rows:
            raise DataError(self.path, f"empty; expected rows of {_NUM_COLUMNS} columns")

    def _chunks(self) -> Iterator[bytes]:
        """The text in pieces, unpacked; progress goes by what is read of the file itself."""
        started = reported = time.monotonic()
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                text = gzip.GzipFile(fileobj=file) if self.path.suffix == ".gz" else file
                while chunk := text.read(_BLOCK_BYTES):
                    self._digest.update(chunk)
                    yield chunk
                    now = time.monotonic()
                    if now - reported > _REPORT_SECONDS:
                        reported = now
                        self._progress(file.tell() / size, self._rate(now - started))
        except EOFError:
            self._refuse("truncated gzip file; expected its end-of-stream marker")
        except (gzip.BadGzipFile, zlib.error) as error:
            self._refuse(f"not a sound gzip file ({error})")
        except OSError as error:
            raise DataError(self.path, error.strerror or str(error)) from None
        self._progress(1.0, self._rate(time.monotonic() - started))

    def _rate(self, seconds: float) -> str:
        """A remark on the speed so far."""
        return f"{self.num_rows / max(seconds, 1e-9):,.0f} rows/s"

    def _parse(self, text: bytearray, stop: int) -> RawRows:
        """The whole lines in `text[WORD_BYTES:stop]` as rows."""
        rows = _parse_block(np.frombuffer(text, np.uint8), stop, self._integer_buckets)
        if rows is None:
            self._explain(bytes(text[WORD_BYTES:stop]))
        self.num_rows += len(rows.label_B)
        return rows

    def _explain(self, block: bytes) -> NoReturn:
        """Raise the error of the first bad line."""
        for line in block.split(b"\n")[:-1]:
            fault = _fault(line)
            if fault is not None:
                raise DataError(self.path, line=self.num_rows + 1, **fault)
            self.num_rows += 1
        raise AssertionError("the block parser refused what has no fault")

    def _refuse(self, reason: str) -> NoReturn:
        """Refuse the line after those read."""
        raise DataError(self.path, reason, self.num_rows + 1)


def _parse_block(text: NDArray[np.uint8], stop: int, integer_buckets: bool) -> RawRows | None:
    """The lines in `text[WORD_BYTES:stop]` as rows; None where any of them is bad."""
    end = np.flatnonzero(text[WORD_BYTES:stop] <= _NEWLINE) + WORD_BYTES
    if len(end) % _NUM_COLUMNS:
        return None
    begin = np.empty_like(end)
    begin[0] = WORD_BYTES
    np.add(end[:-1], 1, out=begin[1:])
    end_BC, begin_BC = end.reshape(-1, _NUM_COLUMNS), begin.reshape(-1, _NUM_COLUMNS)
    sound = bool((text.take(end_BC) == _SEPARATORS).all())
    end_BC[:, -1] -= text.take(end_BC[:, -1] - 1) == _RETURN
    length_BC = end_BC - begin_BC
    label_B = text.take(begin_BC[:, 0]) - np.uint8(_ZERO)
    sound &= bool((label_B <= 1).all() and (length_BC[:, 0] == 1).all())
    columns = slice(1, 1 + NUM_DENSE)
    integers = _integers(text, begin_BC[:, columns], end_BC[:, columns], length_BC[:, columns])
    columns = slice(1 + NUM_DENSE, None)
    length_BF = length_BC[:, columns]
    if not sound or integers is None or (length_BF > WORD_BYTES).any():
        return None
    value_BF, sound = hexadecimal_digits(words_ending_at(text, end_BC[:, columns]), length_BF)
    if not sound:
        return None
    missing_BF = length_BF == 0
    if integer_buckets:
        value_BF = np.concatenate([value_BF, buckets_of(integers)], axis=1)
        missing_BF = np.concatenate([missing_BF, length_BC[:, 1 : 1 + NUM_DENSE] == 0], axis=1)
    return RawRows(
        label_B=label_B,
        dense_BN=np.log1p(np.maximum(integers, 0)).astype(np.float32),
        key_BF=category_keys(value_BF, missing_BF),
    )


def _integers(
    text: NDArray[np.uint8], begin: Places, end: Places, length: Places
) -> NDArray[np.int64] | None:
    """Values of integer fields, 0 where nothing stands; None where any of them is bad."""
    negative = text.take(begin) == _MINUS
    num_digits = length - negative
    if (negative & (num_digits == 0)).any():
        return None
    long = num_digits > WORD_BYTES
    words, sound = decimal_digits(words_ending_at(text, end), np.where(long, 0, num_digits))
    if not sound:
        return None
    values = words.view(np.int64)
    values[negative] *= -1
    # Integers of more than eight digits do not occur in the published file: no need for speed.
    for place in np.argwhere(long):
        field = text[begin[*place] : end[*place]].tobytes()
        if not _FORMS["integer"][0].fullmatch(field):
            return None
        values[*place] = int(field)
    return values


def buckets_of(integer_BN: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A category for each integer: itself up to 2, then 2 + floor(ln(x) ** 2).

    Source: the buckets of the winning entry of the Criteo Kaggle contest (3 Idiots, 2014).
    """
    large_BN = 2 + np.floor(np.log(np.maximum(integer_BN, 3)) ** 2).astype(np.int64)
    # Through 32 bits: a negative integer stands for itself there.
    return np.where(integer_BN > 2, large_BN, integer_BN).astype(np.uint32).astype(np.uint64)


def _fault(line: bytes) -> dict[str, Any] | None:
    """What is wrong with one line, in `DataError`'s words; None: nothing."""
    fields = line.removesuffix(b"\r").split(b"\t")
    if len(fields) != _NUM_COLUMNS:
        return {"reason": f"{len(fields)} tab-separated columns; expected {_NUM_COLUMNS}"}
    for name, value in zip(_COLUMNS, fields, strict=True):
        form, allowed = _FORMS[name.partition("_")[0]]
        if not form.fullmatch(value):
            shown = value.decode("latin-1")
            return {"reason": f"expected {allowed}", "column": name, "value": shown}
    return None
