"""Stacks of linear layers for the CPU ranker: which arithmetic runs them, and how that is chosen.

Legend: B rows, N input width, M output width.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from tailrank.core.errors import BackendUnavailable
from tailrank.inference.native_attention import NativeAttention
from tailrank.inference.native_gru import NativeGRU
from tailrank.kernels import dense, native, onednn
from tailrank.kernels.dense import DenseFormat
from tailrank.kernels.row_formats import FLOATS
from tailrank.models import RankingModel
from tailrank.models.din import AttentionUnit
from tailrank.models.recurrent import GRU

DenseBackend = Literal["native", "mkl", "onednn"]
# Rows of the timing that chooses a backend: the mean part of a production query.
_CALIBRATION_ROWS = 128
_CALIBRATION_ROUNDS = 15
# Native layers are kept up to this ratio to the fastest: they save what a timing of bare stacks at
# one size does not see, the calls around them and more at small batches (docs/adr/0002).
_NATIVE_ALLOWANCE = 1.1


def layers_of(stack: nn.Sequential) -> list[dense.Layer]:
    """The linear layers of a stack of Linear and ReLU.

    Raises:
        BackendUnavailable: the stack holds another kind of layer.
    """
    layers: list[dense.Layer] = []
    modules = [*stack, None]
    for module, following in pairwise(modules):
        if isinstance(module, nn.Linear):
            weight_MN, bias_M = module.weight.detach(), torch.zeros(module.out_features)
            if module.bias is not None:
                bias_M = module.bias.detach()
            layers.append(dense.Layer(weight_MN, bias_M, isinstance(following, nn.ReLU)))
        elif not isinstance(module, nn.ReLU):
            raise BackendUnavailable(
                f"the cpu ranker has no {type(module).__name__} layer; the eager ranker has"
            )
    return layers


class PackedMLP(nn.Module):
    """The linear layers of an `nn.Sequential` of Linear and ReLU, without their modules' overhead.

    Args:
        layers: the stack to replace.
        backend: `native` (our kernels, one call for the stack), `mkl` (torch's own matrix product)
            or `onednn` (prepacked weights).
        dense_format: of weights and activations inside; input and output stay fp32.

    Raises:
        BackendUnavailable: the stack holds another kind of layer, or the backend lacks the format.
    """

    def __init__(
        self, layers: nn.Sequential, backend: DenseBackend, dense_format: DenseFormat = "fp32"
    ) -> None:
        super().__init__()
        self.backend, self.dtype = backend, FLOATS.get(dense_format, torch.float32)
        self._native: dense.PackedMlp | None = None
        self._stages: list[tuple[Tensor, Tensor, bool]] = []
        found = layers_of(layers)
        if backend == "native":
            self._native = dense.PackedMlp(found, dense_format)
            return
        if dense_format not in FLOATS:
            raise BackendUnavailable(f"{dense_format} layers run in native kernels only")
        for layer in found:
            weight_MN, bias_M = layer.weight_MN.to(self.dtype), layer.bias_M.to(self.dtype)
            packed = onednn.pack(weight_MN) if backend == "onednn" else weight_MN.t().contiguous()
            self._stages.append((packed, bias_M, layer.rectified))

    def forward(self, x_BN: Tensor) -> Tensor:
        """The stack's output (B, M), fp32."""
        if self._native is not None:
            return self._native(x_BN)
        x_BN = x_BN.to(self.dtype)
        for packed, bias_M, rectified in self._stages:
            if self.backend == "onednn":
                x_BN = onednn.linear(x_BN, packed, bias_M)
            else:
                x_BN = torch.addmm(bias_M, x_BN, packed)
            if rectified:
                x_BN.relu_()
        return x_BN.float()


def stacks_of(model: nn.Module) -> dict[str, nn.Sequential]:
    """The model's stacks of layers with any linear among them, by name, its parts' included."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential) and linears_of(module)
    }


def linears_of(stack: nn.Sequential) -> list[nn.Linear]:
    """The linear layers of a stack, whatever is between them."""
    return [module for module in stack if isinstance(module, nn.Linear)]


def packed_stack(
    stack: nn.Sequential, backend: DenseBackend, dense_format: DenseFormat
) -> nn.Module:
    """The stack with each run of Linear and ReLU packed; other activations stay torch's.

    A run's last layer stays fp32 in int8, so a stack with another activation behind every layer has
    no int8 layer.

    Raises:
        BackendUnavailable: see `PackedMLP`.
    """
    stages: list[nn.Module] = []
    run: list[nn.Module] = []
    for module in (*stack, None):
        if isinstance(module, nn.Linear) or (run and isinstance(module, nn.ReLU)):
            run.append(module)
            continue
        if run:
            stages.append(PackedMLP(nn.Sequential(*run), backend, dense_format))
            run = []
        if module is not None:
            stages.append(module)
    return stages[0] if len(stages) == 1 else nn.Sequential(*stages).train(stack.training)


def with_packed_layers(
    model: RankingModel, backend: DenseBackend, dense_format: DenseFormat
) -> RankingModel:
    """A shallow copy of the model with every stack of linears packed; the tables are shared."""
    packed = _packed(model, backend, dense_format)
    assert isinstance(packed, RankingModel)
    return packed


def _packed(module: nn.Module, backend: DenseBackend, dense_format: DenseFormat) -> nn.Module:
    """The module with its stacks packed; what has none is shared."""
    if not stacks_of(module):
        return module
    if isinstance(module, nn.Sequential):
        return packed_stack(module, backend, dense_format)
    if isinstance(module, AttentionUnit) and backend == "native":
        return NativeAttention(module)
    if isinstance(module, GRU) and backend == "native":
        return NativeGRU(module, packed_stack(module.inputs, backend, dense_format))
    packed = copy.copy(module)
    packed._modules = {
        name: child if child is None else _packed(child, backend, dense_format)
        for name, child in module._modules.items()
    }
    return packed


def time_backends(stacks: list[nn.Sequential], dense_format: DenseFormat) -> dict[str, float]:
    """Median microseconds of all stacks on one thread, by backend, measured in turns.

    CPU time of the thread: other work on the host must not choose.

    Raises:
        BackendUnavailable: no backend here has this number format.
    """
    backends: list[DenseBackend] = []
    dtype = FLOATS.get(dense_format)
    if dtype is torch.float32:
        backends.append("mkl")
    if dtype is not None and onednn.why_unavailable(dtype) is None:
        backends.append("onednn")
    if native.why_unavailable() is None:
        backends.append("native")
    if dtype is None:
        native.extension()  # or why there is none
    elif not backends:
        onednn.require(dtype)
    if len(backends) == 1:
        return {backends[0]: 0.0}
    widths = [linears_of(stack)[0].in_features for stack in stacks]
    inputs = [torch.randn(_CALIBRATION_ROWS, width) for width in widths]
    candidates = {n: [packed_stack(stack, n, dense_format) for stack in stacks] for n in backends}
    samples: dict[str, list[float]] = {name: [] for name in backends}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_CALIBRATION_ROUNDS):
                for name in backends:
                    started = time.thread_time()
                    for stack, x_BN in zip(candidates[name], inputs, strict=True):
                        stack(x_BN)
                    samples[name].append((time.thread_time() - started) * 1e6)
    finally:
        torch.set_num_threads(threads)
    return {name: round(statistics.median(times), 1) for name, times in samples.items()}


def fastest(timings_us: dict[str, float]) -> DenseBackend:
    """The backend of the smallest time, with an allowance for the native one."""
    least = min(timings_us, key=timings_us.__getitem__)
    if timings_us.get("native", math.inf) <= _NATIVE_ALLOWANCE * timings_us[least]:
        return "native"
    return "onednn" if least == "onednn" else "mkl"
