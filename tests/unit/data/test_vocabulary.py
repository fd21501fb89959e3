"""Which categories are known, and where they are kept."""

from pathlib import Path

import numpy as np
import pytest

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.category_index import feature_keys, missing_keys
from tailrank.data.vocabulary import FIRST_KNOWN_ID, MISSING_ID, UNKNOWN_ID, Vocabulary


def values(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint32)


def fitted(min_count: int = 2) -> Vocabulary:
    """Features of 4, 0 and 2 values; the last is missing nine times."""
    keys = [feature_keys(0, values(8, 3, 9, 4)), feature_keys(2, values(8, 1)), missing_keys(3)[2:]]
    counts = np.array([2, 5, 1, 5, 1, 3, 9])
    order = [3, 6, 0, 5, 1, 4, 2]
    return Vocabulary.fit(np.concatenate(keys)[order], counts[order], 3, min_count)


def test_known_are_the_frequent_ones_by_falling_count_then_value() -> None:
    assert [known.tolist() for known in fitted().known] == [[3, 4, 8], [], [1]]
    assert [known.tolist() for known in fitted(1).known] == [[3, 4, 8, 9], [], [1, 8]]
    assert fitted().table_rows == [5, 2, 3]
    assert fitted().fingerprint == fitted().fingerprint != fitted(1).fingerprint
    with pytest.raises(ConfigError, match="min_count"):
        fitted(0)


def test_ids_tell_known_missing_and_unknown_apart() -> None:
    index, id_of_code = fitted().index()

    def ids(keys: np.ndarray) -> list[int]:
        return id_of_code[index.find(keys)].tolist()

    assert ids(feature_keys(0, values(3, 4, 8, 9))) == [2, 3, 4, UNKNOWN_ID]
    assert ids(feature_keys(1, values(3))) == [UNKNOWN_ID]
    assert ids(feature_keys(2, values(8, 1))) == [UNKNOWN_ID, FIRST_KNOWN_ID]
    assert ids(missing_keys(3)) == [MISSING_ID] * 3


def test_a_file_keeps_it(tmp_path: Path) -> None:
    fitted().save(tmp_path / "vocabulary.safetensors")
    assert Vocabulary.load(tmp_path / "vocabulary.safetensors").fingerprint == fitted().fingerprint
    with pytest.raises(DataError, match="no vocabulary"):
        Vocabulary.load(tmp_path / "absent")
    (tmp_path / "bad").write_bytes(b"\x00" * 20)
    with pytest.raises(DataError, match="damaged"):
        Vocabulary.load(tmp_path / "bad")
