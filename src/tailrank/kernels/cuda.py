"""Says whether there is a GPU that our kernels run on, and why not.

Imports no Triton: that takes seconds and is for those who use it. Knows tensors only.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

from tailrank.core.errors import BackendUnavailable

# What a word in which a kernel reports positions holds while nothing is wrong: none is as large.
NO_FAULT = (1 << 63) - 1
FIX = (
    "install a CUDA build of torch, which brings Triton with it, on a machine with an NVIDIA GPU; "
    "the cpu ranker scores the same artifacts"
)


def triton_version() -> str | None:
    """The Triton that is installed; None where there is none."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def device_name() -> str | None:
    """Name and memory of the GPU that is used by default; None where torch finds none."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def device_uuid() -> str | None:
    """The GPU that is used by default, as NVML names it; None where torch finds none."""
    if not torch.cuda.is_available():
        return None
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def why_unavailable() -> str | None:
    """Why our kernels run on no GPU here; None when they do."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU, or no driver for CUDA {torch.version.cuda}"
    if triton_version() is None:
        return "Triton is not installed (pip install 'tailrank[cuda]')"
    return None


def require() -> None:
    """Make sure that our kernels run on a GPU here.

    Raises:
        BackendUnavailable: they do not; says why and what to do.
    """
    reason = why_unavailable()
    if reason is not None:
        raise BackendUnavailable(f"no cuda ranker here: {reason}; {FIX}")
