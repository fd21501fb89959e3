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

from tailrank.features import SIDES, FeatureSpec
from tailrank.kernels import trained_linear
from tailrank.models.activations import Activation, activation


class Linear(nn.Linear):
    """`nn.Linear`, whose gradients are taken natively where that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        """`x @ weight.T + bias`: (B, N) -> (B, M)."""
        if self.training and torch.is_grad_enabled():
            return trained_linear.linear(input, self.weight, self.bias)
        return super().forward(input)


def linear(
    num_in: int, num_out: int, generator: torch.Generator | None, *, bias: bool = True
) -> Linear:
    """A linear layer.

    Args:
        num_in: n inputs.
        num_out: m outputs.
        generator: draws W ~ N(0, sqrt(2 / (m + n))) and b ~ N(0, sqrt(1 / m)); None: zeros, for
            weights about to be loaded.
        bias: whether it has one.

    Source: initial weights as facebookresearch/dlrm (arXiv 1906.00091).
    """
    # Without PyTorch's own start, which would draw from the global generator for nothing.
    here = torch.get_default_device()
    layer = Linear(num_in, num_out, bias, device="meta").to_empty(device=here)
    with torch.no_grad():
        for parameter, variance in (
            (layer.weight, 2.0 / (num_in + num_out)),
            (layer.bias, 1.0 / num_out),
        ):
            if parameter is None:
                continue
            if generator is None:
                parameter.zero_()
            else:
                parameter.normal_(0.0, math.sqrt(variance), generator=generator)
    return layer


def mlp(
    widths: Sequence[int],
    generator: torch.Generator | None,
    *,
    last_linear: bool,
    between: Activation = "relu",
) -> nn.Sequential:
    """A stack of linear layers with activations between them.

    Args:
        widths: input width, then the output width of each layer; one width makes an empty stack.
        generator: see `linear`.
        last_linear: whether the last layer goes without activation (a top MLP that ends in logits).
        between: the activation.
    """
    layers: list[nn.Module] = []
    for num_in, num_out in pairwise(widths):
        layers += [linear(num_in, num_out, generator), activation(between, num_out)]
    return nn.Sequential(*(layers[:-1] if last_linear and layers else layers))


class SidedMlp(nn.Module):
    """A stack whose first layer takes a user's inputs once per user: W [u; x] = W_u u + W_x x.

    Its parts are plain stacks, for rankers to replace. Without inputs of the user it is one stack.

    Args:
        side_widths: inputs of a user row, which may be 0, and of an item row.
        widths: output width of each layer.
        generator: draws the weights of the whole stack as `mlp` does.
        last_linear: whether the last layer goes without activation.
        between: the activation.
    """

    def __init__(
        self,
        side_widths: tuple[int, int],
        widths: Sequence[int],
        generator: torch.Generator | None,
        *,
        last_linear: bool,
        between: Activation = "relu",
    ) -> None:
        super().__init__()
        user_width, item_width = side_widths
        all_widths = (user_width + item_width, *widths)
        whole = mlp(all_widths, generator, last_linear=last_linear, between=between)
        self.user, self.item, self.rest = nn.Sequential(), whole, nn.Sequential()
        self.between: nn.Module = nn.Identity()
        self._has_user = user_width > 0
        if self._has_user:
            first, *rest = whole
            assert isinstance(first, nn.Linear)
            self.between = rest[0] if rest else self.between
            user_MN, item_MN = torch.split(first.weight.detach(), list(side_widths), dim=1)
            self.user = nn.Sequential(_linear(user_MN, None))
            self.item = nn.Sequential(_linear(item_MN, first.bias))
            self.rest = nn.Sequential(*rest[1:])

    def forward(self, user_UN: Tensor, item_BN: Tensor, item_to_user_B: Tensor) -> Tensor:
        """The stack's output (B, M)."""
        out_BM: Tensor = self.item(item_BN)
        if self._has_user:
            out_BM = out_BM + expand_users(self.user(user_UN), item_to_user_B)
            out_BM = self.rest(self.between(out_BM))
        return out_BM


def _linear(weight_MN: Tensor, bias_M: nn.Parameter | None) -> Linear:
    """A layer of these weights."""
    num_out, num_in = weight_MN.shape
    layer = Linear(num_in, num_out, bias=bias_M is not None, device="meta")
    layer.weight = nn.Parameter(weight_MN.contiguous())
    if bias_M is not None:
        layer.bias = bias_M
    return layer


def linear_part(pooled_RFD: Tensor, dense_RM: Tensor, weight_M: Tensor) -> Tensor:
    """What a side adds to a linear model whose weight of an id is column 0 of its row: (R,)."""
    return linear_parts(pooled_RFD, dense_RM, weight_M.unsqueeze(1)).squeeze(1)


def linear_parts(pooled_RFD: Tensor, dense_RM: Tensor, weight_MT: Tensor) -> Tensor:
    """The same of T linear models, whose weights of an id are the first T columns: (R, T)."""
    return pooled_RFD[:, :, : weight_MT.shape[1]].sum(1) + dense_RM @ weight_MT


def factors_and_dense(pooled_RFD: Tensor, dense_RM: Tensor, num_linear: int = 1) -> Tensor:
    """What a side gives an MLP: the vectors behind the linear weights, then dense features."""
    # Not the slice: whether that flattens depends on R, which an exported graph leaves open.
    vectors_RFD = pooled_RFD[:, :, num_linear:].clone(memory_format=torch.contiguous_format)
    return torch.cat([vectors_RFD.flatten(1), dense_RM], dim=1)


def side_widths(spec: FeatureSpec, vector_width: int) -> tuple[int, int]:
    """Width of all vectors and dense features of the user, and of the item."""
    user, item = (len(spec.sparse(side)) * vector_width + spec.dense_width(side) for side in SIDES)
    return user, item


def expand_users(rows_U: Tensor, item_to_user_B: Tensor) -> Tensor:
    """Repeat each user's row for every one of its items: (U, …) -> (B, …)."""
    # An exported graph holds for any number of users, so it must not ask whether it is one.
    if not torch.compiler.is_exporting() and rows_U.shape[0] == 1:
        return rows_U.expand(item_to_user_B.shape[0], *rows_U.shape[1:])
    return rows_U.index_select(0, item_to_user_B)
