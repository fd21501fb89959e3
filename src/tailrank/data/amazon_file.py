"""Reads the 5-core Amazon review files as S3-Rec publishes them: who met what, in time order.

    Beauty.txt                      user item item …, one line per user, oldest first
    Beauty_item2attributes.json     {"item": [attribute, …], …}

Every fault names file, line, column and value; a row of the attributes is the item's place among
them, from 1. Knows no split, no feature and no model.

Source: Zhou et al., S3-Rec, CIKM 2020, arXiv 2008.07873, of the reviews of McAuley et al., 2015.

Legend: U users, M items, L items of all users, A attributes of all items.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailrank.core.errors import DataError
from tailrank.data.jagged import Ints

LOG_SUFFIX, ATTRIBUTES_SUFFIX = ".txt", "_item2attributes.json"
ITEMS_MIN = 3
"""Items of every user: one to look back on, one to choose by and one to be tested with."""
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AmazonRows:
    """Both files; users are numbered by line, items and attributes by rising published number.

    Args:
        log_file: where users are.
        item_L: items of user after user, each user's oldest first.
        length_U: how many each user has.
        attribute_A: attributes of item after item, as published.
        num_attributes_M: how many each item has, at least one.
        sha256: of both files.
    """

    log_file: Path
    item_L: Ints
    length_U: Ints
    attribute_A: Ints
    num_attributes_M: Ints
    sha256: str


def read_amazon(place: Path) -> AmazonRows:
    """Read both files of a category.

    Args:
        place: of the log, with or without its `.txt`: `amazon/Beauty`.

    Raises:
        DataError: a file is missing or not in the format; names line, column and value.
    """
    if place.is_dir():
        found = sorted(file.name.removesuffix(LOG_SUFFIX) for file in place.glob(f"*{LOG_SUFFIX}"))
        raise DataError(
            place, f"a folder; name a category in it: {', '.join(found) or 'none here'}"
        )
    name = place.name.removesuffix(LOG_SUFFIX)
    log_file = place.with_name(name + LOG_SUFFIX)
    attributes_file = place.with_name(name + ATTRIBUTES_SUFFIX)
    log, attributes = _read(log_file), _read(attributes_file)
    attributes_of = _attributes(attributes_file, attributes)
    item_ids = sorted(attributes_of)
    number_of = {item: number for number, item in enumerate(item_ids)}
    item_L, length_U = _log(log_file, log, number_of, attributes_file.name)
    lists = [attributes_of[item] for item in item_ids]
    published = np.array([each for found in lists for each in found], dtype=np.int64)
    return AmazonRows(
        log_file=log_file,
        item_L=item_L,
        length_U=length_U,
        attribute_A=np.unique(published, return_inverse=True)[1],
        num_attributes_M=np.array([len(found) for found in lists], dtype=np.int64),
        sha256=hashlib.sha256(log + b"\0" + attributes).hexdigest(),
    )


def _read(file: Path) -> bytes:
    """All of a file, which must have something in it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(file, error.strerror or str(error)) from None
    if not content.strip():
        raise DataError(file, "empty")
    return content


def _log(file: Path, content: bytes, number_of: dict[int, int], known_in: str) -> tuple[Ints, Ints]:
    """Numbers of the items of user after user, and how many each has."""
    items: list[int] = []
    lengths, users = [], set()
    for line, text in enumerate(content.decode("latin-1").splitlines(), start=1):
        user, *mine = text.split(" ")
        if not _NUMBER.fullmatch(user):
            raise DataError(file, "expected a number", line, column="user", value=user)
        if user in users:
            raise DataError(file, "there is a line of it already", line, column="user", value=user)
        users.add(user)
        if len(mine) < ITEMS_MIN:
            reason = f"expected at least {ITEMS_MIN} items: to look back on, to choose by, to test"
            raise DataError(file, reason, line, column="items", value=len(mine))
        for place, item in enumerate(mine, start=1):
            if not _NUMBER.fullmatch(item) or int(item) not in number_of:
                reason = f"expected the number of an item of {known_in}"
                raise DataError(file, reason, line, column=f"item {place}", value=item)
        numbers = [number_of[int(item)] for item in mine]
        if len(set(numbers)) < len(numbers):
            place = next(n for n, item in enumerate(numbers) if item in numbers[:n])
            reason = "the user has it already"
            raise DataError(file, reason, line, column=f"item {place + 1}", value=mine[place])
        items += numbers
        lengths.append(len(numbers))
    return np.array(items, dtype=np.int64), np.array(lengths, dtype=np.int64)


def _attributes(file: Path, content: bytes) -> dict[int, list[int]]:
    """Attributes by item."""
    try:
        pairs: Any = json.loads(content, object_pairs_hook=list)
    except ValueError as error:  # also what is not UTF-8
        line = getattr(error, "lineno", None)
        raise DataError(file, f"not JSON ({getattr(error, 'msg', error)})", line) from None
    # A list of pairs and a list of lists look alike; only an object begins with a brace.
    if not content.lstrip().startswith(b"{"):
        raise DataError(file, 'expected {"item": [attribute, …], …}')
    found: dict[int, list[int]] = {}
    for row, (item, attributes) in enumerate(pairs, start=1):
        if not _NUMBER.fullmatch(item):
            raise DataError(file, "expected a number", row=row, column="item", value=item)
        if int(item) in found:
            raise DataError(file, "the item is there already", row=row, column="item", value=item)
        sound = isinstance(attributes, list) and bool(attributes)
        if not sound or any(type(a) is not int or not 0 <= a < 10**18 for a in attributes):
            reason = f"expected a list of one or more numbers below 10^18 for item {item}"
            raise DataError(file, reason, row=row, column="attributes", value=str(attributes))
        found[int(item)] = attributes
    return found
