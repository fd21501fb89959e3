"""`torch.compile` of the modules: as shipped, and as someone who tunes it would.

As shipped: the modules of eager_modules.py, nothing else said but how often to compile. Tuned: one
merged table (on huge pages where the process asks for them), weights frozen and packed for oneDNN.
Inductor's own templates for products, chosen by timing, took 13 to 33 seconds a batch size and won
at none but 1, where plain torch operators are faster still (`expert_torch`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch._dynamo.config as dynamo
import torch._inductor.config as inductor
import torch.nn.functional as F
from torch import Tensor, nn

from inference_cases import Prepare
from peers.eager_modules import EagerModules
from tailrank.features import FeatureBatch
from tailrank.models.dlrm import DLRM

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class MergedModules(nn.Module):
    """The layers of a DLRM with one table, which is handed in: frozen weights would be copied."""

    def __init__(self, model: DLRM, dtype: torch.dtype) -> None:
        super().__init__()
        assert model.config.interaction == "cat"
        layers = copy.deepcopy((model.bottom, model.top))
        self.bottom, self.top = (stack.to(dtype) for stack in layers)

    def forward(self, dense_BN: Tensor, ids_L: Tensor, offsets: Tensor, table_VD: Tensor) -> Tensor:
        """Probabilities (B,)."""
        pooled = F.embedding_bag(ids_L, table_VD, offsets, mode="sum", include_last_offset=True)
        joined = torch.cat([self.bottom(dense_BN), pooled.view(dense_BN.shape[0], -1)], dim=1)
        return torch.sigmoid(self.top(joined)).squeeze(1)


def scorer(model: DLRM, precision: str, *, tuned: bool) -> Prepare:
    """Both in fp32 or bf16; `tuned` sets Inductor's freezing for the whole process."""
    # Batch sizes, number formats and threads count together; beyond the limit nothing is compiled.
    dynamo.recompile_limit = 64
    if tuned:
        return _frozen(model, _DTYPES[precision])
    modules = EagerModules(model, precision)
    call = torch.compile(modules)

    def prepare(batch: FeatureBatch) -> Callable[[], Tensor]:
        return partial(call, *modules.arguments(batch))

    return prepare


def _frozen(model: DLRM, dtype: torch.dtype) -> Prepare:
    # Dynamo reads the setting itself: as an option of one compilation it is not obeyed.
    inductor.freezing = True
    merged = MergedModules(model, dtype)
    table_VD = model.tables.weight_VD.detach().to(dtype)
    first_F = torch.tensor(list(model.tables.first_row.values()))
    # With static batch sizes frozen fp32 layers go to MKL, half as fast on AMD as oneDNN.
    call = torch.compile(merged, dynamic=True)

    def prepare(batch: FeatureBatch) -> Callable[[], Tensor]:
        values = batch.item.values_L.view(batch.num_items, len(first_F), -1)
        ids_L = (values + first_F[:, None]).flatten()
        dense_BN = batch.item.dense_RN.to(dtype)
        return lambda: call(dense_BN, ids_L, batch.item.offsets, table_VD)

    return prepare
