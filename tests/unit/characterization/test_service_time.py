"""The profile: every grid point is measured with the concurrency it names."""

import threading

import numpy as np
import pytest

from tailrank.characterization.service_time import ProfileConfig, measure_service_times
from tailrank.core.errors import ConfigError, OutsideProfile


def test_every_point_is_measured_under_its_own_concurrency() -> None:
    seen: set[tuple[int, int, int]] = set()
    slots: set[int] = set()
    lock = threading.Lock()
    told: list[tuple[float, str]] = []

    def run_batch(batch):
        with lock:
            seen.add((len(batch.parts), batch.num_items, batch.num_ids))
        return [None] * len(batch.parts)

    config = ProfileConfig(num_items=(1, 4, 10), num_parts=(1, 2), num_workers=2, budget_s=0.01)
    table = measure_service_times(
        config,
        run_batch,
        lambda choice, num_items: None,
        device="test",
        ids_per_item=2.0,
        initialise_worker=slots.add,
        on_progress=lambda fraction, remark: told.append((fraction, remark)),
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.1
    assert fractions[-1] == pytest.approx(1.0)
    assert told[0][1].startswith("1 worker, ")
    assert told[-1][1].startswith("2 workers, ")
    # Coalescing takes a first part alone; whatever else runs is what the grid names.
    asked = {(1, 1, 2), (1, 4, 8), (1, 10, 20), (2, 4, 8), (2, 10, 20)}
    assert asked <= seen <= asked | {(1, 2, 4), (1, 5, 10)}
    assert slots == {0, 1}
    assert table.axes["busy_workers"] == (1.0, 2.0)
    assert np.isnan(table.median_ns[1, 0]).all()  # two parts cannot share one item
    assert (table.median_ns[0] > 0).all()
    assert np.all(np.diff(table.spread) >= 0)
    assert table.lookup_ns(1, 4, 8, 2) > 0
    with pytest.raises(OutsideProfile, match="num_items"):
        table.lookup_ns(1, 11, 22, 1)


def test_a_failing_batch_ends_the_profile_with_its_error() -> None:
    def run_batch(batch):
        raise ValueError("broken ranker")

    with pytest.raises(ValueError, match="broken ranker"):
        measure_service_times(
            ProfileConfig(num_items=(1,), num_parts=(1,), budget_s=0.01),
            run_batch,
            lambda choice, num_items: None,
            device="test",
            ids_per_item=0.0,
            initialise_worker=lambda slot: None,
        )


@pytest.mark.parametrize(("field", "value"), [("num_workers", 0), ("budget_s", 0.0)])
def test_a_profile_that_cannot_be_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError):
        ProfileConfig(**{field: value})
