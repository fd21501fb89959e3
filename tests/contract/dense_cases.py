"""What the tests of single dense layers and of the whole DLRM share."""

import pytest
from torch import nn

from tailrank.kernels import native

NEEDS_NATIVE = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)
FLOATS = ("fp32", "bf16")
FORMATS = (*FLOATS, "int8")
# Sums of another order; bf16 keeps 8 bits of mantissa and rounds once per layer. In int8 the last
# bit of a sum may decide on a code of the next layer, 1/255 of a row's range.
TOLERANCE = {
    "fp32": {"rtol": 1e-5, "atol": 1e-5},
    "bf16": {"rtol": 3e-2, "atol": 3e-2},
    "int8": {"rtol": 1e-2, "atol": 1e-2},
}
NAN, INF = float("nan"), float("inf")


def rounded(stack: nn.Sequential, dense_format: str) -> nn.Sequential:
    """The stack with weights that the format holds exactly."""
    if dense_format == "bf16":
        for parameter in stack.parameters():
            parameter.data.copy_(parameter.data.bfloat16())
    return stack
