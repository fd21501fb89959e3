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
from tailrank.features import SIDES, Feature, FeatureBatch, SideFeatures
from tailrank.kernels import native
from tailrank.kernels.lookup import LookupConfig, PooledLookup
from tailrank.kernels.row_formats import format_of

EmbeddingBackend = Literal["native", "torch"]


class ArenaTables(Protocol):
    """Embeds a batch; safe from several threads."""

    backend: str

    def __call__(self, batch: FeatureBatch) -> Pooled:
        """What its model reads, fp32. Raises ConfigError for an id outside its table."""
        ...


class NativeTables:
    """One native call a lookup, in memory as it lies: ids are neither merged nor copied.

    Args:
        tables: their weight stays where it is.

    Raises:
        BackendUnavailable: there are no native kernels here.
    """

    def __init__(self, tables: EmbeddingTables) -> None:
        self._tables = tables
        rows = [f"{side} row" for side in SIDES] + ["id"] * (len(tables.lookups) - len(SIDES))
        self._lookups = [
            _lookup(tables, features, row_name)
            for features, row_name in zip(tables.lookups, rows, strict=True)
        ]
        self.backend = f"native {native.runnable_isas()[0]}"

    def __call__(self, batch: FeatureBatch) -> Pooled:
        """Embeddings of a batch, fp32."""
        try:
            return self._tables.pool(batch, self._look_up)
        except ConfigError:
            if self._tables.reads_sequences:
                self._tables.merged(batch)  # knows the place of an id in the batch as it was given
            raise

    def _look_up(self, number: int, bags: SideFeatures) -> Tensor:
        """Pooled rows of bags, (R, F * D)."""
        lookup = self._lookups[number]
        assert lookup is not None, "lookups of nothing are left out"
        return lookup(bags.values_L, bags.offsets, bags.weights_L)


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
        """Embeddings of a batch, fp32."""
        return self._tables.pool(self._tables.merged(batch), self._look_up)

    def _look_up(self, number: int, bags: SideFeatures) -> Tensor:
        """Pooled rows of bags, (G, D)."""
        tables = self._tables
        if bags.offsets.shape[0] == 1:
            return torch.empty(0, tables.embedding_dim)
        if self._quantized_op is None:
            return tables.look_up(number, bags).float()
        pooled_GD = self._quantized_op(
            tables.weight_VD,
            bags.values_L,
            bags.offsets,
            per_sample_weights=bags.weights_L,
            include_last_offset=True,
        )
        # Four-bit rows of an odd dim come back with one number too many.
        return pooled_GD[:, : tables.embedding_dim].contiguous()


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


def _lookup(
    tables: EmbeddingTables, features: tuple[Feature, ...], row_name: str
) -> PooledLookup | None:
    """The lookup of these features; None where there are none."""
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
        row_name=row_name,
    )
