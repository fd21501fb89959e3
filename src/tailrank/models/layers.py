"""Layers that several models share.

Legend: U user rows, B item rows, R rows of one side, F sparse features of that side, D dim, N input
width, M output width or dense width of a side.
"""

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


class SidedMlp(nn.Module):
    """A stack whose first layer takes a user's inputs once per user: W [u; x] = W_u u + W_x x.

    Its parts are plain stacks, for rankers to replace. Without inputs of the user it is one stack.

    Args:
        side_widths: inputs of a user row, which may be 0, and of an item row.
        widths: output width of each layer.
        generator: draws the weights of the whole stack as `mlp` does.
        last_linear: whether the last layer goes without ReLU.
    """

    def __init__(
        self,
        side_widths: tuple[int, int],
        widths: Sequence[int],
        generator: torch.Generator | None,
        *,
        last_linear: bool,
    ) -> None:
        super().__init__()
        user_width, item_width = side_widths
        whole = mlp((user_width + item_width, *widths), generator, last_linear=last_linear)
        self.user, self.item, self.rest = nn.Sequential(), whole, nn.Sequential()
        self._has_user, self._rectified = user_width > 0, len(whole) > 1
        if self._has_user:
            first, *rest = whole
            assert isinstance(first, nn.Linear)
            user_MN, item_MN = torch.split(first.weight.detach(), list(side_widths), dim=1)
            self.user = nn.Sequential(_linear(user_MN, None))
            self.item = nn.Sequential(_linear(item_MN, first.bias))
            self.rest = nn.Sequential(*rest[1:])

    def forward(self, user_UN: Tensor, item_BN: Tensor, item_to_user_B: Tensor) -> Tensor:
        """The stack's output (B, M)."""
        out_BM: Tensor = self.item(item_BN)
        if self._has_user:
            out_BM = out_BM + expand_users(self.user(user_UN), item_to_user_B)
            out_BM = self.rest(torch.relu(out_BM) if self._rectified else out_BM)
        return out_BM


def _linear(weight_MN: Tensor, bias_M: nn.Parameter | None) -> nn.Linear:
    """A layer of these weights."""
    num_out, num_in = weight_MN.shape
    layer = nn.Linear(num_in, num_out, bias=bias_M is not None, device="meta")
    layer.weight = nn.Parameter(weight_MN.contiguous())
    if bias_M is not None:
        layer.bias = bias_M
    return layer


def linear_part(pooled_RFD: Tensor, dense_RM: Tensor, weight_M: Tensor) -> Tensor:
    """What a side adds to a linear model whose weight of an id is column 0 of its row: (R,)."""
    return pooled_RFD[:, :, 0].sum(1) + dense_RM @ weight_M


def factors_and_dense(pooled_RFD: Tensor, dense_RM: Tensor) -> Tensor:
    """What a side gives an MLP, side by side: the vectors behind column 0, then dense features."""
    return torch.cat([pooled_RFD[:, :, 1:].flatten(1), dense_RM], dim=1)


def expand_users(rows_U: Tensor, item_to_user_B: Tensor) -> Tensor:
    """Repeat each user's row for every one of its items: (U, …) -> (B, …)."""
    if rows_U.shape[0] == 1:
        return rows_U.expand(item_to_user_B.shape[0], *rows_U.shape[1:])
    return rows_U.index_select(0, item_to_user_B)
