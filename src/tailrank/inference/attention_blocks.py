"""Attention over few pairs at a time, for the CPU ranker.

A unit makes some hundred numbers of every pair of a candidate and a behaviour. Of 64 candidates
and 250 behaviours these are 16,000 pairs and several arrays of 5 MB, which a core reads and writes
again for every layer; in blocks that stay in its second cache, that takes a quarter of the time.

Legend: U user rows, B item rows, L behaviours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tailrank.models import RankingModel
from tailrank.models.behaviours import Behaviours
from tailrank.models.din import AttentionUnit

# Of 512 to 16,000 pairs at a time, the fastest on a core with 1 MB of second cache.
_BLOCK_PAIRS = 2048


class BlockedAttention(nn.Module):
    """Calls an attention unit for some items at a time; every item is scored as before."""

    def __init__(self, unit: AttentionUnit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, read: Behaviours, item_to_user_B: Tensor) -> Tensor:
        """What the unit gives, (B, K); users of items must not decrease."""
        pairs_B = read.length_U.index_select(0, item_to_user_B).cumsum(0)
        num_items = pairs_B.shape[0]
        if not num_items or int(pairs_B[-1]) <= _BLOCK_PAIRS:
            return self._of(read, item_to_user_B, 0, num_items)
        blocks: list[Tensor] = []
        first = done = 0
        while first < num_items:
            fitting = int(torch.searchsorted(pairs_B, done + _BLOCK_PAIRS, right=True))
            end = max(first + 1, fitting)  # an item of more pairs is a block of its own
            blocks.append(self._of(read, item_to_user_B, first, end))
            first, done = end, int(pairs_B[end - 1])
        return torch.cat(blocks)

    def _of(self, read: Behaviours, item_to_user_B: Tensor, first: int, end: int) -> Tensor:
        """The unit's output for items from `first` to below `end`, from just their users."""
        if first == 0 and end == item_to_user_B.shape[0]:
            whole_BK: Tensor = self.unit(read, item_to_user_B)
            return whole_BK
        users = item_to_user_B[first:end]
        first_user, end_user = int(users[0]), int(users[-1]) + 1
        first_U, length_U = read.first_U[first_user:end_user], read.length_U[first_user:end_user]
        first_row = int(first_U[0])
        end_row = int(first_U[-1] + length_U[-1])
        part = Behaviours(
            rows_LK=read.rows_LK[first_row:end_row],
            first_U=first_U - first_row,
            length_U=length_U,
            candidate_BK=read.candidate_BK[first:end],
        )
        part_BK: Tensor = self.unit(part, users - first_user)
        return part_BK


def with_blocked_attention(model: RankingModel) -> RankingModel:
    """The model, its attention units blocked in place: one that nobody else holds."""
    for name, child in model.named_children():
        if isinstance(child, AttentionUnit):
            setattr(model, name, BlockedAttention(child))
    return model
