"""The huge-page arena."""

import errno
import mmap
import subprocess
import sys

import pytest
import torch

from tailrank.inference.arena import HUGE_PAGE_BYTES, Arena
from tailrank.inference.cpu import place_in_arena
from tailrank.models import build_model
from tailrank.models.presets import load_preset


def test_the_tensor_is_zero_aligned_and_writable() -> None:
    arena = Arena((1000, 3), torch.float32)
    assert arena.tensor.shape == (1000, 3)
    assert arena.tensor.data_ptr() % HUGE_PAGE_BYTES == 0
    assert not arena.tensor.any()
    arena.tensor.fill_(2.0)
    assert arena.num_bytes == 12_000


def test_huge_pages_are_reported_not_assumed() -> None:
    arena = Arena((4 * HUGE_PAGE_BYTES,), torch.uint8)
    assert arena.huge_bytes() == 0  # nothing touched yet
    arena.tensor.fill_(1)
    granted = arena.huge_bytes()
    assert 0 <= granted <= 5 * HUGE_PAGE_BYTES
    assert granted % HUGE_PAGE_BYTES == 0


def test_a_refusal_of_huge_pages_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: mmap.mmap, *arguments: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    class Refusing(mmap.mmap):
        madvise = refuse

    monkeypatch.setattr("tailrank.inference.arena.mmap.mmap", Refusing)
    arena = Arena((4 * HUGE_PAGE_BYTES,), torch.uint8)
    monkeypatch.setattr(arena, "huge_bytes", lambda: HUGE_PAGE_BYTES)
    assert arena.refusal() == (
        "2.1 MB of 8.39 MB on huge pages, madvise(MADV_HUGEPAGE): Invalid argument"
    )
    monkeypatch.setattr(arena, "huge_bytes", lambda: 3 * HUGE_PAGE_BYTES)
    assert arena.refusal() is None  # the rest is less than one page


def test_tables_read_from_the_arena() -> None:
    model = build_model(load_preset("dlrm-rmc1", scale=1e-5), None)
    arena = place_in_arena(model.tables, "bf16")
    assert model.tables.weight_VD.data_ptr() == arena.tensor.data_ptr()
    assert model.tables.weight_VD.dtype is torch.bfloat16


def test_a_model_is_never_in_memory_twice() -> None:
    """RMC1's tables are announced as 102 MB, and about that is what they take at the peak."""
    code = """
import resource
from tailrank.inference.ranker import random_ranker
from tailrank.models.presets import load_preset
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
random_ranker(load_preset("dlrm-rmc1", scale=1e-5), seed=0)
before = peak()
ranker = random_ranker(load_preset("dlrm-rmc1", scale=0.025), seed=0)
print(ranker.describe()["table_bytes"], peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    table_bytes, grown = map(int, done.stdout.split())
    assert table_bytes == 102_400_000
    assert grown < 1.2 * table_bytes
