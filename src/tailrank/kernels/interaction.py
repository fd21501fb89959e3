"""The dot interaction with its gradient written out, for training.

Autograd's own gradient of the reference scatters into a zeroed square and then multiplies twice;
since the square is symmetric, one gather and one multiplication do. Knows tensors only.

Legend: B items, F vectors, D dim, P pairs = F * (F - 1) / 2.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def dot_interaction(vectors_BFD: Tensor) -> Tensor:
    """Dot products of every pair of different vectors, as `kernels.reference.dot_interaction`.

    Measured at B 2048, F 27, D 16 on 2 cores: forward and backward 3.0 ms, the reference 6.8 ms.

    Returns:
        Tensor (B, P): <v1, v0>, <v2, v0>, <v2, v1>, …
    """
    if torch.is_grad_enabled() and vectors_BFD.requires_grad:
        pairs_BP: Tensor = _DotInteraction.apply(vectors_BFD)  # type: ignore[no-untyped-call]
        return pairs_BP
    return _pairs(vectors_BFD)


class _DotInteraction(torch.autograd.Function):
    """`dot_interaction` for autograd."""

    @staticmethod
    def forward(ctx: Any, vectors_BFD: Tensor) -> Tensor:
        """The products."""
        ctx.save_for_backward(vectors_BFD)
        return _pairs(vectors_BFD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BP: Tensor) -> Tensor:
        """Gradient of vector i: the sum over j of gradient(i, j) times vector j."""
        (vectors_BFD,) = ctx.saved_tensors
        batch, count = vectors_BFD.shape[:2]
        _, pair_of_cell = _indices(count, vectors_BFD.device)
        padded = torch.cat([grad_BP, grad_BP.new_zeros(batch, 1)], dim=1)
        square_BFF = padded.index_select(1, pair_of_cell).view(batch, count, count)
        return torch.bmm(square_BFF, vectors_BFD)


def _pairs(vectors_BFD: Tensor) -> Tensor:
    """Products of all pairs, then those of the lower triangle."""
    products_BFF = torch.bmm(vectors_BFD, vectors_BFD.transpose(1, 2))
    cell_of_pair, _ = _indices(vectors_BFD.shape[1], vectors_BFD.device)
    return products_BFF.flatten(1).index_select(1, cell_of_pair)


@cache  # never dropped: a recorded CUDA graph goes on reading them where they are
@torch.inference_mode(False)  # kept for later calls, which may be training
def _indices(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cell of the F x F square of each pair, and pair of each cell (P, one too many, on the
    diagonal).
    """
    row, column = torch.tril_indices(count, count, offset=-1, device=device)
    num_pairs = row.shape[0]
    pair_of_cell = torch.full((count, count), num_pairs, device=device)
    pair_of_cell[row, column] = pair_of_cell[column, row] = torch.arange(num_pairs, device=device)
    return row * count + column, pair_of_cell.flatten()
