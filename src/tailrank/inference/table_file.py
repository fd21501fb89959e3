"""Reads and writes `tables.safetensors` in one pass: every block is hashed where it lies.

The format is safetensors: the length of a header in 8 bytes, the header in JSON, then the numbers.
Its own readers map the file, so that hashing and copying would each read it, and its own writer
holds all numbers twice. Knows no model.

Legend: V rows of all tables, D dim, K columns of a stored row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from tailrank.core.errors import DataError
from tailrank.kernels.row_formats import (
    RowFormat,
    columns,
    dtype_of,
    format_of,
    read_rows,
    row_bytes,
    write_rows,
)

TENSOR_NAME = "weight"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8}
_HEADER_BYTES_MAX = 1 << 20  # ours has one tensor and takes about a hundred
_BLOCK_BYTES = 4 << 20  # in the last-level cache from reading to hashing, on whichever core

ByteProgress = Callable[[int, int], None]


class _Header(NamedTuple):
    """What precedes the numbers: its bytes, and what it says of them."""

    content: bytes
    dtype: torch.dtype
    shape: tuple[int, ...]
    num_bytes: int


def read_tables(
    file: Path,
    weight_VK: Tensor,
    row_format: RowFormat,
    dim: int,
    progress: ByteProgress = lambda done, total: None,
) -> str:
    """Fill `weight_VK` with the file's rows; to be used only if the digest is the right one.

    Args:
        file: written by safetensors, with one tensor of the name `TENSOR_NAME`.
        weight_VK: in the file's own format, or fp32 (V, D); on any device.
        row_format: of the file's rows.
        dim: D.
        progress: told the bytes read so far, and all.

    Returns:
        str: hex digest of the sha256 of the whole file.

    Raises:
        DataError: no such file, or one that is truncated or does not hold these rows.
    """
    num_rows, width = weight_VK.shape[0], columns(row_format, dim)
    try:
        # A block is hashed while the next one is read: into fresh pages, reading takes as long.
        with file.open("rb", buffering=0) as stream, ThreadPoolExecutor(1) as hasher:
            header = _read_header(stream, file)
            if (header.dtype, header.shape) != (dtype_of(row_format), (num_rows, width)):
                given = f"tables of shape {header.shape} in {header.dtype}"
                wanted = f"{(num_rows, width)} in {dtype_of(row_format)}"
                raise DataError(file, f"{given}; expected {wanted}")
            digest = hashlib.sha256()
            hashed = hasher.submit(digest.update, header.content)
            stored_bytes = row_bytes(row_format, dim)
            block_rows = max(1, _BLOCK_BYTES // max(stored_bytes, 1))
            as_stored = format_of(weight_VK, dim) == row_format
            in_place = as_stored and weight_VK.is_cpu
            scratch_2VK = torch.empty(2, 0 if in_place else block_rows, width, dtype=header.dtype)
            for number, first in enumerate(range(0, num_rows, block_rows)):
                target_VK = weight_VK.detach()[first : first + block_rows]
                block_VK = target_VK if in_place else scratch_2VK[number % 2, : len(target_VK)]
                content = _bytes_of(block_VK)
                _fill(content, stream, file)
                hashed.result()
                hashed = hasher.submit(digest.update, content)
                if not in_place:
                    target_VK.copy_(block_VK if as_stored else read_rows(block_VK, row_format, dim))
                progress((first + len(target_VK)) * stored_bytes, header.num_bytes)
    except FileNotFoundError:
        raise DataError(file, "missing from the artifact") from None
    except OSError as error:
        raise DataError(file, f"not readable ({error.strerror})") from None
    return digest.hexdigest()


def write_tables(
    file: Path,
    rows_VD: Tensor,
    row_format: RowFormat,
    progress: ByteProgress = lambda done, total: None,
) -> str:
    """Write rows in a format, block by block.

    Args:
        file: to be written; call inside `core.files.replace_directory` to have it whole or absent.
        rows_VD: fp32 on the CPU.
        row_format: how to store them.
        progress: told the bytes written so far, and all.

    Returns:
        str: hex digest of the sha256 of the whole file.

    Raises:
        ConfigError: a number that the format cannot hold; names the row.
    """
    num_rows, dim = rows_VD.shape
    num_bytes = num_rows * row_bytes(row_format, dim)
    tensor = {
        "dtype": next(name for name, dtype in _DTYPES.items() if dtype is dtype_of(row_format)),
        "shape": [num_rows, columns(row_format, dim)],
        "data_offsets": [0, num_bytes],
    }
    text = json.dumps({TENSOR_NAME: tensor}).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned where the file is mapped
    header = len(text).to_bytes(8, "little") + text
    digest, done = hashlib.sha256(header), 0
    block_rows = max(1, _BLOCK_BYTES // max(row_bytes("fp32", dim), 1))
    with file.open("wb") as stream:
        stream.write(header)
        for first in range(0, num_rows, block_rows):
            block_VD = rows_VD.detach()[first : first + block_rows]
            content = _bytes_of(write_rows(block_VD, row_format, first_row=first))
            stream.write(content)
            digest.update(content)
            done += len(content)
            progress(done, num_bytes)
    return digest.hexdigest()


def _bytes_of(rows_VK: Tensor) -> memoryview:
    """The memory of contiguous rows."""
    return memoryview(rows_VK.view(torch.uint8).numpy().data).cast("B")


def _read_header(stream: BinaryIO, file: Path) -> _Header:
    """The header, checked against the size of the file."""
    size = file.stat().st_size
    length = stream.read(8)
    num_bytes = int.from_bytes(length, "little")
    if len(length) < 8 or num_bytes > min(size - 8, _HEADER_BYTES_MAX):
        raise DataError(file, f"damaged: {size} bytes that do not begin with a header")
    content = bytearray(num_bytes)
    _fill(memoryview(content), stream, file)
    try:
        tensors = json.loads(content)
        tensors.pop("__metadata__", None)
        tensor = tensors.pop(TENSOR_NAME)
        dtype, shape = _DTYPES[tensor["dtype"]], tuple(map(int, tensor["shape"]))
        begin, end = tensor["data_offsets"]
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as e:
        raise DataError(file, f"damaged: its header is not that of tables ({e!r})") from None
    if tensors:
        raise DataError(file, f"holds more than tables: {', '.join(tensors)}")
    if min(shape, default=0) < 0 or (begin, end) != (0, math.prod(shape) * dtype.itemsize):
        raise DataError(file, f"damaged: bytes {begin} to {end} for {dtype} {shape}")
    if size != 8 + num_bytes + end:
        raise DataError(file, f"damaged: {size} bytes instead of {8 + num_bytes + end}")
    return _Header(length + content, dtype, shape, end)


def _fill(content: memoryview, stream: BinaryIO, file: Path) -> None:
    """Read as many bytes as `content` holds."""
    done = 0
    while done < len(content):
        count = stream.readinto(content[done:])  # type: ignore[attr-defined]  # an unbuffered file
        if not count:
            raise DataError(file, "damaged: it ends too early")
        done += count
