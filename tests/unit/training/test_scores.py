"""Scores of the test rows, written and read back."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tailrank.core.errors import DataError
from tailrank.metrics import BinaryMetrics
from tailrank.training.scores import SCORES_FILE, load_scores, save_scores


@pytest.mark.parametrize("groups", [None, [3, 3, 9, 4]])
def test_scores_come_back_bit_for_bit(tmp_path: Path, groups: list[int] | None) -> None:
    scored = BinaryMetrics()
    scored.update([0.1, 1.0 / 3.0, 0.0, 1.0], [0, 1, 0, 1], groups)
    save_scores(tmp_path, {"label": scored}, "abc")
    tasks, rows = load_scores(tmp_path)
    assert rows == "abc"
    assert list(tasks) == ["label"]
    found = tasks["label"]
    np.testing.assert_array_equal(found.scores, scored.scores)
    np.testing.assert_array_equal(found.labels, scored.labels)
    if groups is None:
        assert found.groups is None
    else:
        np.testing.assert_array_equal(found.groups, groups)


def test_missing_and_damaged_scores_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no test_scores\.parquet in it; expected a folder"):
        load_scores(tmp_path)
    (tmp_path / SCORES_FILE).write_bytes(b"PAR1 spoiled")
    with pytest.raises(DataError, match="damaged"):
        load_scores(tmp_path)
    pl.DataFrame({"score": [0.5]}).write_parquet(tmp_path / SCORES_FILE)
    with pytest.raises(DataError, match="damaged"):
        load_scores(tmp_path)
    columns = {"score": ["high"], "label": [1], "task": ["label"]}
    pl.DataFrame(columns).write_parquet(
        tmp_path / SCORES_FILE,
        metadata={"tailrank_rows_fingerprint": "abc", "tailrank_tasks": '["label"]'},
    )
    with pytest.raises(DataError, match="damaged"):
        load_scores(tmp_path)
