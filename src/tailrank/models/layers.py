"""Layers that several models share. Legend: B item rows, N input width, M output width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(
    widths: Sequence[int], generator: torch.Generator | None, *, last_linear: bool
) -> nn.Sequential:
    """A stack of linear layers with ReLU between them.

    Args:
        widths: input width, then the output width of each layer; one width makes an empty stack.
        generator: draws W ~ N(0, sqrt(2 / (m + n))) and b ~ N(0, sqrt(1 / m)) for a layer of n
            inputs and m outputs; None: zeros, for weights about to be loaded.
        last_linear: whether the last layer goes without ReLU (a top MLP that ends in logits).

    Source: initial weights as facebookresearch/dlrm (arXiv 1906.00091).
    """
    here = torch.get_default_device()
    layers: list[nn.Module] = []
    for num_in, num_out in pairwise(widths):
        # Without PyTorch's own start, which would draw from the global generator for nothing.
        linear = nn.Linear(num_in, num_out, device="meta").to_empty(device=here)
        with torch.no_grad():
            if generator is None:
                linear.weight.zero_()
                linear.bias.zero_()
            else:
                linear.weight.normal_(0.0, math.sqrt(2.0 / (num_in + num_out)), generator=generator)
                linear.bias.normal_(0.0, math.sqrt(1.0 / num_out), generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*(layers[:-1] if last_linear and layers else layers))


def expand_users(rows_U: Tensor, item_to_user_B: Tensor) -> Tensor:
    """Repeat each user's row for every one of its items: (U, …) -> (B, …)."""
    if rows_U.shape[0] == 1:
        return rows_U.expand(item_to_user_B.shape[0], *rows_U.shape[1:])
    return rows_U.index_select(0, item_to_user_B)
