"""Activations with parameters of their own. Legend: R rows, M width."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError

Activation = Literal["relu", "prelu", "dice"]

_EPS = 1e-8  # Zhou et al. 2018, section 5.2
_MOMENTUM = 0.01  # the authors' released code: 0.99 of the old statistics stay


class Dice(nn.Module):
    """A PReLU that turns where its inputs lie: p(s) s + (1 - p(s)) alpha s.

    p(s) = sigmoid((s - mean) / sqrt(variance + 1e-8)). In training, mean and variance are those of
    the batch, and running ones are kept; later the running ones count, so that a row's output does
    not depend on its company. A batch of one row has no spread and counts as if it came later.

    Args:
        width: M; each number of a row has its own alpha, at first 0, and statistics.

    Source: Zhou et al., Deep Interest Network, KDD 2018 (arXiv 1706.06978), section 5.2.
    """

    mean_M: Tensor
    variance_M: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha_M = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean_M", torch.zeros(width))
        self.register_buffer("variance_M", torch.ones(width))

    def forward(self, s_RM: Tensor) -> Tensor:
        """The same shape."""
        mean_M, variance_M = self.mean_M, self.variance_M
        if self.training and s_RM.shape[0] > 1:
            variance_M, mean_M = torch.var_mean(s_RM, dim=0, correction=0)
            self.mean_M.lerp_(mean_M.detach(), _MOMENTUM)
            self.variance_M.lerp_(variance_M.detach(), _MOMENTUM)
        scale_M, shift_M = _turning(mean_M, variance_M)
        p_RM = torch.sigmoid(torch.addcmul(shift_M, s_RM, scale_M))
        return torch.lerp(self.alpha_M * s_RM, s_RM, p_RM)

    def turning(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of p(s) = sigmoid(scale s + shift) by the running statistics."""
        return _turning(self.mean_M, self.variance_M)


def _turning(mean_M: Tensor, variance_M: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift that give numbers of these statistics mean 0 and variance 1."""
    scale_M = torch.rsqrt(variance_M + _EPS)
    return scale_M, -mean_M * scale_M


def check_activation(name: str) -> None:
    """Refuse an activation that there is not, as a size of a model.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in get_args(Activation):
        raise ConfigError("activation", name, " or ".join(get_args(Activation)))


def activation(name: Activation, width: int) -> nn.Module:
    """The activation of that name for rows of `width` numbers."""
    if name == "relu":
        return nn.ReLU()
    return nn.PReLU(width) if name == "prelu" else Dice(width)
