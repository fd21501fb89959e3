"""Categories as 64-bit keys, and a hash table from key to code. Knows no file format.

A key holds the feature (bits 33 and up), whether the value is missing (bit 32) and the raw value
(bits 0 to 31; 0 where missing), so that one table serves all features.

Legend: B rows, F features, C keys.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Codes = NDArray[np.int32]

ABSENT = 0
_VALUE_BITS, _FEATURE_SHIFT = 32, 33
_NO_KEY = np.uint64((1 << 64) - 1)  # no feature has so high a number
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: Knuth, TAOCP 3, 6.4
_BITS_MIN = 10
# Fewer cost further looks, more cost cache: on the Criteo sample 3 to 6 were fastest.
_SLOTS_PER_KEY = 3


def category_keys(value_BF: NDArray[np.uint64], missing_BF: NDArray[np.bool_]) -> Keys:
    """Keys of raw values, column f being feature f.

    Args:
        value_BF: below 2**32, 0 where missing; overwritten.
        missing_BF: where there is no value.
    """
    value_BF |= missing_BF.astype(np.uint64) << np.uint64(_VALUE_BITS)
    value_BF |= np.arange(value_BF.shape[1], dtype=np.uint64) << np.uint64(_FEATURE_SHIFT)
    return value_BF


def feature_keys(feature: int, values: NDArray[np.uint32]) -> Keys:
    """Keys of raw values of one feature."""
    return values | np.uint64(feature << _FEATURE_SHIFT)


def missing_keys(num_features: int) -> Keys:
    """The key of a missing value of each feature."""
    feature = np.arange(num_features, dtype=np.uint64)
    return feature << np.uint64(_FEATURE_SHIFT) | np.uint64(1 << _VALUE_BITS)


def split_keys(
    key_C: Keys,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.uint32]]:
    """Feature, whether missing, and raw value of each key."""
    feature = (key_C >> np.uint64(_FEATURE_SHIFT)).astype(np.int64)
    missing = (key_C >> np.uint64(_VALUE_BITS)) & np.uint64(1) == 1
    return feature, missing, key_C.astype(np.uint32)


class CategoryIndex:
    """Gives each key a code, 1, 2, 3 … : open addressing, linear probing, many keys at once.

    Slots hold codes and keys lie by code: that is half the memory of slots with keys, and where
    frequent keys have neighbouring codes the cache holds them.
    """

    def __init__(self) -> None:
        self.num_keys = 0
        self._key_of_code = np.array([_NO_KEY])
        self._resize()

    @property
    def key_C(self) -> Keys:
        """All keys in order of code: that of code 1 first."""
        return self._key_of_code[1 : self.num_keys + 1]

    def find(self, key: Keys) -> Codes:
        """Codes of keys of any shape; `ABSENT` where unknown."""
        slot = self._home(key)
        code = self._slot_code.take(slot)
        flat, wanted, slot = code.reshape(-1), key.reshape(-1), slot.reshape(-1)
        # A free slot ends a search, and so does the key.
        going = np.flatnonzero((self._key_of_code.take(flat) != wanted) & (flat != ABSENT))
        place = going
        while len(going):
            wanted = wanted.take(going)
            slot = (slot.take(going) + 1) & self._mask
            seen = self._slot_code.take(slot)
            flat[place] = seen
            going = np.flatnonzero((self._key_of_code.take(seen) != wanted) & (seen != ABSENT))
            place = place.take(going)
        return code

    def code(self, key: Keys) -> Codes:
        """Codes of keys of any shape; new ones get the next, in order of key within a call."""
        code = self.find(key)
        place = np.flatnonzero(code == ABSENT)
        if len(place):
            new_C, inverse = np.unique(key.reshape(-1)[place], return_inverse=True)
            code.reshape(-1)[place] = inverse + (self.num_keys + 1)
            self.add(new_C)
        return code

    def add(self, key_C: Keys) -> None:
        """Give keys that are new and all different the next codes."""
        first = self.num_keys + 1
        self.num_keys += len(key_C)
        if self.num_keys >= len(self._key_of_code):
            longer = np.empty(2 * self.num_keys + 1, dtype=np.uint64)
            longer[:first] = self._key_of_code[:first]
            self._key_of_code = longer
        self._key_of_code[first : self.num_keys + 1] = key_C
        if self.num_keys * _SLOTS_PER_KEY > len(self._slot_code):
            first = 1
            self._resize()
        self._insert(np.arange(first, self.num_keys + 1, dtype=np.int32))

    def _resize(self) -> None:
        """Free slots, `_SLOTS_PER_KEY` to twice as many for each key there is."""
        bits = max(_BITS_MIN, (self.num_keys * _SLOTS_PER_KEY).bit_length())
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._slot_code = np.full(1 << bits, ABSENT, dtype=np.int32)

    def _home(self, key: Keys) -> NDArray[np.int64]:
        """The slot where the search for a key begins."""
        slot = key * _MULTIPLIER
        slot >>= self._shift
        return slot.view(np.int64)

    def _insert(self, code_C: Codes) -> None:
        """Find a slot for the key of each code."""
        slot = self._home(self._key_of_code[code_C])
        while len(code_C):
            free = self._slot_code[slot] == ABSENT
            # Of several that want one slot the last written has it; the others go on.
            self._slot_code[slot[free]] = code_C[free]
            going = self._slot_code[slot] != code_C
            code_C, slot = code_C[going], (slot[going] + 1) & self._mask
