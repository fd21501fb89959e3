"""Any of our models the way people run one: a module per table, `nn` modules, one op at a time.

The dense part is the model's own, unpacked, as it trains. Weights are ours where they lie: in
memory as torch allocates it, on 4 KiB pages on most hosts.

Legend: R rows of one side, F features of a lookup, D dim.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailrank.embeddings import EmbeddingTables, Pooled
from tailrank.features import FeatureBatch, SideFeatures
from tailrank.models import RankingModel

_Bag = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class SplitBatch:
    """A prepared batch, and for every lookup the ids and offsets of each feature."""

    batch: FeatureBatch
    bags: dict[int, list[_Bag]]


class TableModules(nn.Module):
    """An `nn.EmbeddingBag` for each feature that a model reads."""

    def __init__(self, tables: EmbeddingTables) -> None:
        super().__init__()
        self._tables, self.spec = tables, tables.spec
        self._modules_of = [
            [self._module(tables, feature.table) for feature in features]
            for features in tables.lookups
        ]

    def split(self, batch: FeatureBatch) -> SplitBatch:
        """What a data pipeline would give: ids and offsets of each table."""
        bags: dict[int, list[_Bag]] = {}

        def note(number: int, features: SideFeatures) -> Tensor:
            num_features = len(self._tables.lookups[number])
            parts = [features]  # a sequence too, whose every id is a bag
            if num_features > 1:
                parts = [features.select([at]) for at in range(num_features)]
            bags[number] = [(part.values_L, part.offsets) for part in parts]
            return torch.zeros(features.offsets.shape[0] - 1, self._tables.embedding_dim)

        self._tables.pool(batch, note)
        return SplitBatch(batch, bags)

    def forward(self, split: SplitBatch) -> Pooled:
        """Pooled vectors and sequences, as the model takes them."""

        def look_up(number: int, _: SideFeatures) -> Tensor:
            modules = self._modules_of[number]
            pooled = [
                module(ids_L, offsets)
                for module, (ids_L, offsets) in zip(modules, split.bags[number], strict=True)
            ]
            return pooled[0] if len(pooled) == 1 else torch.stack(pooled, dim=1)

        return self._tables.pool(split.batch, look_up)

    @staticmethod
    def _module(tables: EmbeddingTables, table: str | None) -> nn.EmbeddingBag:
        assert table is not None
        first = tables.first_row[table]
        rows_VD = tables.weight_VD.detach()[first:][: tables.spec.table(table).num_embeddings]
        return nn.EmbeddingBag.from_pretrained(rows_VD, mode="sum", include_last_offset=True)


class EagerModel:
    """Scores batches that `split` has made ready."""

    def __init__(self, model: RankingModel) -> None:
        self.tables = TableModules(model.tables)
        self.model = copy.copy(model.eval())
        self.model._modules = {**model._modules, "tables": self.tables}

    def split(self, batch: FeatureBatch) -> SplitBatch:
        """The batch as the model takes it; not timed."""
        return self.tables.split(self.model.prepare(batch))

    def rank(self, split: SplitBatch) -> Tensor:
        """Probabilities (B,), or (B, T) of several tasks."""
        with torch.inference_mode():
            logits_BT = self.model.score(split.batch, self.model.tables(split))
            return torch.sigmoid(logits_BT).squeeze(1)
