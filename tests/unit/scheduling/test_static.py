"""The static policy: fewest parts, first in first out, one part per batch."""

import pytest

from tailrank.core.query import Outcome, Query
from tailrank.scheduling.scheduler import split_query
from tailrank.scheduling.static import StaticScheduler


def make_query(query_id: int, num_items: int, scheduled_ns: int = 0) -> Query:
    return Query(query_id, "", scheduled_ns, None, num_items, 0)


def make_scheduler(queue_items_max: int = 1000) -> StaticScheduler:
    return StaticScheduler(batch_items_max=100, queue_items_max=queue_items_max)


def parts_of(decision) -> list[tuple[int, int, int, int]]:
    """(slot, query, first item, items) of every started part."""
    return [
        (batch.slot, part.query.query_id, part.first_item, part.num_items)
        for batch in decision.start
        for part in batch.parts
    ]


@pytest.mark.parametrize("num_items", [1, 99, 100, 101, 250, 999, 1000])
@pytest.mark.parametrize("batch_items_max", [1, 7, 100, 1000])
def test_split_makes_the_fewest_even_parts(num_items, batch_items_max):
    parts = split_query(make_query(0, num_items), batch_items_max)
    sizes = [part.num_items for part in parts]
    assert len(parts) == -(-num_items // batch_items_max)
    assert max(sizes) <= batch_items_max
    assert max(sizes) - min(sizes) <= 1
    assert [part.first_item for part in parts] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == num_items


def test_a_query_is_spread_over_free_workers_and_the_rest_waits():
    scheduler = make_scheduler()
    assert scheduler.on_workers((0, 1), 0).start == ()
    started = scheduler.on_query(make_query(0, 300), 5)
    assert parts_of(started) == [(1, 0, 0, 100), (0, 0, 100, 100)]
    assert scheduler.on_query(make_query(1, 10), 6).start == ()
    next_one = scheduler.on_done(started.start[0], Outcome.OK, 7)
    assert parts_of(next_one) == [(1, 0, 200, 100)]
    last = scheduler.on_done(started.start[1], Outcome.OK, 8)
    assert parts_of(last) == [(0, 1, 0, 10)]


def test_never_merges_queries():
    scheduler = make_scheduler()
    for query_id in range(3):
        scheduler.on_query(make_query(query_id, 10), 0)
    assert parts_of(scheduler.on_workers((0,), 1)) == [(0, 0, 0, 10)]


def test_a_query_beyond_the_queue_is_rejected_whole():
    scheduler = make_scheduler(queue_items_max=150)
    assert scheduler.on_query(make_query(0, 100), 0).reject == ()
    rejected = scheduler.on_query(make_query(1, 51), 0).reject
    assert [(item.query.query_id, item.reason) for item in rejected] == [(1, "queue_full")]
    assert scheduler.on_query(make_query(2, 50), 0).reject == ()
    started = scheduler.on_workers((0, 1, 2), 1)
    assert [query_id for _, query_id, _, _ in parts_of(started)] == [0, 2]


def test_a_failed_batch_drops_the_rest_of_its_query_and_frees_its_room():
    scheduler = make_scheduler(queue_items_max=500)
    started = scheduler.on_workers((0,), 0)
    started = scheduler.on_query(make_query(0, 400), 0)
    scheduler.on_query(make_query(1, 100), 0)
    after = scheduler.on_done(started.start[0], Outcome.FAILED, 1)
    assert parts_of(after) == [(0, 1, 0, 100)]
    assert scheduler.on_query(make_query(2, 500), 2).reject == ()


def test_batch_ids_count_starts():
    scheduler = make_scheduler()
    scheduler.on_workers((0, 1), 0)
    started = scheduler.on_query(make_query(0, 150), 0).start
    assert [batch.batch_id for batch in started] == [0, 1]
    assert scheduler.next_deadline_ns() is None
