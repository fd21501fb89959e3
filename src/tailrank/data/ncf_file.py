"""Reads the leave-one-out files that the authors of NCF publish.

    PREFIX.train.rating     user  item  rating  time      positives to learn from
    PREFIX.test.rating      user  item  rating  time      one positive of a user, held out
    PREFIX.test.negative    (user,item)  item  item  …    items to rank it among, line for line

Columns are separated by tabs and ids count from 0. Ratings and times are read and not used: what a
user has met counts as liked. Every fault names file, line, column and value. Knows no feature and
no model.

Source: He et al., Neural Collaborative Filtering, arXiv 1708.05031, and its released data.

Legend: B training rows, Q test rows, L negatives of all test rows.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tailrank.core.errors import DataError

TRAIN_SUFFIX, TEST_SUFFIX, NEGATIVE_SUFFIX = ".train.rating", ".test.rating", ".test.negative"
ID_MAX = (1 << 27) - 1
"""Ids count: up to the largest one each has a table row, so that a hash for an id has no room."""
_COLUMNS = ("user", "item", "rating", "time")
_NUMBER = re.compile(r"[0-9]{1,18}")
_PAIR = re.compile(r"\(([0-9]{1,18}),([0-9]{1,18})\)")

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NCFRows:
    """The three files.

    Args:
        user_B: of each training row, in file order.
        item_B: likewise.
        test_user_Q: of each test row; no user twice.
        test_item_Q: likewise.
        negative_L: items to rank each test item among, test row after test row, without those that
            are the test item itself, as NCF's evaluator counts them as that one.
        num_negatives_Q: how many each test row has.
        num_users: one more than the largest id.
        num_items: likewise.
        sha256: of the files.
    """

    user_B: Ints
    item_B: Ints
    test_user_Q: Ints
    test_item_Q: Ints
    negative_L: Ints
    num_negatives_Q: Ints
    num_users: int
    num_items: int
    sha256: str


def read_ncf(path: Path) -> NCFRows:
    """Read the files of a folder that holds one such set, or of FOLDER/PREFIX.

    Raises:
        DataError: a file is missing or a line is not in the format; names line, column, value.
    """
    train, test, negative = _files(path)
    digest = hashlib.sha256()
    user_B, item_B = _read_pairs(train, digest)
    test_user_Q, test_item_Q = _read_pairs(test, digest)
    _refuse(test, "user", test_user_Q, _repeated(test_user_Q), "tested before")
    negatives = _read_negatives(negative, test_user_Q, test_item_Q, digest)
    num_negatives_Q = np.array([len(items) for items in negatives], dtype=np.int64)
    negative_L = np.array([item for items in negatives for item in items], dtype=np.int64)
    num_users = 1 + max(int(user_B.max()), int(test_user_Q.max()))
    num_items = 1 + max(int(ids.max()) for ids in (item_B, test_item_Q, negative_L))
    for file, user, item in ((train, user_B, item_B), (test, test_user_Q, test_item_Q)):
        _refuse(file, "item", item, _repeated(user * num_items + item), "there before")
    met = np.sort(user_B * num_items + item_B)
    reason = "a training row of the same user has it"
    known_Q = _among(met, test_user_Q * num_items + test_item_Q)
    _refuse(test, "item", test_item_Q, known_Q, reason)
    row_L = np.repeat(np.arange(len(test_user_Q)), num_negatives_Q)
    known_L = _among(met, test_user_Q[row_L] * num_items + negative_L)
    if known_L.any():
        place = int(np.argmax(known_L))
        line, value = int(row_L[place]) + 1, int(negative_L[place])
        raise DataError(negative, reason, line, column="item", value=value)
    own_L = negative_L == test_item_Q[row_L]
    return NCFRows(
        user_B=user_B,
        item_B=item_B,
        test_user_Q=test_user_Q,
        test_item_Q=test_item_Q,
        negative_L=negative_L[~own_L],
        num_negatives_Q=np.bincount(row_L[~own_L], minlength=len(test_user_Q)),
        num_users=num_users,
        num_items=num_items,
        sha256=digest.hexdigest(),
    )


def _files(path: Path) -> list[Path]:
    """The three files that `path` names."""
    if path.is_dir():
        found = sorted(path.glob(f"*{TRAIN_SUFFIX}"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            reason = f"expected one file *{TRAIN_SUFFIX}, found {names}; FOLDER/PREFIX names one"
            raise DataError(path, reason)
        path = found[0].with_name(found[0].name.removesuffix(TRAIN_SUFFIX))
    suffixes = (TRAIN_SUFFIX, TEST_SUFFIX, NEGATIVE_SUFFIX)
    return [path.with_name(path.name + suffix) for suffix in suffixes]


def _read_pairs(file: Path, digest: hashlib._Hash) -> tuple[Ints, Ints]:
    """Users and items at the speed of polars; faults are then looked for line by line."""
    text = _read(file, digest)
    schema = dict.fromkeys(_COLUMNS, pl.Int64)
    try:
        frame = pl.read_csv(
            io.BytesIO(text), separator="\t", has_header=False, quote_char=None, schema=schema
        )
        sound = not sum(frame.null_count().row(0)) and int(min(frame.min().row(0))) >= 0
        sound = sound and frame.height == text.count(b"\n") + (not text.endswith(b"\n"))
    except pl.exceptions.PolarsError:
        sound = False
    if not sound:
        for line, fields in enumerate(text.decode("latin-1").splitlines(), start=1):
            _check_fields(file, line, fields.split("\t"))
        raise DataError(file, f"not lines of {', '.join(_COLUMNS)}, separated by tabs")
    user_B, item_B = (frame[name].to_numpy() for name in ("user", "item"))
    for name, id_B in (("user", user_B), ("item", item_B)):
        _refuse(file, name, id_B, id_B > ID_MAX, f"expected an id, 0 to {ID_MAX}")
    return user_B, item_B


def _check_fields(file: Path, line: int, fields: list[str]) -> None:
    """Refuse a line that is not four numbers."""
    if len(fields) != len(_COLUMNS):
        reason = f"{len(fields)} columns; expected {len(_COLUMNS)}: {', '.join(_COLUMNS)}, by tabs"
        raise DataError(file, reason, line, value="\t".join(fields))
    for name, field in zip(_COLUMNS, fields, strict=True):
        if not _NUMBER.fullmatch(field):
            raise DataError(file, "expected a number from 0", line, column=name, value=field)


def _read_negatives(
    file: Path, user_Q: Ints, item_Q: Ints, digest: hashlib._Hash
) -> list[list[int]]:
    """The negatives of every test row, whose positives have to be the same, line for line."""
    lines = _read(file, digest).decode("latin-1").splitlines()
    if len(lines) != len(user_Q):
        raise DataError(file, f"{len(lines)} lines; the test has {len(user_Q)}")
    found = []
    for line, (text, user, item) in enumerate(zip(lines, user_Q, item_Q, strict=True), start=1):
        pair, *items = text.split("\t")
        match = _PAIR.fullmatch(pair)
        if match is None or (int(match[1]), int(match[2])) != (user, item):
            reason = f"expected ({user},{item}), as in the test"
            raise DataError(file, reason, line, column="(user,item)", value=pair)
        for text_of_item in items:
            if not _NUMBER.fullmatch(text_of_item) or int(text_of_item) > ID_MAX:
                reason = f"expected an id, 0 to {ID_MAX}"
                raise DataError(file, reason, line, column="item", value=text_of_item)
        numbers = [int(text_of_item) for text_of_item in items]
        if not set(numbers) - {int(item)} or len(set(numbers)) != len(numbers):
            reason = "expected items that differ, and another than the test's"
            raise DataError(file, reason, line, column="item", value="\t".join(items))
        found.append(numbers)
    return found


def _read(file: Path, digest: hashlib._Hash) -> bytes:
    """The bytes of a file that is not empty, taken into the digest."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise DataError(file, error.strerror or str(error)) from None
    if not text:
        raise DataError(file, "empty")
    digest.update(text)
    return text


def _repeated(key_B: Ints) -> NDArray[np.bool_]:
    """Whether each key stood in a row before."""
    order = np.argsort(key_B, kind="stable")
    repeated_B = np.zeros(len(key_B), dtype=np.bool_)
    repeated_B[order[1:]] = key_B[order[1:]] == key_B[order[:-1]]
    return repeated_B


def _among(rising: Ints, key_L: Ints) -> NDArray[np.bool_]:
    """Whether each key is one of those that rise."""
    place_L = np.minimum(np.searchsorted(rising, key_L), len(rising) - 1)
    found_L: NDArray[np.bool_] = rising[place_L] == key_L
    return found_L


def _refuse(file: Path, column: str, value_B: Ints, bad_B: NDArray[np.bool_], reason: str) -> None:
    """Name the first bad value, if there is one."""
    if bad_B.any():
        row = int(np.argmax(bad_B))
        raise DataError(file, reason, row + 1, column=column, value=int(value_B[row]))
