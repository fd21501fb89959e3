"""Recurrences over sequences of any length: a step of all rows that go on, no step for padding.

Rows are put in the order of their lengths, and places in the order of time: those of one time lie
side by side, and each step works on fewer rows than the one before, or as many.

Legend: R rows, L places as they are given, P those of every row in the order of time, T times, K
inputs, H hidden width, G = 3 H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailrank.models.layers import linear


class TimeOrder(NamedTuple):
    """Places of all rows in the order of time; rows may share places.

    Args:
        row_P: the row of each place, int64.
        place_P: which of the given places it is, int64.
        longest_R: the rows, the longest first, int64.
        length_R: how many places each row has, int64.
        sizes: how many rows have a place at each time; empty in a graph that is exported, which
            has its places in the order of rows.
    """

    row_P: Tensor
    place_P: Tensor
    longest_R: Tensor
    length_R: Tensor
    sizes: list[int]


def time_order(first_R: Tensor, length_R: Tensor) -> TimeOrder:
    """The order of time of rows that begin at `first_R` and have `length_R` places each."""
    if torch.compiler.is_exporting():
        return _order_of_rows(first_R, length_R)
    longest_R = torch.argsort(length_R, descending=True, stable=True)
    count_T = torch.bincount(length_R, minlength=1).flip(0).cumsum(0).flip(0)[1:]
    time_P = torch.repeat_interleave(count_T)
    begin_T = count_T.cumsum(0) - count_T
    among_P = torch.arange(time_P.shape[0], device=time_P.device) - begin_T.index_select(0, time_P)
    row_P = longest_R.index_select(0, among_P)
    return TimeOrder(
        row_P=row_P,
        place_P=first_R.index_select(0, row_P) + time_P,
        longest_R=longest_R,
        length_R=length_R,
        sizes=count_T.tolist(),
    )


def _order_of_rows(first_R: Tensor, length_R: Tensor) -> TimeOrder:
    """All places row after row: what a graph can say without knowing the number of times."""
    row_P = torch.repeat_interleave(length_R)
    before_R = first_R - (length_R.cumsum(0) - length_R)
    return TimeOrder(
        row_P=row_P,
        place_P=before_R.index_select(0, row_P) + torch.arange(row_P.shape[0]),
        longest_R=torch.arange(length_R.shape[0]),
        length_R=length_R,
        sizes=[],
    )


def inverse(order_P: Tensor) -> Tensor:
    """The permutation that undoes this one."""
    places_P = torch.arange(order_P.shape[0], device=order_P.device)
    return torch.empty_like(order_P).scatter_(0, order_P, places_P)


class GRU(nn.Module):
    """A gated recurrent unit, whose update may be scaled place by place (AUGRU).

    u = sigmoid(W_u x + U_u h + b_u); r = sigmoid(W_r x + U_r h + b_r);
    c = tanh(W_c x + b_c + r * (U_c h)); h' = (1 - a u) h + a u c, from h = 0, with a = 1 in a GRU.

    Args:
        num_inputs: K.
        hidden: H.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.

    Source: Cho et al., arXiv 1406.1078; with a scaled update: Zhou et al., Deep Interest Evolution
    Network, AAAI 2019 (arXiv 1809.03672), interest evolving layer.
    """

    def __init__(self, num_inputs: int, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.hidden = hidden
        # Stacks of one layer, for rankers to replace.
        self.inputs = nn.Sequential(linear(num_inputs, 3 * hidden, generator))
        self.recurrent = nn.Sequential(linear(hidden, 3 * hidden, generator, bias=False))

    def forward(
        self,
        rows_LK: Tensor,
        order: TimeOrder,
        scale_P: Tensor | None = None,
        *,
        last_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """All states (P, H) in the order of time, and the last one of each row, (R, H).

        Args:
            rows_LK: the inputs of all places, each of which several rows may share.
            order: which row reads which places, and when.
            scale_P: the factors `a` of the updates; None: all 1.
            last_only: give no states, (0, H), but the last ones.
        """
        x_LG = self.inputs(rows_LK)
        if torch.compiler.is_exporting():
            return self._loop(x_LG, order, scale_P, last_only)
        x_PG = x_LG.index_select(0, order.place_P)
        scales: Sequence[Tensor | None] = [None] * len(order.sizes)
        if scale_P is not None:
            scales = torch.split(scale_P.unsqueeze(1), order.sizes)
        state_RH = rows_LK.new_zeros(order.longest_R.shape[0], self.hidden)
        states, ended = [state_RH[:0]], []
        for x_RG, scale_R1 in zip(torch.split(x_PG, order.sizes), scales, strict=True):
            num_rows = x_RG.shape[0]
            if num_rows < state_RH.shape[0]:
                ended.append(state_RH[num_rows:])
                state_RH = state_RH[:num_rows]
            state_RH = self._step(x_RG, state_RH, scale_R1)
            if not last_only:
                states.append(state_RH)
        last_RH = torch.cat([state_RH, *reversed(ended)])
        return torch.cat(states), last_RH.index_select(0, inverse(order.longest_R))

    def _loop(
        self, x_LG: Tensor, order: TimeOrder, scale_P: Tensor | None, last_only: bool
    ) -> tuple[Tensor, Tensor]:
        """`forward` in an exported graph: all rows take every step, ended ones in vain."""
        # Not public, and needed by nothing else.
        from torch._higher_order_ops.while_loop import while_loop

        begin_R = order.length_R.cumsum(0) - order.length_R
        longest = F.pad(order.length_R, (0, 1)).max()  # 0 of no rows at all

        def goes_on(time: Tensor, *_: Tensor) -> Tensor:
            return time < longest

        def step(time: Tensor, state_RH: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
            on_R = time < order.length_R
            at_R = torch.where(on_R, begin_R + time, 0)
            x_RG = x_LG.index_select(0, order.place_P.index_select(0, at_R))
            scale_R1 = None if scale_P is None else scale_P.index_select(0, at_R).unsqueeze(1)
            next_RH = torch.where(on_R.unsqueeze(1), self._step(x_RG, state_RH, scale_R1), state_RH)
            at_R = torch.where(on_R, at_R + 1, 0)  # what has ended goes before all states
            return time + 1, next_RH, *(s_PH.index_put((at_R,), next_RH) for s_PH in states)

        start = [
            torch.zeros((), dtype=torch.int64),
            x_LG.new_zeros(order.length_R.shape[0], self.hidden),
        ]
        if not last_only:
            start.append(x_LG.new_zeros(order.place_P.shape[0] + 1, self.hidden))
        _, last_RH, *states = while_loop(goes_on, step, tuple(start))  # type: ignore[no-untyped-call]
        return (last_RH[:0] if last_only else states[0][1:]), last_RH

    def _step(self, x_RG: Tensor, state_RH: Tensor, scale_R1: Tensor | None) -> Tensor:
        """The next states of the rows that go on."""
        widths = [2 * self.hidden, self.hidden]
        gates_x, candidate_x_RH = torch.split(x_RG, widths, dim=1)
        gates_h, candidate_h_RH = torch.split(self.recurrent(state_RH), widths, dim=1)
        update_RH, reset_RH = torch.sigmoid(gates_x + gates_h).chunk(2, dim=1)
        candidate_RH = torch.tanh(torch.addcmul(candidate_x_RH, reset_RH, candidate_h_RH))
        if scale_R1 is not None:
            update_RH = update_RH * scale_R1
        return torch.lerp(state_RH, candidate_RH, update_RH)
