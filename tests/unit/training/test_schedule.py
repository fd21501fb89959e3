"""Learning-rate schedules at the steps where they could go wrong."""

import math

import pytest

from tailrank.training.config import LrSchedule, TrainingConfig
from tailrank.training.schedule import rate_factor


def factors(schedule: LrSchedule, warmup_steps: int, horizon: int) -> list[float]:
    config = TrainingConfig(lr_schedule=schedule, warmup_steps=warmup_steps)
    return [rate_factor(step, config, horizon) for step in range(horizon)]


def test_without_a_schedule_the_rate_stays() -> None:
    assert factors("constant", 0, 7) == [1.0] * 7


def test_linear_decay_would_reach_zero_at_the_horizon() -> None:
    assert factors("linear", 0, 5) == [1.0 - step / 5 for step in range(5)]


def test_cosine_decay_is_half_way_in_the_middle() -> None:
    found = factors("cosine", 0, 8)
    assert found[0] == 1.0
    assert found[4] == pytest.approx(0.5)
    assert found == pytest.approx([math.cos(math.pi * step / 16) ** 2 for step in range(8)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_evenly_from_above_zero_and_then_the_schedule_starts(
    schedule: LrSchedule,
) -> None:
    found = factors(schedule, 4, 12)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:] == factors(schedule, 0, 8)
    assert all(0.0 < factor <= 1.0 for factor in found)
