"""A linear layer for training: its three products in native calls.

torch multiplies fp32 matrices through MKL, which on AMD reaches less than half of what one core can
do; oneDNN compiles a kernel for each number of rows, and batches of users differ in it. Knows
tensors only. A call releases the interpreter lock and starts no thread.

Legend: B rows, N inputs, M outputs; rows, inner and columns of a product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tailrank.core.errors import ConfigError
from tailrank.kernels import native
from tailrank.kernels.dense import DenseIsaName, choose_dense_isa

# Multiplications of a layer from which a native product is worth the Python around it.
_MULTIPLICATIONS_MIN = 1 << 19
# Threads of torch's with which its own product is faster: ours takes one.
_TORCH_THREADS_MAX = 2


def linear(x_BN: Tensor, weight_MN: Tensor, bias_M: Tensor | None) -> Tensor:
    """`x @ weight.T + bias`, as `torch.nn.functional.linear`, differentiable once.

    Native where that is faster: matrices in fp32 on a CPU that are not small, while torch has few
    threads. The sums are taken in another order than torch's.
    """
    if _is_native(x_BN, weight_MN):
        out_BM: Tensor = _Linear.apply(x_BN, weight_MN, bias_M)  # type: ignore[no-untyped-call]
        return out_BM
    return torch.nn.functional.linear(x_BN, weight_MN, bias_M)


def product(
    left: Tensor, right: Tensor, initial: Tensor | None = None, isa: DenseIsaName | None = None
) -> Tensor:
    """`left @ right + initial` of matrices in any order of memory.

    Args:
        left: (rows, inner), fp32 on CPU.
        right: (inner, columns), the same.
        initial: (columns,), the same and contiguous; None: 0.
        isa: instruction set; None: the widest that runs here.

    Raises:
        ConfigError: a shape, a type or a device does not fit.
        BackendUnavailable: see `choose_dense_isa`.
    """
    (rows, inner), columns = left.shape, right.shape[1]
    for name, tensor, shape in (
        ("left", left, (rows, inner)),
        ("right", right, (inner, columns)),
        ("initial", initial, (columns,)),
    ):
        if tensor is None:
            continue
        if tensor.dtype is not torch.float32 or not tensor.is_cpu or tensor.shape != shape:
            given = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise ConfigError(name, given, f"fp32 {shape} on cpu")
    initial = None if initial is None else initial.contiguous()
    out = torch.empty(rows, columns, dtype=torch.float32, device="cpu")  # whatever the defaults
    native.extension().product(
        choose_dense_isa(isa),
        rows,
        inner,
        columns,
        (left.data_ptr(), *left.stride()),
        (right.data_ptr(), *right.stride()),
        0 if initial is None else initial.data_ptr(),
        out.data_ptr(),
    )
    return out


def _is_native(x_BN: Tensor, weight_MN: Tensor) -> bool:
    """Whether the native products are faster for this layer here."""
    return (
        x_BN.ndim == 2
        and x_BN.shape[0] * weight_MN.numel() >= _MULTIPLICATIONS_MIN
        and x_BN.dtype == weight_MN.dtype == torch.float32
        and x_BN.is_cpu
        and torch.get_num_threads() <= _TORCH_THREADS_MAX
        and native.why_unavailable() is None
    )


class _Linear(torch.autograd.Function):
    """`linear` for autograd."""

    @staticmethod
    def forward(ctx: Any, x_BN: Tensor, weight_MN: Tensor, bias_M: Tensor | None) -> Tensor:
        """The layer."""
        ctx.save_for_backward(x_BN, weight_MN)
        return product(x_BN, weight_MN.t(), bias_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BM: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of inputs, weights and bias."""
        x_BN, weight_MN = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad_BM, weight_MN) if of_x else None,
            product(grad_BM.t(), x_BN) if of_weight else None,
            grad_BM.sum(0) if of_bias else None,
        )
