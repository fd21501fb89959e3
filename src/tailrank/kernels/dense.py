"""Dense layers for small batches in native calls: packed MLP, dot interaction, a whole DLRM.

Knows tensors only. A call releases the interpreter lock and starts no thread; all classes here are
safe from several threads.

Legend: B rows, N inputs, M outputs, F vectors, D dim, P products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native

if TYPE_CHECKING:
    from tailrank.kernels._native import DenseIsa

# Instruction sets that the dense kernels are compiled for, widest first. `avx512_bf16` multiplies
# pairs of bf16 in one instruction, it and `avx512_vnni` four bytes; the others widen both first.
DenseIsaName = Literal["avx512_bf16", "avx512_vnni", "avx512", "avx2", "portable"]
DENSE_ISAS: tuple[DenseIsaName, ...] = get_args(DenseIsaName)
DenseFormat = Literal["fp32", "bf16", "int8"]
# So many products of codes, with and without the row's zero, fit into an int32.
INT8_INPUTS_MAX = 32_768
_FP32 = torch.float32


class Layer(NamedTuple):
    """A linear layer: `weight_MN @ x + bias_M`, then ReLU where `rectified`."""

    weight_MN: Tensor
    bias_M: Tensor
    rectified: bool


def runnable_dense_isas() -> tuple[DenseIsaName, ...]:
    """The instruction sets that this CPU and its operating system run, widest first.

    Raises:
        BackendUnavailable: there are no native kernels.
    """
    extension = native.extension()
    return tuple(n for n in DENSE_ISAS if extension.can_run_dense(extension.DenseIsa[n]))


def choose_dense_isa(name: DenseIsaName | None = None) -> DenseIsa:
    """The instruction set of that name; None: the widest that runs here.

    Raises:
        BackendUnavailable: there are no native kernels, or this CPU lacks that instruction set.
        ConfigError: no such instruction set.
    """
    chosen = native.named_or_widest(name, DENSE_ISAS, runnable_dense_isas)
    isa: DenseIsa = native.extension().DenseIsa[chosen]
    return isa


class PackedWeights:
    """Layers as the extension takes them: addresses, good for as long as this lives.

    Raises:
        ConfigError: widths that do not fit each other or the format.
    """

    def __init__(self, layers: Sequence[Layer], dense_format: DenseFormat) -> None:
        self._tensors: list[Tensor] = []
        self.layers: list[tuple[int, int, int, int, bool]] = []
        for index, (weight_MN, bias_M, rectified) in enumerate(layers):
            outputs, inputs = weight_MN.shape
            if bias_M.shape != (outputs,):
                raise ConfigError(f"layers[{index}].bias_M", tuple(bias_M.shape), f"({outputs},)")
            if index and inputs != layers[index - 1].weight_MN.shape[0]:
                allowed = f"{layers[index - 1].weight_MN.shape[0]}, the outputs before it"
                raise ConfigError(f"layers[{index}] inputs", inputs, allowed)
            if dense_format == "int8" and inputs > INT8_INPUTS_MAX:
                allowed = f"at most {INT8_INPUTS_MAX} in int8"
                raise ConfigError(f"layers[{index}] inputs", inputs, allowed)
            pair = [t.detach().to("cpu", _FP32).contiguous() for t in (weight_MN, bias_M)]
            self._tensors += pair
            addresses = [tensor.data_ptr() for tensor in pair]
            self.layers.append((addresses[0], addresses[1], inputs, outputs, rectified))


class PackedMlp:
    """Linear layers with packed weights, all in one call.

    Args:
        layers: at least one; the outputs of each are the inputs of the next. Weights are copied.
        dense_format: of weights and of what the layers read. Biases and the result are fp32, and
            sums as well or, in int8, exact. `int8` is `reference.int8_linear` in every layer but
            the last, which stays fp32; there, a number in a row that is not finite makes all
            outputs of the row NaN, never a number that looks sound.
        isa: instruction set; None: the widest that runs here.

    Raises:
        ConfigError: widths that do not fit each other, or more than `INT8_INPUTS_MAX` in int8.
        BackendUnavailable: see `choose_dense_isa`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        dense_format: DenseFormat = "fp32",
        isa: DenseIsaName | None = None,
    ) -> None:
        chosen = choose_dense_isa(isa)
        self.isa: str = chosen.name
        if not layers:
            raise ConfigError("layers", 0, "at least one")
        kept = PackedWeights(layers, dense_format)
        self.num_inputs: int = layers[0].weight_MN.shape[1]
        self.num_outputs: int = layers[-1].weight_MN.shape[0]
        self._call = native.extension().Mlp(chosen, format_word(dense_format), kept.layers)

    def __call__(self, x_BN: Tensor) -> Tensor:
        """The last layer's output (B, M), fp32.

        Raises:
            ConfigError: `x_BN` is not fp32 (B, N) on CPU.
        """
        if x_BN.dtype is not _FP32 or not x_BN.is_cpu or x_BN.shape[1:] != (self.num_inputs,):
            given = f"{x_BN.dtype} {tuple(x_BN.shape)} on {x_BN.device}"
            raise ConfigError("x_BN", given, f"fp32 (B, {self.num_inputs}) on CPU")
        x_BN = x_BN.contiguous()
        out_BM = torch.empty(x_BN.shape[0], self.num_outputs)
        self._call(x_BN.shape[0], x_BN.data_ptr(), out_BM.data_ptr())
        return out_BM


def dot_interaction(vectors_BFD: Tensor, first: int = 0, isa: DenseIsaName | None = None) -> Tensor:
    """Dot products of every pair of different vectors, as `reference.dot_interaction`.

    Args:
        vectors_BFD: fp32.
        first: leave out pairs of two of the first so many vectors.
        isa: instruction set; None: the widest that runs here.

    Returns:
        Tensor (B, P): <v1, v0>, <v2, v0>, <v2, v1>, … from vector `first` on.

    Raises:
        ConfigError: `vectors_BFD` is not fp32 (B, F, D) on CPU, or `first` is not 0 to F.
    """
    if vectors_BFD.dtype is not _FP32 or not vectors_BFD.is_cpu or vectors_BFD.dim() != 3:
        given = f"{vectors_BFD.dtype} {tuple(vectors_BFD.shape)} on {vectors_BFD.device}"
        raise ConfigError("vectors_BFD", given, "fp32 (B, F, D) on CPU")
    batch, count, dim = vectors_BFD.shape
    if not 0 <= first <= count:
        raise ConfigError("first", first, f"0 to {count}")
    vectors_BFD = vectors_BFD.contiguous()
    out_BP = torch.empty(batch, (count * (count - 1) - first * (first - 1)) // 2)
    native.extension().dot_interaction(
        choose_dense_isa(isa), batch, count, first, dim, vectors_BFD.data_ptr(), out_BP.data_ptr()
    )
    return out_BP


def format_word(name: DenseFormat) -> object:
    """The extension's word for a number format.

    Raises:
        ConfigError: no such format.
    """
    if name not in get_args(DenseFormat):
        raise ConfigError("dense_format", name, " or ".join(get_args(DenseFormat)))
    return native.extension().DenseFormat[name]
