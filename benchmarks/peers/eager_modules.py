"""A DLRM the way its users write one: an `nn.EmbeddingBag` per table, `nn.Linear` modules, `cat`.

Weights are copied from ours, into memory as torch allocates it: 4 KiB pages on most hosts.

Legend: B rows, N dense width, P ids of a bag, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tailrank.features import FeatureBatch
from tailrank.models.dlrm import DLRM


class EagerModules(nn.Module):
    """Scores batches whose features are all on the item side and whose bags are equally long."""

    def __init__(self, model: DLRM) -> None:
        super().__init__()
        tables = model.tables
        sizes = [table.num_embeddings for table in model.config.spec.tables]
        rows = tables.weight_VD.detach().split(sizes)
        self.bags = nn.ModuleList(
            nn.EmbeddingBag.from_pretrained(part.clone(), mode="sum", include_last_offset=True)
            for part in rows
        )
        self.bottom, self.top = model.bottom, model.top
        self.dot = model.config.interaction == "dot"
        size = len(self.bags) + 1
        self.register_buffer("pairs", torch.tril_indices(size, size, offset=-1))

    def arguments(self, batch: FeatureBatch) -> tuple[Tensor, list[Tensor], Tensor]:
        """Dense features, the ids of each table, and the offsets of its bags."""
        num_rows, num_tables = batch.num_items, len(self.bags)
        values = batch.item.values_L.view(num_rows, num_tables, -1)
        ids = [values[:, index].reshape(-1) for index in range(num_tables)]
        offsets = torch.arange(num_rows + 1) * values.shape[2]
        return batch.item.dense_RN, ids, offsets

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
