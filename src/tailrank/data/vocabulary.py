"""Which categories are known: the map from raw category values to ids, fitted on counted rows.

Id 0 is *unknown* (rare or never seen), id 1 is *missing*, known categories follow from 2 in order
of falling count, so that rows that are read often lie together.

Legend: B rows, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tailrank.core.errors import ConfigError, DataError

UNKNOWN_ID, MISSING_ID, FIRST_KNOWN_ID = 0, 1, 2
_MERGE_ROWS = 1 << 17  # values that wait to be counted, per feature: 20 MB for 39 features

Values = NDArray[np.uint32]
Bits = NDArray[np.uint64]


class Vocabulary:
    """Known categories of F features.

    Args:
        known: per feature its known values in order of id.
    """

    def __init__(self, known: list[Values]) -> None:
        self.known = known
        self._sorted: list[tuple[Values, NDArray[np.int32]]] = []
        for values in known:
            order = np.argsort(values)
            ids = (order + FIRST_KNOWN_ID).astype(np.int32)
            self._sorted.append((values[order], ids))

    @classmethod
    def fit(
        cls, blocks: Iterable[tuple[Values, Bits]], num_features: int, min_count: int
    ) -> Vocabulary:
        """Know each category that occurs at least `min_count` times.

        Args:
            blocks: (category_BF, missing_B) pairs; see `criteo_file.RawRows`.
            num_features: F.
            min_count: >= 1.

        Raises:
            ConfigError: `min_count` is below 1.
        """
        if min_count < 1:
            raise ConfigError("min_count", min_count, "at least 1")
        counters = [_Counter() for _ in range(num_features)]
        for category_BF, missing_B in blocks:
            for feature, counter in enumerate(counters):
                present_B = ~_is_missing(missing_B, feature)
                counter.add(category_BF[present_B, feature])
        return cls([counter.known(min_count) for counter in counters])

    @property
    def table_rows(self) -> list[int]:
        """Rows that each feature's table needs."""
        return [len(values) + FIRST_KNOWN_ID for values in self.known]

    @property
    def fingerprint(self) -> str:
        """Hex digest of the map."""
        digest = hashlib.sha256()
        for values in self.known:
            digest.update(len(values).to_bytes(8, "little") + values.tobytes())
        return digest.hexdigest()

    def ids(self, category_BF: Values, missing_B: Bits) -> NDArray[np.int32]:
        """Ids (B, F) of raw categories."""
        id_BF = np.zeros(category_BF.shape, dtype=np.int32)
        for feature, (values, ids) in enumerate(self._sorted):
            column_B = category_BF[:, feature]
            if len(values):
                place_B = np.minimum(np.searchsorted(values, column_B), len(values) - 1)
                known_B = values[place_B] == column_B
                id_BF[known_B, feature] = ids[place_B[known_B]]
            id_BF[_is_missing(missing_B, feature), feature] = MISSING_ID
        return id_BF

    def save(self, file: Path) -> None:
        """Write the map as safetensors."""
        save_file({f"{index:03d}": values for index, values in enumerate(self.known)}, file)

    @classmethod
    def load(cls, file: Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            DataError: missing or damaged file.
        """
        try:
            stored = load_file(file)
        except FileNotFoundError:
            raise DataError(file, "no vocabulary here") from None
        except (SafetensorError, OSError) as error:
            raise DataError(file, f"damaged vocabulary: {error}") from None
        return cls([stored[name] for name in sorted(stored)])


def _is_missing(missing_B: Bits, feature: int) -> NDArray[np.bool_]:
    """Rows where that feature's bit is set."""
    is_set: NDArray[np.bool_] = (missing_B >> np.uint64(feature)) & np.uint64(1) == 1
    return is_set


class _Counter:
    """Counts of one feature's values, merged now and then so that memory follows the number of
    different values, not of rows.
    """

    def __init__(self) -> None:
        self._values = np.empty(0, dtype=np.uint32)
        self._counts = np.empty(0, dtype=np.int64)
        self._pending: list[Values] = []
        self._num_pending = 0

    def add(self, values: Values) -> None:
        self._pending.append(values)
        self._num_pending += len(values)
        if self._num_pending > max(_MERGE_ROWS, len(self._values)):
            self._merge()

    def known(self, min_count: int) -> Values:
        """Values seen often enough, by falling count, then by value."""
        self._merge()
        often = self._counts >= min_count
        values, counts = self._values[often], self._counts[often]
        return values[np.lexsort((values, -counts))]

    def _merge(self) -> None:
        if not self._pending:
            return
        new, new_counts = np.unique(np.concatenate(self._pending), return_counts=True)
        together = np.concatenate([self._values, new])
        all_counts = np.concatenate([self._counts, new_counts])
        self._values, inverse = np.unique(together, return_inverse=True)
        counts = np.bincount(inverse, weights=all_counts).astype(np.int64)
        self._counts, self._pending, self._num_pending = counts, [], 0
