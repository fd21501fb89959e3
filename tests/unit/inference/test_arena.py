"""The huge-page arena."""

import torch

from tailrank.inference.arena import HUGE_PAGE_BYTES, Arena
from tailrank.inference.cpu import move_to_arena
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


def test_moving_tables_keeps_their_values() -> None:
    model = build_model(load_preset("dlrm-rmc1", scale=1e-5), seed=3)
    before = model.tables.weight_VD.detach().clone()
    arena = move_to_arena(model.tables, torch.float32)
    assert model.tables.weight_VD.data_ptr() == arena.tensor.data_ptr()
    torch.testing.assert_close(model.tables.weight_VD.data, before, rtol=0, atol=0)
