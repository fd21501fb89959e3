"""The native attention unit on every instruction set, against the unit in double precision."""

import copy
import threading

import pytest
import torch
from tests.contract.dense_cases import NEEDS_NATIVE
from torch import Tensor, nn

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.inference.native_attention import NativeAttention, turn_of
from tailrank.kernels.attention import PackedAttention, Turn
from tailrank.kernels.dense import Layer
from tailrank.models.activations import Dice
from tailrank.models.behaviours import Behaviours
from tailrank.models.din import AttentionUnit

pytestmark = NEEDS_NATIVE


def make_unit(width: int, widths: tuple[int, ...], between: str) -> AttentionUnit:
    """A unit whose activations have seen something."""
    generator = torch.Generator().manual_seed(width)
    unit = AttentionUnit(width, widths, between, generator).eval()
    for module in unit.modules():
        if isinstance(module, Dice):
            for values_M in (module.alpha_M.data, module.mean_M):
                values_M.normal_(0.0, 0.5, generator=generator)
            module.variance_M.uniform_(0.1, 3.0, generator=generator)
        if isinstance(module, nn.PReLU):
            module.weight.data.normal_(0.0, 0.5, generator=generator)
    return unit


def make_read(lengths: list[int], num_items: int, width: int) -> Behaviours:
    generator = torch.Generator().manual_seed(num_items)
    length_U = torch.tensor(lengths, dtype=torch.int64)
    return Behaviours(
        rows_LK=torch.randn(sum(lengths), width, generator=generator),
        first_U=length_U.cumsum(0) - length_U,
        length_U=length_U,
        candidate_BK=torch.randn(num_items, width, generator=generator),
    )


def expected(unit: AttentionUnit, read: Behaviours, item_to_user_B: Tensor) -> Tensor:
    """The unit in double precision."""
    rows, candidates = read.rows_LK.double(), read.candidate_BK.double()
    doubled = read._replace(rows_LK=rows, candidate_BK=candidates)
    with torch.inference_mode():
        return copy.deepcopy(unit).double()(doubled, item_to_user_B).float()


# Behaviours of each user, and how many candidates each has: none, one, more than a block of pairs,
# and more behaviours than a group whose shares are kept.
CASES = [
    ([1], [1]), ([0], [3]), ([3, 0, 5, 1, 0], [2, 1, 3, 0, 1]), ([250], [64]),
    ([7] * 40, [1] * 40), ([700, 700, 700], [1, 2, 1]), ([3000], [2]), ([], []), ([4], [0]),
]  # fmt: skip


@pytest.mark.parametrize("between", ["dice", "prelu", "relu"])
@pytest.mark.parametrize("case", CASES, ids=[str(number) for number in range(len(CASES))])
def test_sums_are_those_of_the_unit(isa, between: str, case: tuple[list[int], list[int]]) -> None:
    lengths, items = case
    item_to_user_B = torch.repeat_interleave(torch.tensor(items, dtype=torch.int64))
    for width, widths in ((32, (80, 40, 1)), (5, (7, 3, 1)), (1, (1, 1)), (17, (33, 1))):
        unit = make_unit(width, widths, between)
        native = NativeAttention(unit, isa)
        read = make_read(lengths, len(item_to_user_B), width)
        actual_BK = native(read, item_to_user_B)
        wanted_BK = expected(unit, read, item_to_user_B)
        scale = max([1.0, *wanted_BK.abs().flatten().tolist()])
        torch.testing.assert_close(actual_BK, wanted_BK, rtol=1e-5, atol=1e-5 * scale)


def test_nan_stays_with_its_candidate() -> None:
    native = NativeAttention(make_unit(6, (8, 4, 1), "dice"))
    read, to_user_B = make_read([3, 2], 5, 6), torch.tensor([0, 0, 0, 1, 1])
    clean = native(read, to_user_B)
    read.candidate_BK[1, 2] = float("nan")
    broken = native(read, to_user_B)
    assert broken[1].isnan().all()
    assert torch.equal(broken[[0, 2, 3, 4]], clean[[0, 2, 3, 4]])


def test_what_does_not_fit_is_refused() -> None:
    native = NativeAttention(make_unit(4, (3, 1), "prelu"))
    read, to_user_B = make_read([2, 3], 3, 4), torch.tensor([0, 1, 1])
    native(read, to_user_B)
    for wrong in ([0, 1, 2], [1, 0, 0], [-1, 0, 0]):
        with pytest.raises(ConfigError, match="2 users in order"):
            native(read, torch.tensor(wrong))
    for name, values in (("length_U", [2, 4]), ("length_U", [-1, 3]), ("first_U", [0, 3])):
        with pytest.raises(ConfigError, match="5 behaviours"):
            native(read._replace(**{name: torch.tensor(values)}), to_user_B)
    with pytest.raises(ConfigError, match="rows_LK"):
        native(read._replace(rows_LK=torch.zeros(5, 3)), to_user_B)
    with pytest.raises(ConfigError, match="candidate_BK"):
        native(read._replace(candidate_BK=torch.zeros(2, 4)), to_user_B)
    with pytest.raises(BackendUnavailable, match="no Tanh in attention"):
        turn_of(nn.Tanh(), 3)
    share, layer = Layer(torch.zeros(3, 4), torch.zeros(3), False), torch.zeros(2, 3)
    with pytest.raises(ConfigError, match="one output"):
        PackedAttention(
            (share, share, share), [Turn(torch.zeros(3))], [Layer(layer, torch.zeros(2), False)]
        )
    with pytest.raises(ConfigError, match="3 inputs"):
        PackedAttention(
            (share, share, share), [Turn(torch.zeros(4))], [Layer(layer, torch.zeros(2), False)]
        )


def test_one_unit_serves_several_threads() -> None:
    native = NativeAttention(make_unit(16, (40, 20, 1), "dice"))
    calls = [(make_read([n], 5, 16), torch.zeros(5, dtype=torch.int64)) for n in (1, 90, 300, 17)]
    wanted, wrong = [native(*call) for call in calls], []

    def run(start: int) -> None:
        for turn in range(start, start + 60):
            if not torch.equal(native(*calls[turn % 4]), wanted[turn % 4]):
                wrong.append(turn)

    threads = [threading.Thread(target=run, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
