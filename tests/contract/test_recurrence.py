"""The native recurrence on every instruction set, against a plain statement in double precision."""

import threading

import pytest
import torch
from tests.contract.dense_cases import NEEDS_NATIVE
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels.recurrence import PackedGru

pytestmark = NEEDS_NATIVE


def expected(
    weight_GH: Tensor, x_LG: Tensor, rows: list[list[int]], scales: list[list[float]]
) -> list[list[Tensor]]:
    """The states of each row, one place after the other."""
    hidden, found = weight_GH.shape[1], []
    for places, of_row in zip(rows, scales, strict=True):
        state_H, states = torch.zeros(hidden, dtype=torch.float64), []
        for place, scale in zip(places, of_row, strict=True):
            x_G, of_state_G = x_LG[place].double(), weight_GH.double() @ state_H
            update_H = torch.sigmoid(x_G[:hidden] + of_state_G[:hidden])
            reset_H = torch.sigmoid((x_G + of_state_G)[hidden : 2 * hidden])
            wanted_H = torch.tanh(x_G[2 * hidden :] + reset_H * of_state_G[2 * hidden :])
            state_H = (1.0 - scale * update_H) * state_H + scale * update_H * wanted_H
            states.append(state_H)
        found.append(states)
    return found


def in_time(rows: list[list], num_times: int) -> list:
    """The entries of rows, the longest first, of the first time, then of the second."""
    return [row[time] for time in range(num_times) for row in rows if len(row) > time]


@pytest.mark.parametrize("hidden", [1, 4, 7, 16, 33, 64])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 2, 1, 0, 0], [40, 3], [3] * 70, [], [0]], ids=str)
@pytest.mark.parametrize("scaled", [True, False])
def test_every_state_is_as_stated(isa, hidden: int, lengths: list[int], scaled: bool) -> None:
    generator = torch.Generator().manual_seed(hidden)
    weight_GH = torch.randn(3 * hidden, hidden, generator=generator) / hidden**0.5
    x_LG = torch.randn(9, 3 * hidden, generator=generator) * 3
    rows = [torch.randint(9, (n,), generator=generator).tolist() for n in lengths]
    scales = [torch.rand(n, generator=generator).tolist() for n in lengths]
    if not scaled:
        scales = [[1.0] * n for n in lengths]
    wanted, num_times = expected(weight_GH, x_LG, rows, scales), max([0, *lengths])
    states_PH, last_RH = PackedGru(weight_GH, isa)(
        x_LG,
        torch.tensor(in_time(rows, num_times), dtype=torch.int64),
        [sum(n > time for n in lengths) for time in range(num_times)],
        len(lengths),
        torch.tensor(in_time(scales, num_times)) if scaled else None,
    )
    assert states_PH.shape == (sum(lengths), hidden)
    for actual_H, wanted_H in zip(states_PH, in_time(wanted, num_times), strict=True):
        torch.testing.assert_close(actual_H.double(), wanted_H, rtol=1e-5, atol=2e-6)
    for actual_H, states in zip(last_RH, wanted, strict=True):
        last_H = states[-1] if states else torch.zeros(hidden, dtype=torch.float64)
        torch.testing.assert_close(actual_H.double(), last_H, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("value", [1e-30, 30.0, -30.0, 100.0, -100.0, 3e38, -3e38, float("inf")])
def test_gates_of_any_size_saturate(isa, value: float) -> None:
    x_LG = torch.full((1, 3 * 20), value)
    _, last_RH = PackedGru(torch.zeros(60, 20), isa)(x_LG, torch.tensor([0]), [1], 1)
    gate = torch.sigmoid(torch.tensor(value, dtype=torch.float64))
    wanted = float(gate * torch.tanh(torch.tensor(value, dtype=torch.float64)))
    assert last_RH.flatten().tolist() == pytest.approx([wanted] * 20, rel=1e-5, abs=2e-7)


def test_nan_stays_with_its_row(isa) -> None:
    x_LG = torch.randn(2, 3 * 9, generator=torch.Generator().manual_seed(0))
    x_LG[1, 4] = float("nan")
    _, last_RH = PackedGru(torch.zeros(27, 9), isa)(x_LG, torch.tensor([0, 1]), [2], 2)
    assert last_RH[0].isfinite().all()
    assert last_RH[1].isnan().tolist() == [place == 4 for place in range(9)]


def test_what_does_not_fit_is_refused() -> None:
    gru, x_LG, places = PackedGru(torch.zeros(12, 4)), torch.zeros(3, 12), torch.tensor([0, 2, 1])
    gru(x_LG, places, [2, 1], 2)
    for wrong in ([3], [1, 2]):
        with pytest.raises(ConfigError, match="falling from at most 2"):
            gru(x_LG, places, wrong, 2)
    for place in (-1, 3, 1 << 40):
        with pytest.raises(ConfigError, match="places below 3"):
            gru(x_LG, torch.tensor([0, place, 1]), [2, 1], 2)
    with pytest.raises(ConfigError, match="3 together"):
        gru(x_LG, places, [2], 2)
    with pytest.raises(ConfigError, match="x_LG"):
        gru(torch.zeros(3, 11), places, [2, 1], 2)
    with pytest.raises(ConfigError, match="place_P"):
        gru(x_LG, places.int(), [2, 1], 2)
    with pytest.raises(ConfigError, match="scale_P"):
        gru(x_LG, places, [2, 1], 2, torch.ones(2))
    with pytest.raises(ConfigError, match=r"weight_GH.*\(12, 4\)"):
        PackedGru(torch.zeros(11, 4))


def test_one_recurrence_serves_several_threads() -> None:
    gru, generator = PackedGru(torch.randn(96, 32) / 6), torch.Generator().manual_seed(1)
    inputs = [torch.randn(n, 96, generator=generator) for n in (3, 50, 7, 20)]
    calls = [(x_LG, torch.arange(len(x_LG)), [1] * len(x_LG), 1) for x_LG in inputs]
    wanted, wrong = [gru(*call)[1] for call in calls], []

    def run(start: int) -> None:
        for turn in range(start, start + 100):
            if not torch.equal(gru(*calls[turn % 4])[1], wanted[turn % 4]):
                wrong.append(turn)

    threads = [threading.Thread(target=run, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
