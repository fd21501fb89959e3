"""The slack policy, worked out by hand: 100 ns a batch and 10 ns an item, unless a test says so."""

import weakref
from collections import deque
from dataclasses import replace

import pytest
from tests.fleets import line_fleet, mixed_fleet

from tailrank.core.errors import ConfigError
from tailrank.core.query import Outcome, Query
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import PolicyConfig, build_scheduler
from tailrank.scheduling.slack import SlackScheduler

CONFIG = PolicyConfig(policy="slack", batch_items_max=1000, sla=SLA(95.0, 5000))


def make(num_workers: int, config: PolicyConfig = CONFIG, item_ns: float = 10.0) -> SlackScheduler:
    """A scheduler whose workers have joined."""
    scheduler = build_scheduler(config, line_fleet(num_workers, 100.0, item_ns))
    assert isinstance(scheduler, SlackScheduler)
    scheduler.on_workers(tuple(range(num_workers)), 0)
    return scheduler


def query(query_id: int, num_items: int, at_ns: int = 0, deadline_ns: int | None = None) -> Query:
    return Query(query_id, "", at_ns, deadline_ns, num_items, 0)


def shape(batches):
    """Per batch, the items of each query in it."""
    return [[(part.query.query_id, part.num_items) for part in batch.parts] for batch in batches]


def test_idle_workers_share_a_query_and_none_is_cut_for_little():
    assert shape(make(2).on_query(query(0, 400), 0).start) == [[(0, 200)], [(0, 200)]]
    # In two it would take 2 x 150 instead of 200 ns of work.
    assert shape(make(2).on_query(query(0, 10), 0).start) == [[(0, 10)]]


def test_a_query_with_slack_stays_whole_while_workers_are_busy():
    scheduler = make(2)
    first = scheduler.on_query(query(0, 400), 0).start
    assert scheduler.on_query(query(1, 250), 10).start == ()
    assert shape(scheduler.on_done(first[0], Outcome.OK, 2100).start) == [[(1, 250)]]


def test_a_query_without_slack_is_cut_so_that_both_workers_end_in_time():
    scheduler = make(2)
    first = scheduler.on_query(query(0, 400), 0).start  # both done at 2100
    scheduler.on_query(query(1, 360, deadline_ns=4200), 10)
    # Whole it would take to 2000 + 100 + 3600; with the worker that is free at 2100 each ends at
    # (2000 + 2100 + 2 x 100 + 3600) / 2 = 3950, for which this one can do 185 items.
    assert shape(scheduler.on_done(first[0], Outcome.OK, 2000).start) == [[(1, 185)]]
    assert shape(scheduler.on_done(first[1], Outcome.OK, 2100).start) == [[(1, 175)]]


def test_the_earliest_deadline_goes_first():
    scheduler = make(1)
    (running,) = scheduler.on_query(query(0, 100), 0).start
    scheduler.on_query(query(1, 50, 1), 1)
    scheduler.on_query(query(2, 60, 2, deadline_ns=3000), 2)
    following = scheduler.on_done(running, Outcome.OK, 1100).start
    assert following[0].parts[0].query.query_id == 2


def test_queries_with_slack_share_a_batch_and_its_fixed_cost():
    scheduler = make(1)
    (running,) = scheduler.on_query(query(0, 100), 0).start
    for query_id in (1, 2):
        scheduler.on_query(query(query_id, 40, query_id), query_id)
    together = scheduler.on_done(running, Outcome.OK, 1100).start
    assert shape(together) == [[(1, 40), (2, 40)]]
    # The first one's wait for company is bounded by half its limit.
    late = make(1)
    (running,) = late.on_query(query(0, 100), 0).start
    for query_id in (1, 2):
        late.on_query(query(query_id, 40, query_id), query_id)
    assert shape(late.on_done(running, Outcome.OK, 2000).start) == [[(1, 40)]]


def test_under_pressure_the_largest_is_given_up_and_goes_last():
    scheduler = make(1)
    (running,) = scheduler.on_query(query(0, 200), 0).start  # to 2100
    scheduler.on_query(query(1, 200, 1), 1)
    scheduler.on_query(query(2, 100, 2), 2)  # together 3200 ns more than the 5002 - 2100 left
    order = []
    while running is not None:
        order.append(running.parts[0].query.query_id)
        started = scheduler.on_done(running, Outcome.OK, 2100).start
        running = started[0] if started else None
    assert order == [0, 2, 1]


def test_no_more_are_given_up_than_the_percentile_allows():
    strict = replace(CONFIG, sla=SLA(99.95, 5000))  # less than one of the last thousand queries
    given_up = []
    for config in (CONFIG, strict):
        scheduler = make(1, config)
        scheduler.on_query(query(0, 200), 0)
        for query_id in range(1, 6):
            scheduler.on_query(query(query_id, 200, query_id), query_id)
        given_up.append(len(scheduler._lost))
    assert given_up == [4, 1]


def test_a_lost_query_is_rejected_only_if_asked_for():
    hopeless = query(0, 900)  # 4600 ns on two workers
    limit = replace(CONFIG, sla=SLA(95.0, 3000))
    assert make(2, limit).on_query(hopeless, 0).reject == ()
    decision = make(2, replace(limit, reject_lost=True)).on_query(hopeless, 0)
    assert [(it.query.query_id, it.reason) for it in decision.reject] == [(0, "lost")]
    assert decision.start == ()


def test_queries_that_are_done_are_let_go_though_the_queue_never_empties():
    """A server under steady load would otherwise keep the features of every query that it had."""
    payloads = weakref.WeakSet()
    scheduler = make(1, replace(CONFIG, sla=SLA(95.0, 10**9), batch_parts_max=1))
    now_ns, running = 0, deque()
    for query_id in range(4000):
        payload = Payload()
        payloads.add(payload)
        now_ns += 200
        arriving = Query(query_id, "", now_ns, None, 10, 0, payload)
        running.extend(scheduler.on_query(arriving, now_ns).start)
        if query_id > 5:
            running.extend(scheduler.on_done(running.popleft(), Outcome.OK, now_ns).start)
    assert len(running) == 1
    assert len(payloads) < 2000


class Payload:
    """Features; something that can be referred to weakly."""


def test_a_model_that_likes_small_batches_gets_them():
    fleet = line_fleet(1, 0.0, 10.0)
    table = fleet.tables["", "cpu"]
    table.median_ns[:, 2] *= 2.0  # 1000 items take 20 ns each, up to 8 take 10
    scheduler = build_scheduler(replace(CONFIG, sla=SLA(95.0, 10**9)), fleet)
    scheduler.on_workers((0,), 0)
    (batch,) = scheduler.on_query(query(0, 64), 0).start
    assert batch.num_items < 64


@pytest.mark.parametrize(
    ("field", "config", "fleet"),
    [
        ("fleet: missing", CONFIG, None),
        ("fleet.devices", CONFIG, mixed_fleet(1)),
    ],
)
def test_refuses_what_it_cannot_predict(field, config, fleet):
    with pytest.raises(ConfigError, match=field):
        build_scheduler(config, fleet)


def test_a_model_without_a_table_is_refused_by_name():
    with pytest.raises(ConfigError, match="model: got 'other'"):
        make(1).on_query(Query(0, "other", 0, None, 1, 0), 0)
