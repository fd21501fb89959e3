"""The native dense kernels on every instruction set, against plain torch."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.dense_cases import FLOATS, FORMATS, INF, NAN, NEEDS_NATIVE, TOLERANCE, rounded
from torch import Tensor, nn

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.inference.dense_layers import layers_of
from tailrank.kernels import dense, reference
from tailrank.kernels.dense import Layer, PackedMlp, runnable_dense_isas
from tailrank.models.layers import mlp

pytestmark = NEEDS_NATIVE
WIDTHS = (1, 7, 13, 16, 33, 64, 100, 512)


def random_stack(*widths: int, last_linear: bool = True, seed: int = 0) -> nn.Sequential:
    return mlp(widths, torch.Generator().manual_seed(seed), last_linear=last_linear)


def expected(stack: nn.Sequential, x_BN: Tensor, dense_format: str = "fp32") -> Tensor:
    *layers, last = layers_of(stack)
    if dense_format == "int8":
        for weight_MN, bias_M, rectified in layers:
            x_BN = reference.int8_linear(x_BN, weight_MN, bias_M)
            x_BN = x_BN.relu() if rectified else x_BN
        out_BM = x_BN.double() @ last.weight_MN.double().t() + last.bias_M
        return (out_BM.relu() if last.rectified else out_BM).float()
    with torch.inference_mode():
        return stack.double()(x_BN.double()).float()


@pytest.mark.parametrize("dense_format", FLOATS)
def test_every_width_meets_every_other(isa, dense_format) -> None:
    torch.manual_seed(1)
    rows = itertools.cycle((1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 17, 48))
    for inputs, outputs in itertools.product(WIDTHS, WIDTHS):
        stack = rounded(random_stack(inputs, outputs, seed=inputs), dense_format)
        packed = PackedMlp(layers_of(stack), dense_format, isa)
        x_BN = torch.randn(next(rows), inputs)
        if dense_format == "bf16":
            x_BN = x_BN.bfloat16().float()
        # One layer without rounding between: even bf16 has to be near.
        torch.testing.assert_close(packed(x_BN), expected(stack, x_BN), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dense_format", FORMATS)
@pytest.mark.parametrize("num_rows", [0, 1, 6, 64, 255, 256, 257, 1000])
def test_stacks_equal_torch_for_any_number_of_rows(isa, dense_format, num_rows) -> None:
    torch.manual_seed(num_rows)
    # More inputs than the kernel takes in one pass are in the last, for few rows: it is large.
    wide = [(9001, 20, 3)] if num_rows in (1, 6) else []
    for widths in ((100, 33, 7, 1), (13, 64, 65), (1000, 130, 16), *wide):
        stack = rounded(random_stack(*widths, last_linear=num_rows % 2 == 0), dense_format)
        x_BN = torch.randn(num_rows, widths[0])
        out_BM = PackedMlp(layers_of(stack), dense_format, isa)(x_BN)
        assert out_BM.dtype is torch.float32
        wanted = expected(stack, x_BN, dense_format)
        torch.testing.assert_close(out_BM, wanted, **TOLERANCE[dense_format])


def int8_layer(layer: Layer, isa: str) -> PackedMlp:
    """One layer in int8: a stack's last layer is not, so one that changes nothing follows."""
    outputs = layer.weight_MN.shape[0]
    return PackedMlp([layer, Layer(torch.eye(outputs), torch.zeros(outputs), False)], "int8", isa)


def assert_is_reference(layer: Layer, x_BN: Tensor, isa: str) -> None:
    """Up to fp32 rounding of the output: a single code that differs is far more than that."""
    wanted = reference.int8_linear(x_BN, layer.weight_MN, layer.bias_M)
    wanted = wanted.relu() if layer.rectified else wanted
    torch.testing.assert_close(
        int8_layer(layer, isa)(x_BN), wanted, rtol=2e-6, atol=2e-6, equal_nan=True
    )


def test_int8_layers_of_every_width_equal_the_reference(isa) -> None:
    torch.manual_seed(1)
    rows = itertools.cycle((1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 17, 48, 0, 256, 257))
    for inputs, outputs in itertools.product((*WIDTHS, 1000), (1, 7, 16, 33, 64, 100, 300)):
        layer = Layer(torch.randn(outputs, inputs), torch.randn(outputs), outputs % 2 == 0)
        x_BN = torch.randn(next(rows), inputs) * 3
        assert_is_reference(layer, x_BN.relu() if inputs % 2 else x_BN, isa)


# Ranges that are no range, below the least normal number, on one side of 0, and at the far end.
NUMBERS = (0.0, -0.0, 1e-45, -1e-39, 2e-38, 1e-30, -0.25, 0.5, 1.0, 3.0, -7.5, 1e30, 3e38, -3e38)


@given(seed=st.integers(0, 1 << 32), broken=st.booleans())
def test_int8_of_any_numbers_equals_the_reference(seed, broken) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs, rows, few = torch.randint(1, 40, (4,), generator=generator).tolist()
    numbers = torch.tensor(NUMBERS + ((NAN, INF, -INF) if broken else ()))

    def draw(count: int, width: int) -> Tensor:
        """Rows of one to a few different numbers."""
        some = numbers[torch.randint(len(numbers), (count, 1 + few % 5), generator=generator)]
        return some.gather(1, torch.randint(some.shape[1], (count, width), generator=generator))

    layer = Layer(draw(outputs, inputs), torch.randn(outputs, generator=generator), False)
    x_BN = draw(rows, inputs)
    wanted = reference.int8_linear(x_BN, layer.weight_MN, layer.bias_M)
    wanted = wanted @ torch.eye(outputs)  # the layer behind multiplies an infinity by 0
    for isa in runnable_dense_isas():
        torch.testing.assert_close(
            int8_layer(layer, isa)(x_BN), wanted, rtol=2e-6, atol=2e-6, equal_nan=True
        )


def test_int8_keeps_its_error_bound(isa) -> None:
    torch.manual_seed(8)
    for inputs, outlier in ((3, 1.0), (64, 1.0), (257, 50.0), (1000, 1e4)):
        layer = Layer(torch.randn(40, inputs), torch.randn(40), False)
        x_BN = torch.randn(30, inputs) + torch.arange(-15, 15).unsqueeze(1)
        x_BN[:, 0] *= outlier
        layer.weight_MN[:, -1] *= outlier
        scale_B1, scale_M = reference.int8_rows(x_BN)[1], reference.int8_columns(layer.weight_MN)[1]
        bound_BM = (
            scale_B1 / 2 * layer.weight_MN.abs().sum(1)
            + scale_M / 2 * x_BN.abs().sum(1, keepdim=True)
            + inputs * scale_B1 * scale_M / 4
        )
        exact_BM = x_BN.double() @ layer.weight_MN.double().t() + layer.bias_M
        error_BM = (int8_layer(layer, isa)(x_BN) - exact_BM).abs()
        assert (error_BM <= bound_BM * 1.001).all()
        assert error_BM.max() > bound_BM.max() / 1000  # it is int8 that ran


def test_int8_rows_and_columns_are_codes_as_described() -> None:
    x_BN = torch.tensor([[0.0, 1.0, 2.55], [-1.0, -0.4, 0.0], [5.0, 6.0, 7.0], [-2.0, 0.5, 3.1]])
    codes_BN, scale_B1, zero_B1 = reference.int8_rows(x_BN)
    assert codes_BN.tolist() == [[0, 100, 255], [0, 153, 255], [182, 219, 255], [0, 125, 255]]
    assert zero_B1.flatten().tolist() == [0, 255, 0, 100]
    assert ((codes_BN - zero_B1) * scale_B1 - x_BN).abs().le(scale_B1 * 0.5001).all()
    codes_MN, scale_M = reference.int8_columns(torch.tensor([[-2.54, 0.02, 1.0], [0.0, 0.0, 0.0]]))
    assert codes_MN.tolist() == [[-127, 1, 50], [0, 0, 0]]
    torch.testing.assert_close(scale_M, torch.tensor([0.02, 0.0]))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_makes_nan_of_a_row_in_int8(isa, value) -> None:
    torch.manual_seed(3)
    stack = random_stack(9, 21, 20, 5, last_linear=False)
    packed = PackedMlp(layers_of(stack), "int8", isa)
    x_BN = torch.randn(14, 9)
    clean = packed(x_BN)
    x_BN[4, 8] = value
    broken = packed(x_BN)
    others = [row for row in range(14) if row != 4]
    assert torch.equal(broken[others], clean[others])
    assert broken[4].isnan().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_weight_that_is_not_finite_leaves_no_sound_number_in_int8(isa, value) -> None:
    layers = layers_of(random_stack(9, 21, 20, 5))
    x_BN = torch.randn(14, 9)
    layers[0].weight_MN[20, 3] = value
    assert PackedMlp(layers, "int8", isa)(x_BN).isnan().all()
    out_BM = int8_layer(layers[0], isa)(x_BN)  # the layer that follows spreads it over the row
    assert out_BM.isnan().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dense_format", FLOATS)
def test_what_is_not_finite_stays_with_its_row_and_survives_relu(isa, dense_format, value) -> None:
    torch.manual_seed(3)
    stack = rounded(random_stack(9, 21, 5, last_linear=False), dense_format)
    packed = PackedMlp(layers_of(stack), dense_format, isa)
    x_BN = torch.randn(14, 9)
    clean = packed(x_BN)
    x_BN[4, 2] = value
    broken = packed(x_BN)
    others = [row for row in range(14) if row != 4]
    torch.testing.assert_close(broken[others], clean[others], rtol=0, atol=0)
    # In each place, what torch says: NaN where it has NaN, and nothing sound-looking elsewhere.
    torch.testing.assert_close(
        broken[4:5], expected(stack, x_BN)[4:5], **TOLERANCE[dense_format], equal_nan=True
    )


def test_rows_that_are_not_contiguous_are_read_right(isa) -> None:
    stack = random_stack(12, 5)
    x_BN = torch.randn(12, 30).t()
    actual = PackedMlp(layers_of(stack), "fp32", isa)(x_BN)
    torch.testing.assert_close(actual, expected(stack, x_BN), rtol=1e-5, atol=1e-5)


def test_misfits_are_refused_with_what_is_allowed() -> None:
    packed = PackedMlp(layers_of(random_stack(4, 2)))
    for wrong in (torch.zeros(3, 5), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4)):
        with pytest.raises(ConfigError, match="x_BN"):
            packed(wrong)
    with pytest.raises(ConfigError, match=r"layers\[1\] inputs"):
        PackedMlp([Layer(torch.zeros(3, 4), torch.zeros(3), True),
                   Layer(torch.zeros(1, 2), torch.zeros(1), False)])  # fmt: skip
    with pytest.raises(ConfigError, match="bias_M"):
        PackedMlp([Layer(torch.zeros(3, 4), torch.zeros(4), True)])
    with pytest.raises(ConfigError, match="at least one"):
        PackedMlp([])
    with pytest.raises(ConfigError, match="fp32 or bf16 or int8"):
        PackedMlp(layers_of(random_stack(4, 2)), "int4")
    too_wide = [Layer(torch.zeros(1, 32_769), torch.zeros(1), True)]
    with pytest.raises(ConfigError, match=r"layers\[0\] inputs.*32768 in int8"):
        PackedMlp(too_wide, "int8")
    PackedMlp(too_wide, "bf16")
    with pytest.raises(ConfigError, match="avx512_bf16 or"):
        PackedMlp(layers_of(random_stack(4, 2)), "fp32", "sse9")
    with pytest.raises(BackendUnavailable, match="Sigmoid"):
        layers_of(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))


@pytest.mark.parametrize("dim", [1, 7, 13, 16, 32, 33, 64, 100])
def test_dot_interaction_equals_the_reference(isa, dim) -> None:
    torch.manual_seed(dim)
    for count in (0, 1, 2, 8, 9, 16, 17, 27, 33, 70):
        vectors_BFD = torch.randn(5, count, dim)
        pairs_BP = reference.dot_interaction(vectors_BFD)
        for first in {0, count // 2, count}:
            skipped = first * (first - 1) // 2
            actual = dense.dot_interaction(vectors_BFD, first, isa)
            torch.testing.assert_close(actual, pairs_BP[:, skipped:], rtol=1e-5, atol=1e-4)


def test_dot_interaction_keeps_nan_in_its_pairs(isa) -> None:
    vectors_BFD = torch.randn(2, 20, 16)
    vectors_BFD[0, 5, 3] = float("nan")
    actual, wanted = (
        dense.dot_interaction(vectors_BFD, 0, isa),
        reference.dot_interaction(vectors_BFD),
    )
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
