"""Finds the rows of ids, many at once: whole numbers or texts, in arrays that can be mapped.

Ids lie in the order of a hash. Where to begin for a hash is read from a directory of its first
bits, and the steps from there are few, as hashes are spread evenly. Whatever is found is compared
with the id itself. Knows no file.

Legend: R ids of the index, L ids asked for, W words of 64 bits that a text takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrank.data.jagged import Ints
from tailrank.kernels.feature_rows import IdFinder, is_available

Array = NDArray[Any]
ARRAYS = ("ids_R", "hash_R", "row_R", "directory")
_INT64 = np.iinfo(np.int64)
# An odd number without pattern: 2 ** 64 over the golden ratio (Knuth, vol. 3, section 6.4).
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SEEDS = 16


class Found(NamedTuple):
    """Where ids are.

    Args:
        row_L: their rows; anything where `known_L` is False.
        known_L: whether the index has them.
    """

    row_L: Ints
    known_L: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IdIndex:
    """Ids and their rows.

    Args:
        ids_R: int64, or bytes of a fixed length that is larger than any id; in order of hash.
        hash_R: uint64, rising, and one more that is the largest there is.
        row_R: the row of each id.
        directory: for each value of the first bits of a hash, where in `hash_R` to begin.
        seed: of the hash.
    """

    ids_R: Array
    hash_R: Array
    row_R: Array
    directory: Array
    seed: int
    _finder: IdFinder | None = field(init=False)

    def __post_init__(self) -> None:
        finder = IdFinder(**self.arrays(), seed=self.seed) if is_available() else None
        object.__setattr__(self, "_finder", finder)

    @classmethod
    def build(cls, ids_R: Array) -> IdIndex:
        """Index ids.

        Args:
            ids_R: all different, at least one, as `number_ids` or `text_ids` make them.
        """
        for seed in range(_SEEDS):
            hash_R = _hash(ids_R, seed)
            order_R = np.argsort(hash_R, kind="stable")
            hash_R = hash_R[order_R]
            if (hash_R[1:] != hash_R[:-1]).all():  # else two texts share a hash, by rare chance
                break
        # At least one place of the directory per id: a step or two lead to the id.
        bits = max(1, (len(ids_R) - 1).bit_length())
        begin = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
        size = np.uint32 if len(ids_R) < 1 << 32 else np.uint64
        return cls(
            ids_R=ids_R[order_R],
            hash_R=np.append(hash_R, np.uint64(2**64 - 1)),
            row_R=order_R.astype(size),
            directory=np.searchsorted(hash_R, begin).astype(size),
            seed=seed,
        )

    def arrays(self) -> dict[str, Array]:
        """All that is to be kept beside `seed`, by the constructor's names."""
        return {name: getattr(self, name) for name in ARRAYS}

    @property
    def has_texts(self) -> bool:
        """Whether ids are texts; else they are whole numbers."""
        return self.ids_R.dtype.kind == "S"

    def find(self, ids: Sequence[Any] | Array) -> Found:
        """Look ids up.

        Args:
            ids: L >= 1 of them, all `str` or all `int`, as the index has them; or an array of
                whole numbers.
        """
        if self.has_texts:
            assert not isinstance(ids, np.ndarray), "an array holds no texts"
            asked_L, possible_L = text_ids(ids, self.ids_R.dtype.itemsize)
        else:
            asked_L, possible_L = number_ids(ids)
        if self._finder is not None:
            row_L = self._finder(asked_L)
            known_L = row_L >= 0
        else:
            row_L, known_L = self._find(asked_L)
        if possible_L is not None:
            known_L &= possible_L
        return Found(row_L, known_L)

    def _find(self, asked_L: Array) -> tuple[Ints, NDArray[np.bool_]]:
        """`find` in NumPy, of ids as the index has them."""
        hash_L = _hash(asked_L, self.seed)
        bits = np.uint64(len(self.directory).bit_length() - 1)
        place_L = self.directory[hash_L >> (np.uint64(64) - bits)].astype(np.int64)
        step_L = np.flatnonzero(self.hash_R[place_L] < hash_L)
        while len(step_L):
            place_L[step_L] += 1
            step_L = step_L[self.hash_R[place_L[step_L]] < hash_L[step_L]]
        # The hash after the last one stands for no id.
        place_L = np.minimum(place_L, len(self.ids_R) - 1)
        return self.row_R[place_L].astype(np.int64), self.ids_R[place_L] == asked_L


def number_ids(ids: Sequence[int] | Array) -> tuple[Array, NDArray[np.bool_] | None]:
    """Whole numbers as int64, and which of them fit; None: all."""
    if isinstance(ids, np.ndarray):
        return ids.astype(np.int64), ids <= _INT64.max if ids.dtype == np.uint64 else None
    try:
        return np.fromiter(ids, np.int64, len(ids)), None
    except OverflowError:
        fits = [_INT64.min <= value <= _INT64.max for value in ids]
        numbers = [value if fit else 0 for value, fit in zip(ids, fits, strict=True)]
        return np.array(numbers, dtype=np.int64), np.array(fits)


def text_ids(ids: Sequence[str], itemsize: int) -> tuple[Array, NDArray[np.bool_] | None]:
    """Texts as bytes of a fixed length, and which of them an index can hold; None: all.

    Args:
        ids: the texts.
        itemsize: that length, as `text_itemsize` gives it.
    """
    try:
        asked_L = np.array(ids, dtype=f"S{itemsize}")
    except UnicodeEncodeError:
        encoded = [text.encode(errors="surrogatepass") for text in ids]
        asked_L = np.array(encoded, dtype=f"S{itemsize}")
    # One that is too long is cut and then ends in no zero, as all of an index do. But those that
    # end in zeros would be equal to those without.
    if "\0" in "".join(ids):
        return asked_L, np.array(["\0" not in text for text in ids])
    return asked_L, None


def text_itemsize(bytes_max: int) -> int:
    """Bytes for each text of an index: whole words, and more than the longest has."""
    return bytes_max // 8 * 8 + 8


def _hash(ids_L: Array, seed: int) -> NDArray[np.uint64]:
    """64 bits of each id that look drawn at random; of numbers, no two have the same."""
    word_LW = np.ascontiguousarray(ids_L).view(np.uint64).reshape(len(ids_L), -1)
    hash_L = np.full(len(ids_L), seed, dtype=np.uint64) * _ODD
    for word in range(word_LW.shape[1]):
        hash_L = (hash_L ^ word_LW[:, word]) * _ODD
        hash_L ^= hash_L >> np.uint64(29)
        hash_L *= _ODD
        hash_L ^= hash_L >> np.uint64(32)
    return hash_L
