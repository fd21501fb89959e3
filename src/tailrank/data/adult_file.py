"""Reads the UCI Adult census files as published: `adult.data` and `adult.test`.

    39, State-gov, 77516, Bachelors, 13, Never-married, …, United-States, <=50K

Fifteen columns, a comma and a space between them, no header; `?` is missing. `adult.test` begins
with a comment (`|1x3 Cross validator`) and ends its labels with a dot; an empty line ends either
file. Every fault names file, line, column and value. Knows no split, no feature and no model.

Source: Becker and Kohavi, Adult, UCI Machine Learning Repository, 1996.

Legend: B rows of both files, T tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import DataError
from tailrank.data.jagged import Ints

MISSING = "?"
TASKS = ("income", "never_married")
"""Whether the year's income is above 50,000 dollars, and whether a person was never married."""
INTEGERS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income"),
)
_FILES = ("adult.data", "adult.test")
_INCOMES = {"<=50K": 0.0, ">50K": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdultRows:
    """Both files.

    Args:
        text: each column that holds words, a word per row.
        number: each column that holds whole numbers.
        label_BT: float32; 0 where it is unknown.
        known_BT: whether a label is known.
        num_learned: rows of `adult.data`, which come first; those of `adult.test` are the others.
        sha256: of both files.
    """

    text: dict[str, list[str]]
    number: dict[str, Ints]
    label_BT: NDArray[np.float32]
    known_BT: NDArray[np.bool_]
    num_learned: int
    sha256: str


def read_adult(folder: Path) -> AdultRows:
    """Read both files of a folder.

    Raises:
        DataError: a file is missing or not in the format; names line, column and value.
    """
    digest, counts = hashlib.sha256(), []
    rows: list[list[str]] = []
    for name in _FILES:
        file = folder / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(file, error.strerror or str(error)) from None
        digest.update(content + b"\0")
        before = len(rows)
        rows.extend(_rows(file, content.decode("latin-1")))
        counts.append(len(rows) - before)
        if not counts[-1]:
            raise DataError(file, "no rows")
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    incomes = [_INCOMES.get(income.removesuffix("."), np.nan) for income in columns["income"]]
    statuses = columns["marital-status"]
    never = [np.nan if s == MISSING else float(s == "Never-married") for s in statuses]
    label_BT = np.stack([incomes, never], axis=1).astype(np.float32)
    known_BT = ~np.isnan(label_BT)
    words = [name for name in COLUMNS if name not in INTEGERS and name != "income"]
    return AdultRows(
        text={name: columns[name] for name in words},
        number={name: np.array(columns[name], dtype=np.int64) for name in INTEGERS},
        label_BT=np.where(known_BT, label_BT, np.float32(0.0)),
        known_BT=known_BT,
        num_learned=counts[0],
        sha256=digest.hexdigest(),
    )


def _rows(file: Path, content: str) -> Iterator[list[str]]:
    """The fields of every row, each checked."""
    lines = content.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    for line, text in enumerate(lines, start=1):
        if line == 1 and text.startswith("|"):
            continue
        fields = [field.strip() for field in text.split(",")]
        if len(fields) != len(COLUMNS):
            reason = f"{len(fields)} fields; expected {len(COLUMNS)}, separated by commas"
            raise DataError(file, reason, line)
        for column, value in zip(COLUMNS, fields, strict=True):
            fault = _fault(column, value)
            if fault is not None:
                raise DataError(file, fault, line, column=column, value=value)
        yield fields


def _fault(column: str, value: str) -> str | None:
    """What is wrong with a field; None: nothing."""
    if column in INTEGERS:
        sound = value.isascii() and value.isdigit() and len(value) <= 18
        return None if sound else "expected a whole number, 0 or more"
    if column == "income":
        sound = value == MISSING or value.removesuffix(".") in _INCOMES
        return None if sound else "expected <=50K or >50K, with or without a dot, or ?"
    return None if value else "expected a word, or ? where it is missing"
