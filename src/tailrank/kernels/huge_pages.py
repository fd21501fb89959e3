"""Tensors on memory that asks for huge pages.

Random rows of a large table miss the TLB at nearly every read on pages of 4 KiB; on pages of 2 MiB
lazy Adam, which reads three rows for each row of a batch, takes three quarters of the time. The
kernel may refuse, and nothing but the speed changes then.
"""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_PAGE_BYTES = 2 << 20


def empty(*shape: int) -> Tensor:
    """A float32 tensor that is not set, its memory not touched."""
    tensor = torch.empty(*shape)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only
    if advice is not None and tensor.is_cpu:
        address = tensor.data_ptr()
        # The whole pages inside of it: what lies beside them belongs to others.
        first, last = -(-address // _PAGE_BYTES), (address + tensor.nbytes) // _PAGE_BYTES
        if last > first:
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(first * _PAGE_BYTES),
                ctypes.c_size_t((last - first) * _PAGE_BYTES),
                advice,
            )
    return tensor
