"""Arrays in memory that two processes share: written by one as flat buffers, seen by the other.

The memory has no name in any file system: it is gone when the last of its processes is. Who may
write when is agreed on elsewhere.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Layout = tuple[tuple[str, tuple[int, ...], int], ...]
"""Of each array its dtype, its shape and its first byte; it can be marshalled."""

# A cache line, and what the widest vector load of the kernels likes to start at.
_ALIGNMENT = 64
# Pages are given when they are touched: room that is never used costs nothing.
_FIRST_BYTES = 1 << 20


class SharedArrays:
    """A growing mapping; each process has its own object on the same memory.

    Args:
        fd: of the memory, which the object owns from then on; None: new memory.

    Raises:
        OSError: the system gives no memory.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("tailrank-arrays") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, _FIRST_BYTES)
        self._map()

    def write(self, arrays: Sequence[Array], first_byte: int = 0) -> tuple[Layout, int]:
        """Lay arrays down, one after the other.

        Args:
            arrays: of plain numbers, of any shape.
            first_byte: what lies before it stays.

        Returns:
            Where they lie, and the byte behind the last one.

        Raises:
            OSError: the system gives no more memory.
        """
        layout, end = [], first_byte
        for array in arrays:
            assert not array.dtype.hasobject, "numbers only: a pointer means nothing elsewhere"
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            layout.append((array.dtype.str, array.shape, start))
            end = start + array.nbytes
        if end > len(self._memory):
            os.ftruncate(self.fd, 1 << (end - 1).bit_length())
            self._map()
        for array, place in zip(arrays, layout, strict=True):
            self._view(*place)[...] = array
        return tuple(layout), end

    def read(self, layout: Layout) -> list[Array]:
        """The arrays themselves, not copies; good until something else is written there."""
        if os.fstat(self.fd).st_size > len(self._memory):
            self._map()
        return [self._view(*place) for place in layout]

    def close(self) -> None:
        """Let go of the memory; views stay good."""
        os.close(self.fd)

    def _map(self) -> None:
        # The old mapping lives as long as views of it do.
        self._memory = mmap.mmap(self.fd, os.fstat(self.fd).st_size)

    def _view(self, dtype: str, shape: tuple[int, ...], start: int) -> Array:
        return np.ndarray(shape, np.dtype(dtype), buffer=self._memory, offset=start)
