"""How the process keeps memory that requests have used."""

from __future__ import annotations

import ctypes

# Source: glibc, <malloc.h>; the second limit may not be larger.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES = 256 << 20, 32 << 20


def keep_freed_memory() -> None:
    """Let freed buffers be used again: else each body is written to fresh pages of the system.

    Up to 256 MiB stay with the process. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)


def give_freed_memory_back() -> None:
    """Give the system what was freed and is kept: after something large that will not come again.

    Takes milliseconds. Does nothing where the C library is not glibc.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
