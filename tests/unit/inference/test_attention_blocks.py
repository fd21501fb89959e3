"""An attention unit in blocks gives what it gives at once, wherever a block ends."""

from __future__ import annotations

import pytest
import torch

from tailrank.inference import attention_blocks
from tailrank.inference.attention_blocks import BlockedAttention
from tailrank.models.behaviours import Behaviours
from tailrank.models.din import AttentionUnit

LENGTHS = [3, 0, 5, 1, 0]  # of each user's behaviours: none at the end, and more than a block holds


@pytest.mark.parametrize("block_pairs", [1, 4, 5, 7, 1000])
@pytest.mark.parametrize("item_to_user", [[0, 0, 1, 2, 2, 2, 3, 4], [1], [2] * 6, [0, 1, 1, 4], []])
def test_blocks_change_nothing(monkeypatch, block_pairs: int, item_to_user: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    # In float64: a product of another number of rows may be summed in another order.
    unit = AttentionUnit(6, (8, 4, 1), "dice", generator).double().eval()
    length_U = torch.tensor(LENGTHS)
    read = Behaviours(
        rows_LK=torch.randn(sum(LENGTHS), 6, generator=generator, dtype=torch.float64),
        first_U=length_U.cumsum(0) - length_U,
        length_U=length_U,
        candidate_BK=torch.randn(len(item_to_user), 6, generator=generator, dtype=torch.float64),
    )
    calls: list[int] = []
    unit.register_forward_hook(lambda _, read, __: calls.append(int(read[0].length_U.sum())))
    item_to_user_B = torch.tensor(item_to_user, dtype=torch.int64)
    with torch.inference_mode():
        at_once = unit(read, item_to_user_B)
        del calls[:]
        monkeypatch.setattr(attention_blocks, "_BLOCK_PAIRS", block_pairs)
        blocked = BlockedAttention(unit)(read, item_to_user_B)
    torch.testing.assert_close(blocked, at_once, rtol=1e-12, atol=1e-12)
    if item_to_user and block_pairs == 1:
        assert len(calls) >= sum(LENGTHS[user] > 0 for user in item_to_user), "blocks were made"
