"""The profile: every grid point is measured with the concurrency it names."""

import threading

import numpy as np
import pytest

from tailrank.characterization import service_time
from tailrank.characterization.service_time import (
    ProfileConfig,
    measure_service_times,
    time_grid,
)
from tailrank.core.clock import ManualClock
from tailrank.core.errors import ConfigError, OutsideProfile, RequestError


def test_every_point_is_measured_under_its_own_concurrency() -> None:
    seen: set[tuple[int, int, int]] = set()
    slots: set[int] = set()
    lock = threading.Lock()
    told: list[tuple[float, str]] = []
    said: list[str] = []

    def run_batch(batch):
        with lock:
            seen.add((len(batch.parts), batch.num_items, batch.num_ids))
        return [None] * len(batch.parts)

    config = ProfileConfig(num_items=(1, 4, 10), num_parts=(1, 2), num_workers=2, budget_s=5.0)
    table = measure_service_times(
        config,
        run_batch,
        lambda choice, num_items: None,
        device="test",
        ids_per_item=2.0,
        initialise_worker=slots.add,
        on_progress=lambda fraction, remark: told.append((fraction, remark)),
        announce=said.append,
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.1
    assert said == [], "that was time enough"
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


class FakeHost:
    """Batches whose time is known, on a clock that they alone move."""

    def __init__(self, overhead_ns: int, item_ns: int) -> None:
        self.clock, self._overhead_ns, self._item_ns = ManualClock(), overhead_ns, item_ns
        self.visits: list[tuple[int, int]] = []

    def __call__(self, num_parts: int, num_items: int, *, repeats: int) -> list[int]:
        self.visits.append((num_parts, num_items))
        batch_ns = num_items * self._item_ns
        spent_ns = self._overhead_ns + (repeats + 1) * batch_ns
        self.clock.advance_to(self.clock.now_ns() + spent_ns)
        return [batch_ns] * repeats


GRID = ProfileConfig(num_items=(1, 10, 100), num_parts=(1, 2), num_workers=2, budget_s=1.0)
NUM_CELLS = 2 * (3 + 2)


@pytest.mark.parametrize("overhead_ms", [0, 1, 10, 30, 60])
@pytest.mark.parametrize("item_us", [1, 20, 150])
def test_the_budget_is_kept_whatever_a_batch_costs(overhead_ms: int, item_us: int) -> None:
    host = FakeHost(overhead_ms * 10**6, item_us * 1000)
    timed = time_grid(GRID, {1: host, 2: host}, lambda fraction, remark: None, host.clock)
    assert host.clock.now_ns() <= 1.3e9
    assert len(timed.times_ns) == NUM_CELLS
    assert all(set(t) == {items * item_us * 1000} for (*_, items), t in timed.times_ns.items())
    assert timed.num_visits == 6 * NUM_CELLS
    assert len(host.visits) == NUM_CELLS + timed.num_visits - timed.num_left_out
    if overhead_ms <= 1 and item_us <= 20:
        assert timed.num_left_out == 0
    elif overhead_ms >= 30:
        assert timed.num_left_out > 0
    if timed.num_left_out or item_us == 20:
        assert host.clock.now_ns() > 0.7e9, "what the budget holds is used"


def test_a_budget_that_does_not_hold_every_size_is_refused_early() -> None:
    host = FakeHost(overhead_ns=400_000_000, item_ns=1000)
    with pytest.raises(RequestError, match=r"1 s hold one batch of 3 of the 10 sizes.*allow 9 s"):
        time_grid(GRID, {1: host, 2: host}, lambda fraction, remark: None, host.clock)
    assert len(host.visits) == 3


def test_what_there_was_no_time_for_is_said() -> None:
    said: list[str] = []
    config = ProfileConfig(num_items=(1,), num_parts=(1,), budget_s=1e-9)
    measure_service_times(
        config,
        lambda batch: [None] * len(batch.parts),
        lambda choice, num_items: None,
        device="test",
        ids_per_item=0.0,
        initialise_worker=lambda slot: None,
        announce=said.append,
    )
    assert said == [
        "1e-09 s were too short for 6 of 6 timings of the profile; 1 or more batches of each size "
        "were timed"
    ]


def test_a_failing_batch_ends_the_profile_with_its_error() -> None:
    def run_batch(batch):
        raise ValueError("broken ranker")

    with pytest.raises(ValueError, match="broken ranker"):
        measure_service_times(
            ProfileConfig(num_items=(1,), num_parts=(1,), budget_s=5.0),
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


def test_one_worker_is_timed_while_the_others_do_something_else(monkeypatch) -> None:
    """The companion runs on the other worker whenever two are busy, and never when one is."""
    monkeypatch.setattr(service_time, "_REPEATS_MAX", 1)
    slots: set[int] = set()
    beside: set[int] = set()
    at_work = threading.Event()

    def run_batch(batch):
        slots.add(batch.slot)
        return [None] * len(batch.parts)

    def companion(slot: int) -> None:
        beside.add(slot)
        at_work.set()

    def measure(num_workers: int) -> None:
        measure_service_times(
            ProfileConfig(num_items=(1, 4), num_parts=(1, 2), num_workers=num_workers, budget_s=60),
            run_batch,
            lambda choice, num_items: None,
            device="test",
            ids_per_item=0.0,
            initialise_worker=lambda slot: None,
            beside=companion,
        )

    measure(1)
    assert (slots, at_work.is_set()) == ({0}, False)
    measure(2)
    assert (slots, beside) == ({0}, {1})


def test_a_fault_of_what_is_timed_ends_what_runs_beside_it() -> None:
    workers: set[int] = set()

    def fail(batch):
        if workers == {0, 1}:
            raise LookupError("no such row")
        return [None] * len(batch.parts)

    with pytest.raises(LookupError, match="no such row"):
        measure_service_times(
            ProfileConfig(num_items=(1,), num_parts=(1,), num_workers=2, budget_s=60),
            fail,
            lambda choice, num_items: None,
            device="test",
            ids_per_item=0.0,
            initialise_worker=workers.add,
            beside=lambda slot: None,
        )
