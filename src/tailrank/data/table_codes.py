"""Codes of categories: small numbers that stand for texts while the rows lie on disk.

Code 1 is *missing*. The codes of `hash` and `id` are rows of the embedding table already; those of
a vocabulary number its texts from 2 in the order in which they were met.

Legend: B rows, L categories.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tailrank.data.category_index import CategoryIndex
from tailrank.data.jagged import Ints
from tailrank.data.schema import FeatureColumn
from tailrank.data.table_cells import Texts
from tailrank.data.table_file import TableBlock
from tailrank.data.vocabulary import FIRST_KNOWN_ID, MISSING_ID

Codes = NDArray[np.int32]
_REMEMBERED_MAX = 1 << 20  # texts whose bucket is kept at hand: 12 MB


class CodeBook:
    """Gives texts their codes; finds those that it has met by a 64-bit hash of each.

    Two of ten million different texts share a hash with a probability of three in a million.

    Args:
        buckets: that texts are hashed into; None: the texts are numbered and kept.
    """

    def __init__(self, buckets: int | None) -> None:
        self.buckets = buckets
        self._index = CategoryIndex()
        self._parts: list[pl.Series] = []
        self._bucket_codes: Codes = np.zeros(1, dtype=np.int32)

    @property
    def texts(self) -> pl.Series:
        """All texts that were numbered; the first has code 2."""
        return pl.concat([pl.Series("text", [], dtype=pl.String), *self._parts])

    def codes(self, text_L: pl.Series) -> Codes:
        """Codes of texts; null is *missing*."""
        if self.buckets is not None and self._index.num_keys > _REMEMBERED_MAX:
            self._index, self._bucket_codes = CategoryIndex(), self._bucket_codes[:1]
        num_met = self._index.num_keys
        present = text_L.drop_nulls()
        # Polars promises no hash that outlives the process, and none of these does.
        number_L = self._index.code(present.hash().to_numpy())
        if self._index.num_keys > num_met:
            new_L = number_L > num_met
            _, index = np.unique(number_L[new_L], return_index=True)
            self._learn(present.filter(pl.Series(new_L)).gather(index))
        code_L = np.full(len(text_L), MISSING_ID, dtype=np.int32)
        present_L = text_L.is_not_null().to_numpy()
        # The index counts from 1, known texts from 2.
        numbered = self.buckets is None
        code_L[present_L] = number_L + 1 if numbered else self._bucket_codes[number_L]
        return code_L

    def _learn(self, new: pl.Series) -> None:
        """Keep texts that were not met before, or their buckets."""
        if self.buckets is None:
            self._parts.append(new.alias("text"))
        else:
            codes = np.array([hash_code(text, self.buckets) for text in new], dtype=np.int32)
            self._bucket_codes = np.concatenate([self._bucket_codes, codes])


def hash_code(text: str, buckets: int) -> int:
    """The table row of a category under `hash`, the same on every machine and day.

    It is 2 + BLAKE2b(UTF-8 text, digest of 8 bytes, little-endian) modulo `buckets`.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return FIRST_KNOWN_ID + int.from_bytes(digest, "little") % buckets


def id_codes(block: TableBlock, feature: FeatureColumn, found: Texts) -> Codes:
    """Whole numbers as rows of the table, after the two that are reserved.

    Raises:
        DataError: a category that is none of 0 to `feature.buckets` - 1.
    """
    buckets = feature.buckets or 1
    number_L = found.text_L.cast(pl.Int64, strict=False)
    inside_L = number_L.is_between(0, buckets - 1).fill_null(False)
    outside_L = (found.text_L.is_not_null() & ~inside_L).to_numpy()
    if outside_L.any():
        index = int(outside_L.argmax())
        if found.length_B is not None:
            ends: Ints = np.cumsum(found.length_B)
            index = int(np.searchsorted(ends, index, side="right"))
        raise block.fault(index, feature.source, f"expected ids from 0 to {buckets - 1}")
    return (number_L + FIRST_KNOWN_ID).fill_null(MISSING_ID).to_numpy().astype(np.int32)
