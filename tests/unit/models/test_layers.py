"""Layers start from the numbers that their generator draws, and from nothing else."""

import math

import pytest
import torch

from tailrank.models.layers import mlp


def test_an_mlp_starts_from_its_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    stack = mlp((5, 4, 2), torch.Generator().manual_seed(11), last_linear=True)
    assert torch.equal(torch.get_rng_state(), before), "other draws of a seeded run would change"
    generator = torch.Generator().manual_seed(11)
    for layer, (num_in, num_out) in zip((stack[0], stack[2]), ((5, 4), (4, 2)), strict=True):
        weight_MN = torch.empty(num_out, num_in)
        weight_MN.normal_(0.0, math.sqrt(2.0 / (num_in + num_out)), generator=generator)
        bias_M = torch.empty(num_out).normal_(0.0, math.sqrt(1.0 / num_out), generator=generator)
        assert torch.equal(layer.weight, weight_MN)
        assert torch.equal(layer.bias, bias_M)


@pytest.mark.parametrize("last_linear", [True, False])
def test_an_mlp_about_to_be_loaded_is_of_zeros_and_draws_nothing(last_linear: bool) -> None:
    before = torch.get_rng_state()
    stack = mlp((300, 200, 1), None, last_linear=last_linear)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(stack) == (3 if last_linear else 4)
    assert all(not parameter.any() for parameter in stack.parameters())


def test_an_mlp_can_be_counted_without_memory() -> None:
    with torch.device("meta"):
        stack = mlp((1 << 30, 1 << 20, 1), None, last_linear=True)
    assert all(parameter.is_meta for parameter in stack.parameters())
