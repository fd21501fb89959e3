"""Plain torch statements of every kernel: the contract that faster ones are checked against.

Knows tensors only: no model, no feature names. Legend: L ids, G bags, V table rows, D dim.
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
