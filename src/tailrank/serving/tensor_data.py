"""One tensor of the Open Inference Protocol: its type, its shape, and its data as it was sent.

Knows no transport, no model and what no tensor is for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError, RequestError

Array = NDArray[Any]
_SIZES = (1, 2, 4, 8)
DTYPES: dict[str, str] = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in _SIZES},
    **{f"UINT{8 * size}": f"<u{size}" for size in _SIZES},
    **{f"FP{8 * size}": f"<f{size}" for size in _SIZES[1:]},
}
"""NumPy's name of each data type of the protocol but BYTES, little-endian."""
BYTES = "BYTES"
SHAPE_MAX = 3
"""Dimensions of a tensor, at most."""


def check_datatype(name: str, datatype: object) -> str:
    """The data type of a tensor.

    Raises:
        ConfigError: the protocol has none of that name.
    """
    if not isinstance(datatype, str) or (datatype != BYTES and datatype not in DTYPES):
        raise ConfigError(f"{name}: datatype", datatype, f"{', '.join(DTYPES)} or {BYTES}")
    return datatype


def check_shape(name: str, shape: Sequence[object], limit: int) -> int:
    """How many elements a tensor of this shape has.

    Raises:
        ConfigError: no shape, or of more elements than the limit.
    """
    sound = isinstance(shape, list) and 1 <= len(shape) <= SHAPE_MAX
    if not sound or any(type(size) is not int or not 0 <= size <= limit for size in shape):
        raise ConfigError(f"{name}: shape", shape, "one to three whole numbers from 0")
    count = math.prod(shape)  # type: ignore[arg-type]  # whole numbers, just checked
    if count > limit:
        raise ConfigError(f"{name}: shape", shape, f"at most {limit} elements")
    return int(count)


def from_raw(
    name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview, place: str
) -> Array:
    """A tensor of raw bytes: numbers little-endian, texts each behind its length in four bytes.

    Args:
        name: of the tensor.
        datatype: of its elements, checked.
        shape: checked.
        raw: exactly its bytes.
        place: where a request has them, or says how many they are.

    Raises:
        ConfigError: so many bytes do not go with the shape.
        RequestError: they hold no such texts.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return _texts(name, raw, count).reshape(shape)
    dtype = np.dtype(DTYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize}, for {count} of {datatype}"
        raise ConfigError(f"{name}: {place}", len(raw), expected)
    return np.frombuffer(raw, dtype).reshape(shape)


def from_list(
    name: str, datatype: str, shape: Sequence[int], values: Sequence[object], place: str
) -> Array:
    """A tensor of a list of as many values as its shape says, of the kind that its type says.

    Raises:
        RequestError: there are others than so many, or numbers beyond the range of the type.
    """
    count = math.prod(shape)
    if len(values) != count:
        raise RequestError(f"{name}: {place}", f"{len(values)} elements; its shape says {count}")
    try:
        with np.errstate(over="ignore"):  # infinite: refused where it is read
            array = np.array(values, dtype=object if datatype == BYTES else DTYPES[datatype])
    except OverflowError:
        raise RequestError(f"{name}: {place}", f"beyond the range of {datatype}") from None
    return array.reshape(shape)


def _texts(name: str, raw: bytes | memoryview, count: int) -> Array:
    """Texts, each behind its length."""
    found: list[str] = []
    content, place = bytes(raw), 0
    while place < len(content) and len(found) <= count:
        end = place + 4 + int.from_bytes(content[place : place + 4], "little")
        if end > len(content):
            raise RequestError(name, "cut off: a text is longer than its data")
        found.append(as_text(name, content[place + 4 : end]))
        place = end
    if len(found) != count:
        raise RequestError(name, f"holds other than the {count} texts that its shape says")
    return np.array(found, dtype=object)


def as_text(name: str, raw: bytes) -> str:
    """One text of a tensor.

    Raises:
        RequestError: it is not UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise RequestError(name, "a text that is not UTF-8") from None
