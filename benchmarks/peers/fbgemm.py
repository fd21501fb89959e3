"""A DLRM on FBGEMM's table-batched embeddings, one call for all tables.

As shipped: with `nn.Linear` modules. Tuned: with packed layers, on the pages of the process. Its
2-byte format of rows is fp16, which stands for bf16 here; ids are 32 bits wide, its own choice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_embedding_utils import quantize_embs
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from inference_cases import Prepare, formats, ids_by_table
from peers.expert_torch import Step, stack_of
from tailrank.features import FeatureBatch
from tailrank.models.dlrm import DLRM

_ROW_TYPES = {
    "fp32": SparseType.FP32,
    "bf16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}


def scorer(model: DLRM, precision: str, *, tuned: bool) -> Prepare:
    """Rows and layers in the formats of the precision; layers stay fp32 modules unless tuned."""
    assert model.config.interaction == "cat"
    rows, dense = formats(precision)
    lookup = batched_tables(model, _ROW_TYPES[rows])
    num_tables = len(model.config.spec.tables)
    bottom: Step = model.bottom
    top: Step = model.top
    if tuned:
        bottom, top = (stack_of(stack, dense, mkl=False) for stack in (model.bottom, model.top))
    dtype = torch.bfloat16 if dense == "bf16" else torch.float32

    def score(dense_BN: Tensor, ids_L: Tensor, offsets: Tensor) -> Tensor:
        pooled_BW = lookup(ids_L, offsets).to(dtype)
        return torch.sigmoid(top(torch.cat([bottom(dense_BN), pooled_BW], dim=1))).squeeze(1)

    def prepare(batch: FeatureBatch) -> Callable[[], Tensor]:
        ids_L = ids_by_table(batch, num_tables).flatten().int()
        num_bags = num_tables * batch.num_items
        offsets = torch.arange(num_bags + 1, dtype=torch.int32) * (len(ids_L) // num_bags)
        return partial(score, batch.item.dense_RN.to(dtype), ids_L, offsets)

    return prepare


def batched_tables(model: DLRM, row_type: SparseType) -> IntNBitTableBatchedEmbeddingBagsCodegen:
    """All tables, quantised by FBGEMM itself."""
    tables = model.config.spec.tables
    specs = [
        (table.name, table.num_embeddings, table.embedding_dim, row_type, EmbeddingLocation.HOST)
        for table in tables
    ]
    lookup = IntNBitTableBatchedEmbeddingBagsCodegen(
        specs, pooling_mode=PoolingMode.SUM, device="cpu", output_dtype=SparseType.FP32
    )
    lookup.initialize_weights()
    parts = model.tables.weight_VD.detach().split([table.num_embeddings for table in tables])
    for (codes, scale_shift), part in zip(lookup.split_embedding_weights(), parts, strict=True):
        new_codes, new_scale_shift = quantize_embs(part, row_type)
        codes.copy_(new_codes.view(codes.dtype))
        if scale_shift is not None:
            scale_shift.copy_(new_scale_shift.view(scale_shift.dtype))
    return lookup
