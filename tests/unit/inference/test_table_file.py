"""Tables are read in one pass; whatever is not a whole file of these rows is refused with why."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tailrank.core.errors import ConfigError, DataError
from tailrank.inference import table_file
from tailrank.inference.table_file import read_tables, write_tables
from tailrank.kernels.row_formats import (
    ROW_FORMATS,
    RowFormat,
    columns,
    dtype_of,
    read_rows,
    write_rows,
)

ROWS, DIM = 100, 6


def written(tmp_path: Path, row_format: RowFormat = "fp32") -> tuple[Path, torch.Tensor]:
    rows_VD = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    rows_VK = write_rows(rows_VD, row_format)
    file = tmp_path / "tables.safetensors"
    save_file({"weight": rows_VK}, file)
    return file, rows_VK


@pytest.mark.parametrize("block_bytes", [1, 700, 1 << 20])
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_rows_come_as_stored_or_in_fp32_with_the_digest_of_the_file(
    tmp_path: Path, row_format: RowFormat, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", block_bytes)
    file, rows_VK = written(tmp_path, row_format)
    told: list[tuple[int, int]] = []
    stored_VK = torch.zeros(ROWS, columns(row_format, DIM), dtype=dtype_of(row_format))
    digest = read_tables(file, stored_VK, row_format, DIM, lambda *at: told.append(at))
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert torch.equal(stored_VK, rows_VK)
    assert told == sorted(told)
    assert told[-1] == (rows_VK.nbytes, rows_VK.nbytes)
    numbers_VD = torch.zeros(ROWS, DIM)
    assert read_tables(file, numbers_VD, row_format, DIM) == digest
    assert torch.equal(numbers_VD, read_rows(rows_VK, row_format, DIM))


@pytest.mark.parametrize("block_bytes", [1, 700, 1 << 20])
@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_what_is_written_is_safetensors_with_the_digest_of_the_file(
    tmp_path: Path, row_format: RowFormat, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", block_bytes)
    file, rows_VD = tmp_path / "mine", torch.randn(ROWS, DIM)
    told: list[tuple[int, int]] = []
    digest = write_tables(file, rows_VD, row_format, lambda *at: told.append(at))
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    stored = load_file(file)
    assert list(stored) == ["weight"]
    rows_VK = write_rows(rows_VD, row_format)
    assert torch.equal(stored["weight"], rows_VK)
    assert told == sorted(told)
    assert told[-1] == (rows_VK.nbytes, rows_VK.nbytes)
    read_VK = torch.zeros_like(rows_VK)
    assert read_tables(file, read_VK, row_format, DIM) == digest
    assert torch.equal(read_VK, rows_VK)


def test_a_number_that_cannot_be_written_is_named_by_its_row_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_file, "_BLOCK_BYTES", 700)
    rows_VD = torch.randn(ROWS, DIM)
    rows_VD[87, 2] = float("nan")
    with pytest.raises(ConfigError, match="row 87"):
        write_tables(tmp_path / "tables", rows_VD, "int8")


def test_the_header_may_hold_metadata(tmp_path: Path) -> None:
    file = tmp_path / "tables.safetensors"
    save_file({"weight": torch.ones(2, 3)}, file, metadata={"format": "pt"})
    weight_VD = torch.zeros(2, 3)
    read_tables(file, weight_VD, "fp32", 3)
    assert bool((weight_VD == 1).all())


def test_no_rows_are_read_from_a_file_without_any(tmp_path: Path) -> None:
    file = tmp_path / "tables.safetensors"
    save_file({"weight": torch.empty(0, 3)}, file)
    digest = read_tables(file, torch.empty(0, 3), "fp32", 3)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()


def with_header(content: bytes, **changes: object) -> bytes:
    """The file with another record of its tensor."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["weight"].update(changes)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


FAULTS = {
    "empty": (lambda c: b"", "0 bytes that do not begin with a header"),
    "seven bytes": (lambda c: c[:7], "7 bytes that do not begin"),
    "a header longer than the file": (lambda c: b"\xff" * 8 + c[8:], "do not begin with a header"),
    "a header cut short": (lambda c: c[:20], "do not begin with a header"),
    "a header that is no JSON": (lambda c: c[:8] + b"?" + c[9:], "header is not that of tables"),
    "a header of a list": (lambda c: (2).to_bytes(8, "little") + b"[]", "not that of tables"),
    "no tables": (lambda c: (2).to_bytes(8, "little") + b"{}", "not that of tables"),
    "a number format of others": (lambda c: with_header(c, dtype="F64"), "not that of tables"),
    "another format": (lambda c: with_header(c, dtype="U8", shape=[100, 24]), "in torch.uint8"),
    "another shape": (lambda c: with_header(c, shape=[50, 12]), r"\(50, 12\).*expected \(100, 6\)"),
    "a negative shape": (
        lambda c: with_header(c, shape=[-100, -6]),
        "damaged: bytes 0 to 2400 for",
    ),
    "lists without end": (
        lambda c: (100_000).to_bytes(8, "little") + b"[" * 100_000,
        "not that of tables",
    ),
    "an infinite shape": (lambda c: with_header(c, shape=[float("inf"), 6]), "not that of tables"),
    "a shape of words": (lambda c: with_header(c, shape="many"), "not that of tables"),
    "other offsets": (
        lambda c: with_header(c, data_offsets=[4, 2404]),
        "damaged: bytes 4 to 2404 for",
    ),
    "offsets of words": (lambda c: with_header(c, data_offsets="ab"), "damaged: bytes a to b for"),
    "cut short": (lambda c: c[:-1], "bytes instead of"),
    "too long": (lambda c: c + b"x", "bytes instead of"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path: Path, fault: str) -> None:
    damage, reason = FAULTS[fault]
    file, _ = written(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=reason) as error:
        read_tables(file, torch.zeros(ROWS, DIM), "fp32", DIM)
    assert error.value.path == str(file)


def test_two_tensors_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "tables.safetensors"
    save_file({"weight": torch.zeros(ROWS, DIM), "other": torch.zeros(1)}, file)
    with pytest.raises(DataError, match="holds more than tables: other"):
        read_tables(file, torch.zeros(ROWS, DIM), "fp32", DIM)


def test_a_folder_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing from the artifact"):
        read_tables(tmp_path / "nothing", torch.zeros(1, 1), "fp32", 1)
    with pytest.raises(DataError, match="not readable"):
        read_tables(tmp_path, torch.zeros(1, 1), "fp32", 1)
