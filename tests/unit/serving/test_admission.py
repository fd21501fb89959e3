"""The door lets in what can be done in time, and only that."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrank.core.errors import Overloaded
from tailrank.core.sla import SLA
from tailrank.serving.admission import Admission, Margin

LIMIT_NS = 20_000_000


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


def test_the_time_that_a_query_has_waited_counts_twice_and_the_margin_not_besides() -> None:
    admission = door(sla=SLA.parse("p99=1ms"))
    for _ in range(10):
        admission.learn_answer(500_000)  # a margin of 0.5 ms
    first = admission.admit(100, 110_000)  # whoever finds nobody needs none
    second = admission.admit(100, 55_000 + 110_000 + 500_000)
    with pytest.raises(Overloaded, match=r"would be done in 0.72 ms, of the 0.7 ms"):
        admission.admit(100, 700_000)
    # The way back is set aside once: as long as it lately was, or as the way in has been.
    third = admission.admit(100, 800_000, waited_ns=40_000)
    with pytest.raises(Overloaded, match=r"alone take 0.11 ms of the 0 ms"):
        admission.admit(100, 800_000, waited_ns=400_000)
    for work in (first, second, third):
        admission.leave(work)


def test_a_margin_is_that_of_the_share_that_may_be_late() -> None:
    rng = np.random.default_rng(0)
    margin = Margin(SLA(99.0, LIMIT_NS))
    longer_ns = rng.exponential(LIMIT_NS / 20, 200_000)
    seen = []
    for one in longer_ns.tolist():
        seen.append(one > margin.ns)
        margin.learn(one)
    # Half of what the SLA allows; the first ones were learned from.
    assert np.mean(seen[1000:]) == pytest.approx(0.005, rel=0.1)


def test_a_pause_does_not_close_the_door_for_long() -> None:
    margin = Margin(SLA(99.0, LIMIT_NS))
    for _ in range(1000):
        margin.learn(1e9)
    assert margin.ns < LIMIT_NS
    for _ in range(2000):
        margin.learn(0.0)
    assert margin.ns < 0.5 * LIMIT_NS


@pytest.mark.parametrize("pause_ns", [0, 6_000_000])
def test_at_twice_the_capacity_what_is_taken_in_is_in_time(pause_ns: int) -> None:
    """One worker, 1 ms a query as predicted, or pauses; each answer is sent some time later."""
    rng = np.random.default_rng(1)
    count = 40_000
    took_ns = rng.exponential(1e6, count) + pause_ns * (rng.random(count) < 0.05)
    sent_ns = rng.exponential(1e6, count)
    came_ns = np.cumsum(rng.exponential(took_ns.mean() / 2, count))
    admission = Admission(
        lambda num_items: 1_000_000,
        batch_items_max=100,
        num_workers=1,
        items_max=10_000,
        sla=SLA(99.0, LIMIT_NS),
    )
    free_ns, under_way, latency_ns = 0.0, deque(), []
    for now_ns, took, sent in zip(came_ns, took_ns, sent_ns, strict=True):
        while under_way and under_way[0][0] <= now_ns:
            done_ns, work, expected_ns, took_before, sent_before = under_way.popleft()
            admission.learn(1, round(took_before))
            admission.part_done(work, 1)
            admission.leave(work)
            admission.learn_answer(done_ns + sent_before - expected_ns)
        try:
            work = admission.admit(1, LIMIT_NS)
        except Overloaded:
            continue
        free_ns = max(free_ns, now_ns) + took
        under_way.append((free_ns, work, now_ns + work.expected_ns, took, sent))
        latency_ns.append(free_ns + sent - now_ns)
    latency = np.array(latency_ns)[1000:]
    assert np.percentile(latency, 99) <= LIMIT_NS
    # The worker is hardly ever without work.
    assert len(latency_ns) >= 0.9 * count / 2
