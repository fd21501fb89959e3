"""The coalescing policy: pack what fits, bound the wait, never cut what fits whole."""

from tailrank.core.query import Outcome, Query
from tailrank.scheduling.coalescing import CoalescingScheduler


def make_query(query_id: int, num_items: int, scheduled_ns: int = 0, model: str = "") -> Query:
    return Query(query_id, model, scheduled_ns, None, num_items, 0)


def make_scheduler(delay_max_ns: int = 50) -> CoalescingScheduler:
    return CoalescingScheduler(
        batch_items_max=100,
        batch_parts_max=4,
        queue_items_max=10_000,
        delay_max_ns=delay_max_ns,
    )


def contents(decision) -> list[list[tuple[int, int]]]:
    """Per started batch its (query, items)."""
    return [[(part.query.query_id, part.num_items) for part in b.parts] for b in decision.start]


def test_small_queries_share_a_batch_that_starts_when_full():
    """DeepRecSys never merges small queries."""
    scheduler = make_scheduler()
    scheduler.on_workers((0,), 0)
    assert scheduler.on_query(make_query(0, 40), 0).start == ()
    assert scheduler.on_query(make_query(1, 40), 1).start == ()
    assert scheduler.next_deadline_ns() == 50
    # The third does not fit, so the first two can gain nothing by waiting.
    assert contents(scheduler.on_query(make_query(2, 40), 2)) == [[(0, 40), (1, 40)]]


def test_exactly_full_starts_at_once():
    scheduler = make_scheduler()
    scheduler.on_workers((0,), 0)
    scheduler.on_query(make_query(0, 60), 0)
    assert contents(scheduler.on_query(make_query(1, 40), 1)) == [[(0, 60), (1, 40)]]
    assert scheduler.next_deadline_ns() is None


def test_a_batch_has_a_bounded_number_of_parts():
    scheduler = make_scheduler()
    scheduler.on_workers((0,), 0)
    for query_id in range(3):
        assert scheduler.on_query(make_query(query_id, 1), 0).start == ()
    started = scheduler.on_query(make_query(3, 1), 1)
    assert contents(started) == [[(0, 1), (1, 1), (2, 1), (3, 1)]]


def test_the_delay_limit_counts_from_scheduled_arrival():
    scheduler = make_scheduler(delay_max_ns=50)
    scheduler.on_workers((0,), 0)
    scheduler.on_query(make_query(0, 10, scheduled_ns=100), 130)
    assert scheduler.next_deadline_ns() == 150
    assert scheduler.on_timer(149).start == ()
    assert contents(scheduler.on_timer(150)) == [[(0, 10)]]


def test_no_timer_while_no_worker_is_free():
    scheduler = make_scheduler()
    scheduler.on_query(make_query(0, 10), 0)
    assert scheduler.next_deadline_ns() is None
    assert contents(scheduler.on_workers((0,), 60)) == [[(0, 10)]]


def test_without_delay_an_idle_worker_never_waits():
    scheduler = make_scheduler(delay_max_ns=0)
    scheduler.on_workers((0,), 0)
    started = scheduler.on_query(make_query(0, 10), 0)
    assert contents(started) == [[(0, 10)]]
    for query_id in (1, 2, 3):
        assert scheduler.on_query(make_query(query_id, 30), 1).start == ()
    packed = scheduler.on_done(started.start[0], Outcome.OK, 9)
    assert contents(packed) == [[(1, 30), (2, 30), (3, 30)]]


def test_a_large_query_is_cut_evenly_and_its_parts_take_company():
    scheduler = make_scheduler(delay_max_ns=0)
    scheduler.on_query(make_query(0, 150), 0)
    scheduler.on_query(make_query(1, 25), 0)
    assert contents(scheduler.on_workers((0, 1), 1)) == [[(0, 75)], [(0, 75), (1, 25)]]


def test_a_batch_holds_one_model():
    scheduler = make_scheduler()
    scheduler.on_query(make_query(0, 10, model="a"), 0)
    scheduler.on_query(make_query(1, 10, model="b"), 0)
    assert contents(scheduler.on_workers((0,), 1)) == [[(0, 10)]]


def test_order_of_arrival_is_kept():
    """A small query behind a large one does not overtake it into the rest of a batch."""
    scheduler = make_scheduler(delay_max_ns=0)
    for query_id, num_items in enumerate((60, 60, 20)):
        scheduler.on_query(make_query(query_id, num_items), 0)
    assert contents(scheduler.on_workers((0,), 1)) == [[(0, 60)]]


def test_a_failed_batch_drops_the_rest_of_all_its_queries():
    scheduler = make_scheduler(delay_max_ns=0)
    scheduler.on_query(make_query(0, 30), 0)
    scheduler.on_query(make_query(1, 130), 0)
    scheduler.on_query(make_query(2, 10), 0)
    started = scheduler.on_workers((0,), 0)
    assert contents(started) == [[(0, 30), (1, 65)]]
    assert contents(scheduler.on_done(started.start[0], Outcome.FAILED, 1)) == [[(2, 10)]]
