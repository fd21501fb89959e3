"""oneDNN linear layers with prepacked weights: the only module that touches torch's private ops.

Legend: B rows, N input width, M output width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tailrank.core.errors import BackendUnavailable

# Rows that the packing optimises for; the typical part of a query. Other sizes stay correct.
_PACKED_ROWS = 128


def why_unavailable(dtype: torch.dtype) -> str | None:
    """Why this host and build cannot run packed linears of `dtype`; None when they can."""
    if not torch._C._has_mkldnn:
        return "this torch was built without oneDNN"
    ops = torch.ops.mkldnn
    if not hasattr(ops, "_linear_pointwise") or not hasattr(ops, "_reorder_linear_weight"):
        return f"torch {torch.__version__} does not have the packed linear ops"
    try:
        linear(torch.zeros(1, 8, dtype=dtype), pack(torch.zeros(8, 8, dtype=dtype)), None)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def require(dtype: torch.dtype) -> None:
    """Make sure packed linears of `dtype` run here.

    Raises:
        BackendUnavailable: they do not; says why and what to do instead.
    """
    reason = why_unavailable(dtype)
    if reason is not None:
        name = str(dtype).removeprefix("torch.")
        raise BackendUnavailable(
            f"{name} linear layers through oneDNN: {reason}; export with dense=fp32 "
            "(--precision rows=bf16,dense=fp32 keeps the smaller tables)"
        )


def pack(weight_MN: Tensor) -> Tensor:
    """The weight in oneDNN's own layout."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_MN, _PACKED_ROWS)
    return packed


def linear(x_BN: Tensor, packed: Tensor, bias_M: Tensor | None) -> Tensor:
    """`x @ weight.T + bias`, (B, M).

    The op could apply a ReLU as well, but its ReLU turns NaN into 0, and a score computed from a
    broken feature must not look sound.
    """
    out_BM: Tensor = torch.ops.mkldnn._linear_pointwise(x_BN, packed, bias_M, "none", [], "")
    return out_BM
