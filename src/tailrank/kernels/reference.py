"""Plain torch statements of every kernel: the contract that faster ones are checked against.

Knows tensors only: no model, no feature names. Legend: L ids, G bags, V table rows, D dim, K bytes
of a quantised row.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pooling = Literal["sum", "mean"]
# How a table stores a row: D floats, or quantised, see `read_rows`.
RowFormat = Literal["fp32", "bf16", "fp16", "int8", "int4"]


def read_rows(rows_VK: Tensor, row_format: RowFormat, dim: int) -> Tensor:
    """The numbers that stored rows stand for, fp32 (V, D).

    Quantised rows are FBGEMM's fused row-wise formats: each number is scale * q + bias, with the
    row's own scale and bias behind its codes. `int8`: D bytes q, scale and bias in fp32. `int4`:
    (D + 1) // 2 bytes, the low half first, scale and bias in fp16.

    Args:
        rows_VK: uint8 (V, K) of a quantised format, otherwise floats (V, D).
        row_format: what they are.
        dim: D.
    """
    if row_format == "int8":
        codes_VD, ends = rows_VK[:, :dim], _copied(rows_VK[:, dim:]).view(torch.float32)
    elif row_format == "int4":
        bytes_VK, ends = rows_VK[:, :-4], _copied(rows_VK[:, -4:]).view(torch.float16)
        codes_VD = torch.stack([bytes_VK & 15, bytes_VK >> 4], dim=2).flatten(1)[:, :dim]
    else:
        return rows_VK.float()
    return ends[:, :1].float() * codes_VD.float() + ends[:, 1:].float()


def _copied(bytes_VK: Tensor) -> Tensor:
    """The same in memory of its own: bytes become floats only where they are aligned."""
    return bytes_VK.clone(memory_format=torch.contiguous_format)


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
