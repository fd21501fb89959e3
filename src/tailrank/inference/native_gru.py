"""A recurrence for the CPU ranker: all of its steps in one native call.

In torch's operators a step takes some 20 µs whatever it computes, and one candidate's of DIEN well
under one.
"""

from __future__ import annotations

from torch import Tensor, nn

from tailrank.kernels.recurrence import PackedGru
from tailrank.models.recurrent import GRU, TimeOrder, inverse


class NativeGRU(nn.Module):
    """`models.recurrent.GRU`, its inputs' share by another stack.

    Args:
        gru: to replace.
        inputs: packed, for `gru.inputs`.
    """

    def __init__(self, gru: GRU, inputs: nn.Module) -> None:
        super().__init__()
        self.inputs = inputs
        (recurrent,) = gru.recurrent
        assert isinstance(recurrent, nn.Linear)
        self._packed = PackedGru(recurrent.weight)

    def forward(
        self,
        rows_LK: Tensor,
        order: TimeOrder,
        scale_P: Tensor | None = None,
        *,
        last_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """All states (P, H) in the order of time, or none, and the last one of each row, (R, H)."""
        x_LG, num_rows = self.inputs(rows_LK), order.longest_R.shape[0]
        states_PH, last_RH = self._packed(x_LG, order.place_P, order.sizes, num_rows, scale_P)
        last_RH = last_RH.index_select(0, inverse(order.longest_R))
        return (states_PH[:0] if last_only else states_PH), last_RH
