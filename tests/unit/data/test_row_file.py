"""Rows come back whole, mapped or read, and leave nothing behind."""

import os
from pathlib import Path

import numpy as np
import pytest

from tailrank.core.errors import DataError
from tailrank.data import row_file
from tailrank.data.row_file import RowFile


@pytest.mark.parametrize("mapped_bytes", [0, 1 << 20])
def test_rows_come_back_in_any_order(tmp_path: Path, monkeypatch, mapped_bytes: int) -> None:
    monkeypatch.setattr(row_file, "_MAPPED_BYTES_MAX", mapped_bytes)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500)
    dense = rng.random((500, 3), dtype=np.float32)
    code = rng.integers(0, 1 << 31, (500, 5)).astype(np.int32)
    rows = RowFile(3, 5, tmp_path)
    for first in range(0, 500, 90):
        here = slice(first, first + 90)
        rows.append(label[here], dense[here], code[here])
    assert rows.num_rows == 500
    order = rng.permutation(500)
    for got, want in ((rows.read(90, 333), np.arange(90, 333)), (rows.take(order), order)):
        np.testing.assert_array_equal(got["label"], label[want])
        np.testing.assert_array_equal(got["dense"], dense[want])
        np.testing.assert_array_equal(got["code"], code[want])


def test_the_file_has_no_name_and_goes_with_the_rows(tmp_path: Path) -> None:
    def open_here() -> int:
        # The address of an open file without a name still begins with its folder.
        places = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return sum(
            os.readlink(place).startswith(str(tmp_path))
            for place in places
            if os.path.lexists(place)
        )

    rows = RowFile(1, 1, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert open_here() == 1
    del rows
    assert open_here() == 0


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        RowFile(1, 1, tmp_path / "file")


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch) -> None:
    rows = RowFile(1, 1, tmp_path)
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(rows, "_file", full)
        with pytest.raises(DataError, match="No space left"):
            rows.append(np.zeros(1), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int32))
        # What could not be written would be tried again when the file is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
