"""The native recurrence stands in for the model's, whatever it is asked for."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from tailrank.inference.native_gru import NativeGRU
from tailrank.kernels import native
from tailrank.models.recurrent import GRU, time_order

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)


@pytest.mark.parametrize("last_only", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_it_gives_what_the_models_own_gives(last_only: bool, scaled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    gru = GRU(5, 7, generator).eval()
    length_R = torch.tensor([3, 0, 4, 1])
    order = time_order(length_R.cumsum(0) - length_R, length_R)
    rows_LK = torch.randn(8, 5, generator=generator)
    scale_P = torch.rand(8, generator=generator) if scaled else None
    with torch.inference_mode():
        wanted = gru(rows_LK, order, scale_P, last_only=last_only)
        found = NativeGRU(gru, gru.inputs)(rows_LK, order, scale_P, last_only=last_only)
    for actual, expected in zip(found, wanted, strict=True):
        assert isinstance(actual, Tensor)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_it_takes_the_same_arguments() -> None:
    own, models = (inspect.signature(kind.forward) for kind in (NativeGRU, GRU))
    assert own == models
