"""Columns on disk that are appended to block by block, then read in any order as memory maps.

They lie in nameless temporary files, which go with the process, even a killed one. Knows no file
format.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class ScratchColumns:
    """Columns of one log.

    Args:
        folder: where the files lie, made if absent; None: the system's folder for such.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        weakref.finalize(self, _close, self._files)

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Add rows at the end of a column, which all have one type and width."""
        if name not in self._files:
            self._files[name] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - finalize
        self._files[name].write(np.ascontiguousarray(rows).data)

    def finish(self, name: str, dtype: DTypeLike, width: int | None = None) -> NDArray[Any]:
        """A column that nothing more is appended to; (rows, width), or (rows,) without a width."""
        if name not in self._files or not self._files[name].tell():  # nothing cannot be mapped
            return np.empty(0 if width is None else (0, width), dtype)
        with self._files.pop(name) as file:
            file.flush()
            # The map holds the file when its handle is closed.
            column = np.memmap(file, dtype, "r")
        return column if width is None else column.reshape(-1, width)


def _close(files: dict[str, IO[bytes]]) -> None:
    """Close what was not finished."""
    for file in files.values():
        file.close()
