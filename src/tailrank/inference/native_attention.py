"""DIN's attention unit for the CPU ranker, in one native call.

In torch's operators a pair of a candidate and a behaviour goes through some twenty passes over
memory; natively its numbers stay in the first cache from the product to the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tailrank.core.errors import BackendUnavailable
from tailrank.kernels.attention import PackedAttention, Turn
from tailrank.kernels.dense import DenseIsaName, Layer
from tailrank.models.activations import Dice
from tailrank.models.behaviours import Behaviours
from tailrank.models.din import AttentionUnit


class NativeAttention(nn.Module):
    """`models.din.AttentionUnit` once training is over.

    Args:
        unit: to replace; its weights are copied.
        isa: instruction set; None: the widest that runs here.

    Raises:
        BackendUnavailable: it has an activation that is not known here, or see `PackedAttention`.
    """

    def __init__(self, unit: AttentionUnit, isa: DenseIsaName | None = None) -> None:
        super().__init__()
        weight = unit.first.weight.detach()
        of_row_MK, of_candidate_MK, of_difference_MK, of_product_MK = torch.chunk(weight, 4, dim=1)
        nothing_M = torch.zeros(weight.shape[0])
        linears = [module for module in unit.rest if isinstance(module, nn.Linear)]
        widths = [linear.in_features for linear in linears]
        turns = [module for module in unit.rest if not isinstance(module, nn.Linear)]
        self._packed = PackedAttention(
            (
                Layer(of_row_MK + of_difference_MK, unit.first.bias.detach(), False),
                Layer(of_candidate_MK - of_difference_MK, nothing_M, False),
                Layer(of_product_MK, nothing_M, False),
            ),
            [turn_of(module, width) for module, width in zip(turns, widths, strict=True)],
            [Layer(linear.weight.detach(), linear.bias.detach(), False) for linear in linears],
            isa,
        )

    def forward(self, read: Behaviours, item_to_user_B: Tensor) -> Tensor:
        """The weighted sum of its user's behaviours for each candidate, (B, K)."""
        return self._packed(
            read.rows_LK, read.first_U, read.length_U, read.candidate_BK, item_to_user_B
        )


def turn_of(activation: nn.Module, width: int) -> Turn:
    """An activation with the statistics that it has now.

    Raises:
        BackendUnavailable: it is not known here.
    """
    if isinstance(activation, nn.ReLU):
        return Turn(torch.zeros(width))
    if isinstance(activation, nn.PReLU):
        return Turn(activation.weight.detach().expand(width))
    if isinstance(activation, Dice):
        return Turn(activation.alpha_M.detach(), *activation.turning())
    raise BackendUnavailable(
        f"the cpu ranker has no {type(activation).__name__} in attention; the eager ranker has"
    )
