"""The CPU ranker: tables in a huge-page arena, lookups and dense layers in native kernels or torch.

A DLRM whose lookups and layers are both native is scored whole in one native call. Any other model
keeps its own `score` and has its parts swapped, so that every model built from the shared layers is
covered and stays in step with training. Safe from several threads: nothing in it changes after
construction.

Legend: B rows.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import EmbeddingTables
from tailrank.features import FeatureBatch
from tailrank.inference.arena import Arena
from tailrank.inference.arena_tables import EmbeddingBackend, arena_tables
from tailrank.inference.attention_blocks import with_blocked_attention
from tailrank.inference.dense_layers import (
    DenseBackend,
    fastest,
    linears_of,
    stacks_of,
    time_backends,
    with_packed_layers,
)
from tailrank.inference.fused_dlrm import FusedDlrm
from tailrank.inference.precision import Precision
from tailrank.kernels import dense, native, onednn
from tailrank.kernels.row_formats import FLOATS, RowFormat, columns, dtype_of
from tailrank.models import RankingModel
from tailrank.models.dlrm import DLRM


class CpuRanker:
    """Scores on one core per calling thread.

    Args:
        model: its tables already lie in `arena`; its dense layers are packed here.
        arena: the memory of the tables.
        precision: number formats.
        dense_backend: `native`, `mkl`, `onednn`, or None to time those of this host and keep the
            fastest. A model without stacks of linears, as the yardsticks are, has none to choose.
        embedding_backend: `native`, `torch`, or None for native kernels where there are any.

    Attributes:
        embed: the lookups.
        model: the dense part, its layers packed.
        fused: all of it in one native call; None where that is not for this model or host.
        num_dense_weights: numbers in the matrices of all stacks: multiplications for each item.

    Raises:
        BackendUnavailable: this host cannot run the precision or the backend.
        ConfigError: a backend for a model that has nothing to run on it.
    """

    device = "cpu"

    def __init__(
        self,
        model: RankingModel,
        arena: Arena,
        precision: Precision,
        dense_backend: DenseBackend | None = None,
        embedding_backend: EmbeddingBackend | None = None,
    ) -> None:
        self.arena, self.precision = arena, precision
        stacks = stacks_of(model)
        if dense_backend not in (None, *get_args(DenseBackend)):
            raise ConfigError("dense_backend", dense_backend, " or ".join(get_args(DenseBackend)))
        self.timings_us: dict[str, float] = {}
        self.dense_backend: DenseBackend | None = dense_backend
        self.embed = arena_tables(model.tables, embedding_backend)
        self.model = model.eval()
        self.fused: FusedDlrm | None = None
        linears = [layer for stack in stacks.values() for layer in linears_of(stack)]
        self.num_dense_weights = sum(layer.weight.numel() for layer in linears)
        if stacks:
            self._choose_dense(list(stacks.values()))
        elif dense_backend is not None:
            allowed = "None: this model has no stack of linear layers"
            raise ConfigError("dense_backend", dense_backend, allowed)

    def _choose_dense(self, stacks: list[nn.Sequential]) -> None:
        """Decide what runs the dense layers, and make it ready."""
        dense_format = self.precision.dense
        torch_bf16 = self.dense_backend == "mkl" and dense_format == "bf16"
        if dense_format in FLOATS and (self.dense_backend == "onednn" or torch_bf16):
            onednn.require(FLOATS[dense_format])
        if self.dense_backend is None:
            self.timings_us = time_backends(stacks, dense_format)
            self.dense_backend = fastest(self.timings_us)
        all_native = self.dense_backend == "native" and self.embed.backend != "torch"
        if all_native and isinstance(self.model, DLRM):
            self.fused = FusedDlrm(self.model, dense_format)
        else:
            packed = with_packed_layers(self.model, self.dense_backend, dense_format)
            self.model = with_blocked_attention(packed).eval()

    def rank(self, batch: FeatureBatch) -> Tensor:
        """Probabilities (B,), or (B, T) of several tasks; ConfigError: an id outside its table."""
        if self.fused is not None:
            return self.fused(batch)
        with torch.inference_mode():
            batch = self.model.prepare(batch)
            logits_BT = self.model.score(batch, self.embed(batch))
            return torch.sigmoid(logits_BT).squeeze(1)

    def describe(self) -> dict[str, object]:
        """What was chosen, for the result file."""
        native_isa = dense.choose_dense_isa().name if self.dense_backend == "native" else None
        return {
            "device": self.device,
            "precision": str(self.precision),
            "dense_backend": " ".join(filter(None, (self.dense_backend, native_isa))) or None,
            "dense_backend_us": self.timings_us,
            "embedding_backend": self.embed.backend,
            "native_refusal": native.why_unavailable(),
            "score_path": "whole model in one native call" if self.fused else "python",
            "table_bytes": self.arena.num_bytes,
            "huge_page_bytes": self.arena.huge_bytes(),
            "huge_page_refusal": self.arena.refusal(),
        }


def place_in_arena(tables: EmbeddingTables, row_format: RowFormat) -> Arena:
    """Give `tables` a merged weight of that format, all zeros, on huge pages, for what follows.

    Nothing is copied: a model whose weight was never touched never has it in memory twice.
    """
    shape = (tables.weight_VD.shape[0], columns(row_format, tables.embedding_dim))
    arena = Arena(shape, dtype_of(row_format))
    tables.weight_VD = nn.Parameter(arena.tensor, requires_grad=False)
    return arena
