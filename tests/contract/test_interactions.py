"""Every dot interaction against the reference: values and gradients."""

import pytest
import torch

from tailrank.kernels import interaction, reference


@pytest.mark.parametrize("shape", [(5, 27, 16), (3, 2, 4), (4, 1, 8), (1, 9, 1), (0, 6, 4)])
def test_values_and_gradients_are_the_reference(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = mine.detach().clone().requires_grad_()
    out, expected = interaction.dot_interaction(mine), reference.dot_interaction(theirs)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(interaction.dot_interaction(mine.detach()), expected)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_gradient_is_the_numerical_one() -> None:
    vectors = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(interaction.dot_interaction, (vectors,))
