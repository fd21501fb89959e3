"""The native products of a layer in training against float64, on every instruction set."""

import itertools

import pytest
import torch
from tests.contract.dense_cases import INF, NAN, NEEDS_NATIVE
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native, trained_linear
from tailrank.kernels.dense import DENSE_ISAS, DenseIsaName, runnable_dense_isas
from tailrank.models.layers import Linear

pytestmark = NEEDS_NATIVE


@pytest.fixture(params=DENSE_ISAS)
def isa(request: pytest.FixtureRequest) -> DenseIsaName:
    name: DenseIsaName = request.param
    if native.why_unavailable() is None and name not in runnable_dense_isas():
        pytest.skip(f"this CPU does not run {name}")
    return name


def matrix(rows: int, columns: int, order: str, generator: torch.Generator) -> Tensor:
    """Random numbers that lie row by row, column by column, or as a part of a wider matrix."""
    if order == "columns":
        return torch.randn(columns, rows, generator=generator).t()
    if order == "part":
        return torch.randn(rows, columns + 5, generator=generator)[:, 2 : 2 + columns]
    return torch.randn(rows, columns, generator=generator)


@pytest.mark.parametrize("orders", list(itertools.product(("rows", "columns", "part"), repeat=2)))
def test_any_shape_in_any_order(isa: DenseIsaName, orders: tuple[str, str]) -> None:
    generator = torch.Generator().manual_seed(len(orders[0]) * 7 + len(orders[1]))
    shapes = torch.randint(1, 150, (6, 3), generator=generator).tolist()
    edges = [[1, 1, 1], [1, 300, 64], [13, 257, 65], [0, 4, 4], [4, 0, 4], [4, 4, 0], [24, 128, 16]]
    for index, (rows, inner, columns) in enumerate([*shapes, *edges]):
        left = matrix(rows, inner, orders[0], generator)
        right = matrix(inner, columns, orders[1], generator)
        initial = torch.randn(columns, generator=generator) if index % 2 else None
        out = trained_linear.product(left, right, initial, isa)
        expected = left.double() @ right.double()
        if initial is not None:
            expected += initial.double()
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=2e-4)


def test_what_is_not_finite_stays_in_its_row(isa: DenseIsaName) -> None:
    left, right = torch.ones(7, 20), torch.ones(20, 33)
    left[2, 3], left[5, 0] = NAN, INF
    out = trained_linear.product(left, right, None, isa)
    assert out[2].isnan().all()
    assert (out[5] == INF).all()
    assert (out[[0, 1, 3, 4, 6]] == 20.0).all()


def test_subnormal_numbers_are_zero_and_only_during_the_call(isa: DenseIsaName) -> None:
    """They would take Intel's cores 150 cycles each, and decayed weights are full of them."""
    few = torch.full((7, 20), 1e-40)
    assert not trained_linear.product(few, torch.full((20, 33), 2.0), None, isa).any()
    assert not trained_linear.product(
        torch.full((7, 20), 2.0), few[0, 0].expand(20, 33), None, isa
    ).any()
    assert few.mul(2.0).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 257])
def test_gradients_are_those_of_torch(bias: bool, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    wide = torch.randn(rows, 40, generator=generator, requires_grad=True)
    weight = torch.randn(19, 31, generator=generator, requires_grad=True)
    given = [wide, weight] + [torch.randn(19, generator=generator, requires_grad=True)] * bias
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    grad = torch.randn(1, 19, generator=generator).expand(rows, 19)  # as a sum's gradient lies

    out = trained_linear._Linear.apply(wide[:, 4:35], weight, given[2] if bias else None)
    out.backward(grad)
    expected = torch.nn.functional.linear(exact[0][:, 4:35], *exact[1:])
    expected.backward(grad.double())

    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(given, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-5, atol=1e-4)


def test_large_products_of_a_trained_layer_are_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    layer, x_BN = Linear(64, 128), torch.randn(100, 64)
    assert "_LinearBackward" in str(layer(x_BN).grad_fn)
    assert "Addmm" in str(layer(x_BN[:2]).grad_fn)  # small
    assert "Addmm" in str(layer.eval()(x_BN).grad_fn)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert "Addmm" in str(layer.train()(x_BN).grad_fn)


@pytest.mark.parametrize(
    ("right", "initial", "named"),
    [
        (torch.ones(5, 3), None, "right"),
        (torch.ones(4, 3, dtype=torch.float64), None, "right"),
        (torch.ones(4, 3), torch.ones(4), "initial"),
    ],
)
def test_what_does_not_fit_is_refused(right: Tensor, initial: Tensor | None, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        trained_linear.product(torch.ones(2, 4), right, initial)


def test_the_result_is_fp32_whatever_torch_makes_by_default() -> None:
    """Into numbers of two bytes the kernel would write beyond the end."""
    left, right = torch.full((3, 4), 0.5), torch.ones(4, 5)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        out = trained_linear.product(left, right)
    finally:
        torch.set_default_dtype(default)
    assert out.dtype is torch.float32
    assert (out == 2.0).all()
