"""The door lets in what can be done in time, and only that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrank.core.errors import Overloaded
from tailrank.serving.admission import Admission


def door(**settings) -> Admission:
    """A microsecond for each item and 10 for each batch, on two workers."""
    values = {"batch_items_max": 100, "num_workers": 2, "items_max": 10_000} | settings
    return Admission(lambda num_items: 10_000 + 1_000 * num_items, **values)


def test_a_query_waits_for_the_work_before_it_and_is_cut_for_all_workers() -> None:
    admission = door()
    # Two parts of 100 items on two workers: 110 us.
    with pytest.raises(Overloaded, match=r"200 items alone take 0.11 ms of the 0.1 ms") as caught:
        admission.admit(200, 100_000)
    assert caught.value.reason == "too_late"
    for _ in range(4):
        admission.admit(200, 10**9)
    # 880 us of work before it, on two workers.
    with pytest.raises(Overloaded, match=r"would be done in 0.55 ms, of the 0.5 ms") as caught:
        admission.admit(200, 500_000)
    assert caught.value.retry_after_ns == 50_000
    admission.admit(200, 550_000)


def test_parts_that_are_done_make_room() -> None:
    admission = door()
    works = [admission.admit(200, 10**9) for _ in range(4)]
    for work in works[:2]:
        admission.part_done(work, 100)
        admission.part_done(work, 100)
        admission.leave(work)
    assert admission.num_items == 400
    admission.admit(200, 110_000 + 220_000)


def test_a_full_queue_says_when_it_will_be_empty() -> None:
    admission = door(items_max=300)
    admission.admit(200, 10**9)
    with pytest.raises(Overloaded, match="200 items are open, of at most 300") as caught:
        admission.admit(200, 10**9)
    assert caught.value.reason == "queue_full"
    assert caught.value.retry_after_ns == 110_000


def test_what_takes_longer_than_predicted_is_learned_and_does_not_close_the_door_for_ever() -> None:
    admission = door()
    for _ in range(100):
        admission.learn(100, 10 * 110_000)
    work = admission.admit(100, 110_000)  # nobody before it
    with pytest.raises(Overloaded) as caught:
        admission.admit(100, 300_000)
    assert caught.value.retry_after_ns == pytest.approx(4 * 55_000 + 110_000 - 300_000, rel=0.01)
    for _ in range(100):
        admission.learn(100, 110_000)
    admission.admit(100, 300_000)
    admission.leave(work)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 500)), min_size=1, max_size=30))
def test_whatever_ends_in_whatever_way_leaves_nothing(queries: list[tuple[int, int]]) -> None:
    admission = door()
    works = [(admission.admit(size, 10**12), min(done, size)) for size, done in queries]
    for work, done in works:
        if done:
            admission.part_started(work)
            admission.part_done(work, done)
        admission.leave(work)
    assert (admission.num_queries, admission.num_waiting, admission.num_items) == (0, 0, 0)
    admission.admit(100, 110_000)
