"""Pooled lookups of a model's tables for the CPU ranker: native kernels, or torch's own.

Both check every id before it is used, and their errors name the same place.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.embeddings import EmbeddingTables, Pooled
from tailrank.features import SIDES, FeatureBatch, Side, SideFeatures
from tailrank.kernels import native
from tailrank.kernels.lookup import LookupConfig, PooledLookup
from tailrank.kernels.reference import RowFormat

EmbeddingBackend = Literal["native", "torch"]
_ROW_FORMATS: dict[torch.dtype, RowFormat] = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class ArenaTables(Protocol):
    """Embeds a batch; safe from several threads."""

    backend: str

    def __call__(self, batch: FeatureBatch) -> Pooled:
        """Pooled embeddings of both sides, fp32. Raises ConfigError for an id outside its table."""
        ...


class NativeTables:
    """One native call a side, in memory as it lies: ids are neither merged nor copied.

    Args:
        tables: their weight stays where it is.

    Raises:
        BackendUnavailable: there are no native kernels here.
    """

    def __init__(self, tables: EmbeddingTables) -> None:
        self._dim = tables.embedding_dim
        self._lookups = {side: _lookup(tables, side) for side in SIDES}
        self.backend = f"native {native.runnable_isas()[0]}"

    def __call__(self, batch: FeatureBatch) -> Pooled:
        """Pooled embeddings of both sides, fp32."""
        return Pooled(self._pooled(batch.user, "user"), self._pooled(batch.item, "item"))

    def _pooled(self, features: SideFeatures, side: Side) -> Tensor:
        """Of one side, (R, F, D)."""
        lookup = self._lookups[side]
        if lookup is None:
            return features.dense_RN.new_zeros(features.num_rows, 0, self._dim)
        pooled_RW = lookup(features.values_L, features.offsets, features.weights_L)
        return pooled_RW.view(features.num_rows, -1, self._dim)


class TorchTables:
    """`torch.nn.functional.embedding_bag` on the merged weight."""

    backend = "torch"

    def __init__(self, tables: EmbeddingTables) -> None:
        self._tables = tables

    def __call__(self, batch: FeatureBatch) -> Pooled:
        """Pooled embeddings of both sides, fp32."""
        pooled: Pooled = self._tables(batch)
        if pooled.item_BFD.dtype is torch.float32:
            return pooled
        return Pooled(pooled.user_UFD.float(), pooled.item_BFD.float())


def arena_tables(tables: EmbeddingTables, backend: EmbeddingBackend | None) -> ArenaTables:
    """The tables on `backend`; None: native kernels where there are any, torch's elsewhere.

    Raises:
        BackendUnavailable: `native` where there are no native kernels.
        ConfigError: another name.
    """
    if backend is None:
        backend = "torch" if native.why_unavailable() else "native"
    if backend not in get_args(EmbeddingBackend):
        raise ConfigError("embedding_backend", backend, " or ".join(get_args(EmbeddingBackend)))
    return NativeTables(tables) if backend == "native" else TorchTables(tables)


def _lookup(tables: EmbeddingTables, side: Side) -> PooledLookup | None:
    """The lookup of one side; None where it has no sparse features."""
    features = tables.spec.sparse(side)
    if not features:
        return None
    weight_VD, rows = tables.weight_VD.detach(), []
    for feature in features:
        table = tables.spec.table(feature.table)
        first = tables.first_row[table.name]
        rows.append(weight_VD[first : first + table.num_embeddings])
    return PooledLookup(
        rows,
        tables.embedding_dim,
        LookupConfig(row_format=_ROW_FORMATS[weight_VD.dtype]),
        feature_names=[feature.name for feature in features],
        row_name=f"{side} row",
    )
