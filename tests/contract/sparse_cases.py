"""What the tests of single updates of table rows and of random ones share."""

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from tailrank.kernels.sparse_reference import Bags, RowRule

RULES = get_args(RowRule)
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1


def bags_of(
    seed: int, *, dim: int, ids_max: int = 9, num_bags: int = 20, weighted: bool = False
) -> Bags:
    """Bags of 0 to 3 ids, few different ones, so that many repeat."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (num_bags,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    ids_L = torch.randint(0, ids_max, (int(offsets[-1]),), generator=generator)
    grad_GD = torch.randn(num_bags, dim, generator=generator)
    weights_L = torch.randn(len(ids_L), generator=generator) if weighted else None
    return Bags(ids_L, offsets, grad_GD, weights_L)


def summed(lookups: list[Bags]) -> dict[int, np.ndarray]:
    """The gradient of each row that was read, in fp64, one occurrence after the other."""
    total: dict[int, np.ndarray] = {}
    for bags in lookups:
        for bag, gradient in enumerate(bags.grad_GD.double().numpy()):
            for position in range(int(bags.offsets[bag]), int(bags.offsets[bag + 1])):
                factor = 1.0 if bags.weights_L is None else float(bags.weights_L[position])
                row = int(bags.ids_L[position])
                total[row] = total.get(row, 0.0) + factor * gradient
    return total


class Statement:
    """One table under one rule in fp64: the formulas of `update_rows`, a row at a time."""

    def __init__(self, rule: str, weight_VD: Tensor) -> None:
        self.rule, self.num_steps = rule, 0
        self.weight_VD = weight_VD.double().numpy().copy()
        self.memory = np.zeros((3, *self.weight_VD.shape))  # mean, square, largest

    def step(
        self, gradients: dict[int, np.ndarray], lr: float, scale: float = 1.0, l2: float = 0.0
    ) -> None:
        self.num_steps += 1
        for row, gradient in gradients.items():
            g = scale * gradient + (l2 * self.weight_VD[row] if l2 else 0.0)
            mean, square, largest = (self.memory[kind, row] for kind in range(3))
            if self.rule == "sgd":
                change = g
            elif self.rule.endswith("adagrad"):
                square += np.mean(g * g) if self.rule == "rowwise_adagrad" else g * g
                change = g / (np.sqrt(square) + 1e-10)
            else:
                mean[:] = 0.9 * mean + 0.1 * g
                square[:] = 0.999 * square + 0.001 * g * g
                largest[:] = np.maximum(largest, square)
                second = largest if self.rule == "amsgrad" else square
                correction = np.sqrt(1 - 0.999**self.num_steps) / (1 - 0.9**self.num_steps)
                change = correction * mean / (np.sqrt(second) + 1e-8)
            self.weight_VD[row] -= lr * change


def random_table(num_rows: int, dim: int) -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(0))


def close(mine_VD: Tensor, statement: Statement) -> None:
    """Equal but for what fp32 rounds away in a few steps of order 0.1."""
    mine = mine_VD.cpu().double().numpy()
    np.testing.assert_allclose(mine, statement.weight_VD, rtol=1e-5, atol=5e-6)
