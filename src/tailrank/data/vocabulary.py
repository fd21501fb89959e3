"""Which categories are known: the map from raw category values to ids, fitted on counted rows.

Id 0 is *unknown* (rare or never seen), id 1 is *missing*, known categories follow from 2 in order
of falling count, so that rows that are read often lie together.

Legend: C different categories of all features, F features.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.category_index import (
    ABSENT,
    CategoryIndex,
    Keys,
    feature_keys,
    missing_keys,
    split_keys,
)

UNKNOWN_ID, MISSING_ID, FIRST_KNOWN_ID = ABSENT, 1, 2

Values = NDArray[np.uint32]


class Vocabulary:
    """Known categories of F features.

    Args:
        known: per feature its known values in order of id.
    """

    def __init__(self, known: list[Values]) -> None:
        self.known = known

    @classmethod
    def fit(
        cls, key_C: Keys, count_C: NDArray[np.int64], num_features: int, min_count: int
    ) -> Vocabulary:
        """Know each category that occurs at least `min_count` times.

        Args:
            key_C: all different; see `category_index`.
            count_C: how often each occurs in the rows to fit on.
            num_features: F.
            min_count: >= 1.

        Raises:
            ConfigError: `min_count` is below 1.
        """
        if min_count < 1:
            raise ConfigError("min_count", min_count, "at least 1")
        often = count_C >= min_count
        feature_C, missing_C, value_C = split_keys(key_C[often])
        order = np.lexsort((value_C, -count_C[often], feature_C))
        order = order[~missing_C[order]]
        ends = np.searchsorted(feature_C[order], np.arange(1, num_features))
        return cls(np.split(value_C[order], ends))

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

    def index(self) -> tuple[CategoryIndex, NDArray[np.int32]]:
        """Codes of all that is not unknown, and the id of each code; code 0 is unknown."""
        features = len(self.known)
        index = CategoryIndex()
        index.add(missing_keys(features))
        index.add(np.concatenate([feature_keys(*known) for known in enumerate(self.known)]))
        ids = [np.arange(len(values)) + FIRST_KNOWN_ID for values in self.known]
        return index, np.concatenate([[UNKNOWN_ID], [MISSING_ID] * features, *ids], dtype=np.int32)

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
