"""Pooled lookups of a model's tables for the CPU ranker: native kernels, or torch's own.

Both check every id before it is used, and their errors name the same place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.embeddings import EmbeddingTables, Pooled
from tailrank.features import SIDES, FeatureBatch, Side, SideFeatures
from tailrank.kernels import native
from tailrank.kernels.lookup import LookupConfig, PooledLookup
from tailrank.kernels.row_formats import format_of

EmbeddingBackend = Literal["native", "torch"]


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
    """`embedding_bag` of torch on the merged weight, or its like for quantised rows."""

    backend = "torch"

    def __init__(self, tables: EmbeddingTables) -> None:
        self._tables = tables
        row_format, ops = format_of(tables.weight_VD, tables.embedding_dim), torch.ops.quantized
        self._quantized_op: Callable[..., Tensor] | None = None
        if row_format == "int8":
            self._quantized_op = ops.embedding_bag_byte_rowwise_offsets
        elif row_format == "int4":
            self._quantized_op = ops.embedding_bag_4bit_rowwise_offsets

    def __call__(self, batch: FeatureBatch) -> Pooled:
        """Pooled embeddings of both sides, fp32."""
        return Pooled(self._pooled(batch.user, "user"), self._pooled(batch.item, "item"))

    def _pooled(self, features: SideFeatures, side: Side) -> Tensor:
        """Of one side, (R, F, D)."""
        tables, num_features = self._tables, len(self._tables.spec.sparse(side))
        if self._quantized_op is None or features.num_rows * num_features == 0:
            return tables.pooled(features, side).float()
        pooled_GD = self._quantized_op(
            tables.weight_VD,
            tables.merged_ids(features, side),
            features.offsets,
            per_sample_weights=features.weights_L,
            include_last_offset=True,
        )
        # Four-bit rows of an odd dim come back with one number too many.
        dim = tables.embedding_dim
        return pooled_GD[:, :dim].reshape(features.num_rows, num_features, dim)


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
        LookupConfig(row_format=format_of(weight_VD, tables.embedding_dim)),
        feature_names=[feature.name for feature in features],
        row_name=f"{side} row",
    )
