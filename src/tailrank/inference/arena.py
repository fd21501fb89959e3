"""A private, anonymous, huge-page mapping that holds a ranker's tables.

Random rows of a large table miss the TLB at every read on 4 KiB pages; 2 MiB pages remove most of
that. File mappings and shared memory get no huge pages on most hosts, so rows are copied in once.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tailrank.models.memory import format_bytes

HUGE_PAGE_BYTES = 2 << 20


class Arena:
    """A zeroed tensor on memory that asks for huge pages.

    Args:
        shape: of the tensor.
        dtype: of the tensor.

    Attributes:
        tensor: the tensor, aligned to a huge page; keeps the mapping alive.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        num_bytes = dtype.itemsize * int(torch.Size(shape).numel())
        mapping = mmap.mmap(
            -1, num_bytes + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self._mapping = mapping
        self._advice_refused: str | None = None
        try:
            mapping.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            self._advice_refused = f"madvise(MADV_HUGEPAGE): {error.strerror}"
        whole = torch.frombuffer(mapping, dtype=torch.uint8)
        skip = -whole.data_ptr() % HUGE_PAGE_BYTES
        self.tensor: Tensor = whole[skip : skip + num_bytes].view(dtype).view(shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.tensor.numel() * self.tensor.element_size()

    @contextmanager
    def left_out_of_forks(self) -> Iterator[None]:
        """Give no process that is forked meanwhile this memory: it has no use for it."""
        self._mapping.madvise(mmap.MADV_DONTFORK)
        try:
            yield
        finally:
            self._mapping.madvise(mmap.MADV_DOFORK)

    def refusal(self) -> str | None:
        """Why a tensor that has been filled does not lie on huge pages; None where it does."""
        huge_bytes = self.huge_bytes()
        if huge_bytes + HUGE_PAGE_BYTES >= self.num_bytes:  # its end may share a page
            return None
        found = f"{format_bytes(huge_bytes)} of {format_bytes(self.num_bytes)} on huge pages"
        return f"{found}, {self._advice_refused or 'the kernel gave no more'}"

    def huge_bytes(self) -> int:
        """Bytes of the mapping that really lie on huge pages now (from /proc/self/smaps)."""
        start = self.tensor.data_ptr()
        inside = False
        for line in Path("/proc/self/smaps").read_text("ascii", errors="replace").splitlines():
            head = line.split(None, 1)[0]
            if "-" in head and not head.endswith(":"):
                low, high = (int(part, 16) for part in head.split("-"))
                inside = low <= start < high
            elif inside and head == "AnonHugePages:":
                return int(line.split()[1]) * 1024
        return 0
