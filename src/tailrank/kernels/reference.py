"""Plain torch statements of every kernel: the contract that faster ones are checked against.

Knows tensors only: no model, no feature names. Legend: L ids, G bags, V table rows, D dim; B rows,
N inputs, M outputs of a layer.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pooling = Literal["sum", "mean"]


def pooled_lookup(
    weight_VD: Tensor,
    ids_L: Tensor,
    offsets: Tensor,
    weights_L: Tensor | None = None,
    pooling: Pooling = "sum",
) -> Tensor:
    """Sum or mean of the rows of each bag; an empty bag gives zeros.

    Args:
        weight_VD: the table, any float dtype.
        ids_L: int64 rows of the table, each in [0, V).
        offsets: int64, G + 1 positions into `ids_L`, non-decreasing, from 0 to L.
        weights_L: float factor per id, or None for all 1; rounded to the table's dtype. With `sum`.
        pooling: `sum` or `mean`.

    Returns:
        Tensor (G, D) of the table's dtype.
    """
    if offsets.shape[0] == 1:
        return weight_VD.new_zeros(0, weight_VD.shape[1])
    return F.embedding_bag(
        ids_L,
        weight_VD,
        offsets,
        mode=pooling,
        include_last_offset=True,
        per_sample_weights=None if weights_L is None else weights_L.to(weight_VD.dtype),
    )


def dot_interaction(vectors_BFD: Tensor) -> Tensor:
    """Dot products of every pair of different vectors, lower triangle row by row.

    Returns:
        Tensor (B, F * (F - 1) / 2): <v1, v0>, <v2, v0>, <v2, v1>, …

    Source: DLRM (arXiv 1906.00091), section 2.1.3, without the diagonal.
    """
    products_BFF = torch.bmm(vectors_BFD, vectors_BFD.transpose(1, 2))
    num_vectors = vectors_BFD.shape[1]
    row, column = torch.tril_indices(num_vectors, num_vectors, offset=-1, device=vectors_BFD.device)
    return products_BFF[:, row, column]


def int8_rows(x_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of a layer's inputs: x is about scale * (code - zero), within half a scale.

    Codes 0 to 255 run from the least number of the row, or 0, to its largest, or 0; so the zero of
    a row after a ReLU is 0. A row that holds anything not finite has scale NaN; one whose scale is
    below the least normal number counts as zeros.

    Returns:
        Codes (B, N) int32, scales (B, 1) fp32, zeros (B, 1) int32.
    """
    extremes = F.pad(x_BN, (0, 1)).aminmax(dim=1, keepdim=True)
    scale_B1 = _usable(extremes.max / 255 - extremes.min / 255)
    inverse_B1 = torch.where(scale_B1 > 0, 1 / scale_B1, 0)
    zero_B1 = -(extremes.min * inverse_B1).round().nan_to_num().int()
    codes_BN = (x_BN * inverse_B1).round().nan_to_num().int() + zero_B1
    broken_B1 = ~x_BN.isfinite().all(dim=1, keepdim=True)
    return codes_BN.clamp(max=255), scale_B1.masked_fill(broken_B1, torch.nan), zero_B1


def int8_columns(weight_MN: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of a layer's weights: w is about scale * code, within half a scale.

    The largest weight of an output, in absolute value, has code 127 or -127. An output with a
    weight that is not finite has scale NaN and codes 0.

    Returns:
        Codes (M, N) int32, scales (M,) fp32.
    """
    scale_M1 = _usable(weight_MN.abs().amax(dim=1, keepdim=True) / 127)
    codes_MN = torch.where(scale_M1 > 0, weight_MN / scale_M1, 0).round().nan_to_num(posinf=0)
    broken_M1 = ~weight_MN.isfinite().all(dim=1, keepdim=True)
    codes_MN = codes_MN.masked_fill(broken_M1, 0).int()
    return codes_MN, scale_M1.masked_fill(broken_M1, torch.nan).squeeze(1)


def int8_linear(x_BN: Tensor, weight_MN: Tensor, bias_M: Tensor) -> Tensor:
    """A linear layer in codes: exact sums of products of codes, scaled, plus the bias.

    A result differs from the fp32 layer's by at most scale(x) / 2 * sum |w| + scale(w) / 2 *
    sum |x| + N * scale(x) * scale(w) / 4, and fp32 rounding. A row of `x_BN` that holds anything
    not finite gives NaN in every output; a weight that is not finite gives NaN in its output for
    every row.

    Args:
        x_BN: fp32; its codes are made row by row, for every batch.
        weight_MN: fp32.
        bias_M: fp32.

    Returns:
        Tensor (B, M), fp32.
    """
    codes_BN, scale_B1, zero_B1 = int8_rows(x_BN)
    codes_MN, scale_M = int8_columns(weight_MN)
    sums_BM = (codes_BN - zero_B1).double() @ codes_MN.double().t()  # whole numbers, all exact
    return sums_BM.float() * scale_M * scale_B1 + bias_M


def _usable(scale: Tensor) -> Tensor:
    """0 for scales that have no finite reciprocal."""
    return torch.where(scale < torch.finfo(torch.float32).tiny, 0, scale)
