"""A DLRM the way an expert runs it on torch's own operators.

All tables in one, on huge pages; one `embedding_bag` for all of them; layers packed beforehand,
with their ReLU inside; number formats that torch has kernels for. Ids come merged, without a check.

Legend: B rows, N dense width, F features, D dim, V rows of all tables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference_cases import Prepare, formats
from tailrank.features import FeatureBatch
from tailrank.kernels import onednn
from tailrank.models.dlrm import DLRM

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ROWS = 128  # what oneDNN packs for; other batches stay correct
Step = Callable[[Tensor], Tensor]


class ExpertDlrm:
    """Scores batches whose bags are equally long.

    Args:
        model: its weights are copied.
        rows: format of the tables: fp32, bf16, int8 or int4.
        dense: format of the layers: fp32, bf16 or int8.
        mkl: torch's `addmm` instead of packed layers, which are slower at small batches.
    """

    def __init__(self, model: DLRM, rows: str, dense: str, *, mkl: bool) -> None:
        assert model.config.interaction == "cat"
        self.first_F = torch.tensor(list(model.tables.first_row.values()))
        self.dense_dtype = _DTYPES.get(dense, torch.float32)
        self._lookup = pooled_by(model.tables.weight_VD.detach(), rows)
        self._bottom, self._top = (stack_of(s, dense, mkl=mkl) for s in (model.bottom, model.top))

    def prepare(self, batch: FeatureBatch) -> Callable[[], Tensor]:
        """A call on this batch."""
        values = batch.item.values_L.view(batch.num_items, len(self.first_F), -1)
        ids_L = (values + self.first_F[:, None]).flatten()
        dense_BN = batch.item.dense_RN.to(self.dense_dtype)
        return partial(self._score, dense_BN, ids_L, batch.item.offsets)

    def _score(self, dense_BN: Tensor, ids_L: Tensor, offsets: Tensor) -> Tensor:
        pooled_BW = self._lookup(ids_L, offsets).view(dense_BN.shape[0], -1).to(self.dense_dtype)
        joined = torch.cat([self._bottom(dense_BN), pooled_BW], dim=1)
        return torch.sigmoid(self._top(joined)).squeeze(1)


def pooled_by(weight_VD: Tensor, rows: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Sums of the rows of each bag, from memory that this process's allocator chose."""
    if rows in _DTYPES:
        table = weight_VD.to(_DTYPES[rows])
        bag = partial(F.embedding_bag, mode="sum", include_last_offset=True)
        return lambda ids_L, offsets: bag(ids_L, table, offsets)
    bits = {"int8": "byte", "int4": "4bit"}[rows]
    ops = torch.ops.quantized
    table = getattr(ops, f"embedding_bag_{bits}_prepack")(weight_VD)
    quantized = getattr(ops, f"embedding_bag_{bits}_rowwise_offsets")
    return lambda ids_L, offsets: quantized(table, ids_L, offsets, include_last_offset=True)


def stack_of(layers: nn.Sequential, dense: str, *, mkl: bool) -> Step:
    """The layers one after the other, each with its ReLU."""
    modules = [*layers, None]
    steps: list[Step] = []
    for module, following in pairwise(modules):
        if isinstance(module, nn.Linear):
            steps.append(_layer(module, dense, isinstance(following, nn.ReLU), mkl=mkl))

    def run(x_BN: Tensor) -> Tensor:
        for step in steps:
            x_BN = step(x_BN)
        return x_BN

    return run


def _layer(linear: nn.Linear, dense: str, rectified: bool, *, mkl: bool) -> Step:
    weight_MN, bias_M = linear.weight.detach(), linear.bias.detach()
    if dense == "int8":
        return _int8_layer(weight_MN, bias_M, rectified)
    weight_MN, bias_M = weight_MN.to(_DTYPES[dense]), bias_M.to(_DTYPES[dense])
    if mkl:
        transposed = weight_MN.t().contiguous()
        if rectified:
            return lambda x_BN: torch.addmm(bias_M, x_BN, transposed).relu_()
        return lambda x_BN: torch.addmm(bias_M, x_BN, transposed)
    onednn.require(weight_MN.dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight_MN, _ROWS)
    ending: list[Any] = ["relu" if rectified else "none", [], ""]
    return lambda x_BN: torch.ops.mkldnn._linear_pointwise(x_BN, packed, bias_M, *ending)


def _int8_layer(weight_MN: Tensor, bias_M: Tensor, rectified: bool) -> Step:
    """FBGEMM's dynamic quantisation as torch ships it: int8 weights, one scale a row."""
    scale_M = weight_MN.abs().amax(1).clamp_min(1e-12).double() / 127.0
    zero_M = torch.zeros_like(scale_M, dtype=torch.int64)
    quantized = torch.quantize_per_channel(weight_MN, scale_M, zero_M, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantized, bias_M)
    if rectified:
        return partial(_swapped, torch.ops.quantized.linear_relu_dynamic, packed)
    return partial(_swapped, torch.ops.quantized.linear_dynamic, packed)


def _swapped(op: Callable[[Tensor, Any], Tensor], packed: object, x_BN: Tensor) -> Tensor:
    return op(x_BN, packed)


def scorer(model: DLRM, precision: str, *, tuned: bool, mkl: bool = False) -> Prepare:
    """One of torch's number formats; its pages are those of the process, huge where it says so."""
    assert tuned
    rows, dense = formats(precision)
    return ExpertDlrm(model, rows, dense, mkl=mkl).prepare
