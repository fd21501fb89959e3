"""The block parser against a plain statement of the format, line by line."""

import math
from pathlib import Path

import numpy as np
import pytest

from tailrank.data import criteo_file
from tailrank.data.category_index import split_keys
from tailrank.data.criteo_file import CriteoFile


def bucket(x: int) -> int:
    return x % (1 << 32) if x <= 2 else 2 + math.floor(math.log(x) ** 2)


def plain(text: bytes) -> list[tuple[int, list[float], list[int | None]]]:
    """(label, dense, values) of each line."""
    rows = []
    for line in text.splitlines():
        fields = line.decode().split("\t")
        integers = [int(field) if field else None for field in fields[1:14]]
        values = [int(field, 16) if field else None for field in fields[14:]]
        values += [None if x is None else bucket(x) for x in integers]
        dense = [math.log1p(max(x or 0, 0)) for x in integers]
        rows.append((int(fields[0]), dense, values))
    return rows


def draw_line(rng: np.random.Generator) -> str:
    """A line with everything that the format allows."""
    integers = []
    for _ in range(13):
        kind = rng.integers(8)
        number = int(rng.integers(10 ** rng.integers(1, 9)))
        number = int(rng.integers(10**18)) if kind == 7 else number
        text = "0" * rng.integers(0, 3) + str(number) if kind == 6 else str(number)
        integers.append("" if kind == 0 else "-" * int(kind < 3) + text[:18])
    categories = []
    for _ in range(26):
        digits = f"{rng.integers(1 << 32):08x}"[: rng.integers(0, 12)]
        categories.append(digits.upper() if rng.integers(4) == 0 else digits)
    return "\t".join([str(rng.integers(2)), *integers, *categories])


@pytest.mark.parametrize("block_bytes", [300, 5000, 1 << 18])
@pytest.mark.parametrize("last_newline", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_those_of_the_lines(
    tmp_path: Path, monkeypatch, block_bytes: int, last_newline: bool, seed: int
) -> None:
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(seed)
    text = "".join(draw_line(rng) + ("\r\n" if rng.integers(3) == 0 else "\n") for _ in range(150))
    text += "\t".join(["1", *[""] * 39]) + "\n"
    (tmp_path / "log.tsv").write_bytes(text.encode() if last_newline else text.encode()[:-1])
    file = CriteoFile(tmp_path / "log.tsv", integer_buckets=True)
    parts = list(file.blocks())
    assert file.num_rows == 151
    labels, dense, values = zip(*plain(text.encode()), strict=True)
    assert np.concatenate([part.label_B for part in parts]).tolist() == list(labels)
    dense_BN = np.concatenate([part.dense_BN for part in parts])
    np.testing.assert_allclose(dense_BN, np.array(dense), rtol=1e-7)
    key_BF = np.concatenate([part.key_BF for part in parts])
    feature, missing, value = split_keys(key_BF.reshape(-1))
    assert feature.tolist() == list(range(39)) * 151
    wanted = [value for row in values for value in row]
    assert missing.tolist() == [value is None for value in wanted]
    assert value.tolist() == [value or 0 for value in wanted]
    # Without buckets, the same with fewer columns.
    narrow = np.concatenate([part.key_BF for part in CriteoFile(tmp_path / "log.tsv").blocks()])
    np.testing.assert_array_equal(narrow, key_BF[:, :26])
