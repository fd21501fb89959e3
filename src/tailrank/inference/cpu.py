"""The CPU ranker: tables in a huge-page arena, native lookups, dense layers by the faster BLAS.

It takes the model's own `score` and swaps its parts, so that every model built from the shared
layers is covered and stays in step with training. Safe from several threads: nothing in it changes
after construction.

Legend: B rows, N input width, M output width.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Literal

import torch
from torch import Tensor, nn

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.embeddings import EmbeddingTables
from tailrank.features import FeatureBatch
from tailrank.inference.arena import Arena
from tailrank.inference.arena_tables import EmbeddingBackend, arena_tables
from tailrank.inference.precision import DTYPES, Precision
from tailrank.kernels import native, onednn
from tailrank.models import RankingModel

DenseBackend = Literal["mkl", "onednn"]
# Rows of the timing that chooses a backend: the mean part of a production query.
_CALIBRATION_ROWS = 128
_CALIBRATION_ROUNDS = 15


class PackedMLP(nn.Module):
    """The linear layers of an `nn.Sequential` of Linear and ReLU, without their modules' overhead.

    Args:
        layers: the stack to replace.
        backend: `mkl` (torch's own matrix product) or `onednn` (prepacked weights).
        dtype: of weights and activations inside; input and output stay fp32.

    Raises:
        BackendUnavailable: the stack holds another kind of layer.
    """

    def __init__(
        self, layers: nn.Sequential, backend: DenseBackend, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.backend, self.dtype = backend, dtype
        self.stages: list[tuple[Tensor, Tensor, bool]] = []
        modules = list(layers)
        for index, module in enumerate(modules):
            if isinstance(module, nn.ReLU):
                continue
            if not isinstance(module, nn.Linear):
                raise BackendUnavailable(
                    f"the cpu ranker has no {type(module).__name__} layer; the eager ranker has"
                )
            rectified = index + 1 < len(modules) and isinstance(modules[index + 1], nn.ReLU)
            weight_MN = module.weight.detach().to(dtype)
            packed = onednn.pack(weight_MN) if backend == "onednn" else weight_MN.t().contiguous()
            bias_M = module.bias.detach().to(dtype)
            self.stages.append((packed, bias_M, rectified))

    def forward(self, x_BN: Tensor) -> Tensor:
        """The stack's output (B, M), fp32."""
        x_BN = x_BN.to(self.dtype)
        for packed, bias_M, rectified in self.stages:
            if self.backend == "onednn":
                x_BN = onednn.linear(x_BN, packed, bias_M)
            else:
                x_BN = torch.addmm(bias_M, x_BN, packed)
            if rectified:
                x_BN.relu_()
        return x_BN.float()


class CpuRanker:
    """Scores on one core per calling thread.

    Args:
        model: its tables already lie in `arena`; its dense layers are packed here.
        arena: the memory of the tables.
        precision: number formats.
        dense_backend: `mkl`, `onednn`, or None to time both on this host and keep the faster. A
            model without stacks of linears, as the yardsticks are, has none to choose.
        embedding_backend: `native`, `torch`, or None for native kernels where there are any.

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
        dtype, stacks = DTYPES[precision.dense], _stacks(model)
        self.timings_us: dict[str, float] = {}
        self.dense_backend: DenseBackend | None = dense_backend
        packed = model
        if stacks:
            if dense_backend == "onednn" or dtype is not torch.float32:
                onednn.require(dtype)
            if dense_backend is None:
                self.timings_us = _time_backends(list(stacks.values()), dtype)
            backend = dense_backend or _fastest(self.timings_us)
            packed, self.dense_backend = _with_packed_layers(model, backend, dtype), backend
        elif dense_backend is not None:
            allowed = "None: this model has no stack of linear layers"
            raise ConfigError("dense_backend", dense_backend, allowed)
        self._embed = arena_tables(model.tables, embedding_backend)
        self._model = packed.eval()

    @property
    def packed_stacks(self) -> list[PackedMLP]:
        """The packed layers, for those who count their arithmetic."""
        return [stack for stack in self._model.children() if isinstance(stack, PackedMLP)]

    def rank(self, batch: FeatureBatch) -> Tensor:
        """Probabilities (B,), float32. Raises ConfigError for an id outside its table."""
        with torch.inference_mode():
            logits_BT = self._model.score(batch, self._embed(batch))
            return torch.sigmoid(logits_BT).squeeze(1)

    def describe(self) -> dict[str, object]:
        """What was chosen, for the result file."""
        return {
            "device": self.device,
            "precision": str(self.precision),
            "dense_backend": self.dense_backend,
            "dense_backend_us": self.timings_us,
            "embedding_backend": self._embed.backend,
            "native_refusal": native.why_unavailable(),
            "table_bytes": self.arena.num_bytes,
            "huge_page_bytes": self.arena.huge_bytes(),
            "huge_page_refusal": self.arena.refusal,
        }


def place_in_arena(tables: EmbeddingTables, dtype: torch.dtype) -> Arena:
    """Give `tables` a merged weight of zeros on huge pages, for weights that follow.

    Nothing is copied: a model whose weight was never touched never has it in memory twice.
    """
    arena = Arena(tuple(tables.weight_VD.shape), dtype)
    tables.weight_VD = nn.Parameter(arena.tensor, requires_grad=False)
    return arena


def _stacks(model: RankingModel) -> dict[str, nn.Sequential]:
    """The model's stacks of linear layers that hold any, by name."""
    named = model.named_children()
    return {name: m for name, m in named if isinstance(m, nn.Sequential) and len(m)}


def _with_packed_layers(
    model: RankingModel, backend: DenseBackend, dtype: torch.dtype
) -> RankingModel:
    """A shallow copy of the model with every stack of linears packed; the tables are shared."""
    packed = copy.copy(model)
    packed._modules = dict(model._modules)
    for name, stack in _stacks(model).items():
        setattr(packed, name, PackedMLP(stack, backend, dtype))
    return packed


def _time_backends(stacks: list[nn.Sequential], dtype: torch.dtype) -> dict[str, float]:
    """Median microseconds of all stacks on one thread, by backend, measured in turns."""
    backends: list[DenseBackend] = []
    if dtype is torch.float32:
        backends.append("mkl")
    if onednn.why_unavailable(dtype) is None:
        backends.append("onednn")
    if len(backends) == 1:
        return {backends[0]: 0.0}
    widths = [next(stack.parameters()).shape[1] for stack in stacks]
    inputs = [torch.randn(_CALIBRATION_ROWS, width) for width in widths]
    packed = {name: [PackedMLP(stack, name, dtype) for stack in stacks] for name in backends}
    samples: dict[str, list[float]] = {name: [] for name in backends}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_CALIBRATION_ROUNDS):
                for name in backends:
                    started = time.perf_counter()
                    for stack, x_BN in zip(packed[name], inputs, strict=True):
                        stack(x_BN)
                    samples[name].append((time.perf_counter() - started) * 1e6)
    finally:
        torch.set_num_threads(threads)
    return {name: round(statistics.median(times), 1) for name, times in samples.items()}


def _fastest(timings_us: dict[str, float]) -> DenseBackend:
    """The backend of the smallest time."""
    return "onednn" if min(timings_us, key=timings_us.__getitem__) == "onednn" else "mkl"
