"""A sparse step by FBGEMM's table-batched embeddings on the CPU, whose backward pass updates."""

from __future__ import annotations

from collections.abc import Callable

from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    OptimType,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

# On the CPU it has no Adam.
_OPTIMIZERS = {
    "sgd": OptimType.EXACT_SGD,
    "rowwise_adagrad": OptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": OptimType.EXACT_ADAGRAD,
}
RULES = tuple(_OPTIMIZERS)


class FbgemmStep:
    """One table that learns by `rule`."""

    def __init__(self, rule: str, weight_VD: Tensor, lr: float, eps: float) -> None:
        num_rows, dim = weight_VD.shape
        self.tables = SplitTableBatchedEmbeddingBagsCodegen(
            [(num_rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=_OPTIMIZERS[rule],
            learning_rate=lr,
            eps=eps,
            pooling_mode=PoolingMode.SUM,
        )
        self.weight_VD().copy_(weight_VD)

    def weight_VD(self) -> Tensor:
        """The table as it is now."""
        weight_VD: Tensor = self.tables.split_embedding_weights()[0]
        return weight_VD

    def prepare(self, ids_L: Tensor, offsets: Tensor, grad_GD: Tensor) -> Callable[[], object]:
        """The forward pass; what it returns is the step."""
        pooled_GD = self.tables(ids_L, offsets)
        return lambda: pooled_GD.backward(grad_GD)
