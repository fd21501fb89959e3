"""Columns on disk that are appended to block by block, then read in any order as memory maps.

Knows no file format.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray


class ScratchColumns:
    """Files in a temporary folder that goes when this object does.

    Args:
        parent: where to make the folder; None: the system's place.
    """

    def __init__(self, parent: Path | None) -> None:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="tailrank-columns-", dir=parent))
        self._files: dict[str, BinaryIO] = {}
        # Maps stay valid after their files are unlinked, so arrays may outlive this object.
        weakref.finalize(self, _discard, self._folder, self._files)

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Add rows at the end of a column, which all have one type and width."""
        if name not in self._files:
            self._files[name] = (self._folder / f"{len(self._files)}").open("wb")
        self._files[name].write(np.ascontiguousarray(rows).data)

    def finish(self, name: str, dtype: DTypeLike, width: int | None = None) -> NDArray[Any]:
        """A column that nothing more is appended to; (rows, width), or (rows,) without a width."""
        shape = (-1,) if width is None else (-1, width)
        file = self._files.pop(name, None)
        num_bytes = 0
        if file is not None:
            num_bytes = file.tell()
            file.close()
        if file is None or not num_bytes:  # nothing cannot be mapped
            return np.empty(0 if width is None else (0, width), dtype)
        return np.memmap(file.name, dtype, "r").reshape(shape)


def _discard(folder: Path, files: dict[str, BinaryIO]) -> None:
    """Close what a fault left open, and delete everything."""
    for file in files.values():
        file.close()
    shutil.rmtree(folder, ignore_errors=True)
