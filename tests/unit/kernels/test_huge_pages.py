"""Tensors that ask for huge pages."""

import re
from pathlib import Path

import pytest
import torch

from tailrank.kernels import huge_pages

MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ")


def flags_at(address: int) -> set[str]:
    """What the kernel was told of the mapping with that address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text("ascii").splitlines():
        if found := MAPPING.match(line):
            first, last = (int(number, 16) for number in found.groups())
            inside = first <= address < last
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError("no mapping there")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages"
)
def test_a_large_tensor_asks_for_them() -> None:
    large = huge_pages.empty(1 << 20, 16)  # so large that the allocator maps it by itself
    assert "hg" in flags_at(large.data_ptr() + large.nbytes // 2)


def test_it_is_a_tensor_like_any_other() -> None:
    for shape in ((0, 4), (3, 0), (7,), (700_000, 3)):
        tensor = huge_pages.empty(*shape)
        assert tensor.shape == shape
        assert tensor.dtype == torch.float32
        assert float(tensor.fill_(2.0).sum(dtype=torch.float64)) == 2.0 * tensor.numel()
    with torch.device("meta"):
        assert huge_pages.empty(1 << 40, 16).is_meta
