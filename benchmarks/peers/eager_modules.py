"""A DLRM the way its users write one: an `nn.EmbeddingBag` per table, `nn.Linear` modules, `cat`.

Weights are ours where they lie: in memory as torch allocates it, on 4 KiB pages on most hosts.

Legend: B rows, N dense width, F features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from inference_cases import Prepare, ids_by_table
from tailrank.features import FeatureBatch
from tailrank.models.dlrm import DLRM

EagerArguments = tuple[Tensor, list[Tensor], Tensor]


class EagerModules(nn.Module):
    """Scores batches whose features are all on the item side and whose bags are equally long."""

    def __init__(self, model: DLRM, precision: str) -> None:
        super().__init__()
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        sizes = [table.num_embeddings for table in model.config.spec.tables]
        rows = model.tables.weight_VD.detach().to(self.dtype).split(sizes)
        self.bags = nn.ModuleList(
            nn.EmbeddingBag.from_pretrained(part, mode="sum", include_last_offset=True)
            for part in rows
        )
        layers = copy.deepcopy((model.bottom, model.top))
        self.bottom, self.top = (stack.to(self.dtype) for stack in layers)
        self.dot = model.config.interaction == "dot"
        size = len(self.bags) + 1
        self.register_buffer("pairs", torch.tril_indices(size, size, offset=-1))

    def arguments(self, batch: FeatureBatch) -> EagerArguments:
        """Dense features, the ids of each table, and the offsets of its bags."""
        ids = list(ids_by_table(batch, len(self.bags)))
        offsets = torch.arange(batch.num_items + 1) * (len(ids[0]) // batch.num_items)
        return batch.item.dense_RN.to(self.dtype), ids, offsets

    def forward(self, dense_BN: Tensor, ids: list[Tensor], offsets: Tensor) -> Tensor:
        """Probabilities (B,)."""
        bottom = self.bottom(dense_BN)
        pooled = [bag(x, offsets) for bag, x in zip(self.bags, ids, strict=True)]
        if not self.dot:
            joined = torch.cat([bottom, *pooled], dim=1)
        else:
            vectors = torch.stack([bottom, *pooled], dim=1)
            products = torch.bmm(vectors, vectors.transpose(1, 2))
            joined = torch.cat([bottom, products[:, self.pairs[0], self.pairs[1]]], dim=1)
        return torch.sigmoid(self.top(joined)).squeeze(1)


def scorer(model: DLRM, precision: str, *, tuned: bool) -> Prepare:
    """The modules as they are; `bf16` is `module.to(torch.bfloat16)`."""
    assert not tuned, "a tuned way to run torch's operators is in expert_torch.py"
    modules = EagerModules(model, precision)

    def prepare(batch: FeatureBatch) -> Callable[[], Tensor]:
        arguments = modules.arguments(batch)
        return lambda: modules(*arguments)

    return prepare
