"""What every policy promises, whatever it decides. To add a policy: one line in `CONFIGS`."""

import dataclasses

import pytest
from tests.fleets import line_fleet

from tailrank.core.query import NOTHING, Outcome, Query
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import (
    POLICIES,
    Division,
    PolicyConfig,
    build_scheduler,
    divide_workers,
)

CONFIGS = [
    PolicyConfig(policy="deeprecsched", batch_items_max=100, queue_items_max=1000),
    PolicyConfig(policy="static", batch_items_max=100, queue_items_max=1000),
    PolicyConfig(policy="coalescing", batch_items_max=100, queue_items_max=1000),
    PolicyConfig(policy="coalescing", batch_items_max=100, queue_items_max=1000, delay_max_ns=40),
    PolicyConfig(policy="kairos", batch_items_max=100, queue_items_max=1000, sla=SLA(95.0, 1000)),
    PolicyConfig(policy="slack", batch_items_max=100, queue_items_max=1000, sla=SLA(95.0, 1000)),
    # Nobody can be on time.
    PolicyConfig(policy="slack", batch_items_max=100, queue_items_max=1000, sla=SLA(99.0, 1)),
    divide_workers(
        Division(
            ("",),
            (0, 1, 2),
            PolicyConfig(policy="static", batch_items_max=100, queue_items_max=1000),
        ),
        Division(("other",), (3,), PolicyConfig(policy="static", batch_items_max=50)),
    ),
]
FLEET = line_fleet(4, fixed_ns=5.0, item_ns=1.0)


def make_query(query_id: int, num_items: int, scheduled_ns: int = 0) -> Query:
    return Query(query_id, "", scheduled_ns, None, num_items, 0)


@pytest.fixture(params=CONFIGS, ids=lambda config: f"{config.policy}-{config.delay_max_ns}")
def config(request):
    return request.param


@pytest.fixture
def scheduler(config):
    return build_scheduler(config, FLEET)


def drain(scheduler, started, now_ns):
    """End every batch, and let every timer fire, until nothing is left; returns all batches."""
    seen = []
    open_batches = list(started)
    while open_batches or scheduler.next_deadline_ns() is not None:
        now_ns += 1
        if open_batches:
            batch = open_batches.pop(0)
            seen.append(batch)
            open_batches += scheduler.on_done(batch, Outcome.OK, now_ns).start
        else:
            now_ns = max(now_ns, scheduler.next_deadline_ns())
            open_batches += scheduler.on_timer(now_ns).start
    return seen


def test_every_policy_is_under_contract():
    assert {config.policy for config in CONFIGS} == set(POLICIES)


def test_without_work_or_workers_it_starts_nothing(scheduler):
    assert scheduler.on_workers((0, 1), 0) == NOTHING
    assert scheduler.on_timer(5) == NOTHING
    assert scheduler.next_deadline_ns() is None


def test_all_items_of_a_query_run_once(scheduler):
    started = list(scheduler.on_workers((0, 1), 0).start)
    for query_id, num_items in enumerate((1, 100, 101, 333)):
        started += scheduler.on_query(make_query(query_id, num_items), query_id).start
    items = sorted(
        (part.query.query_id, item)
        for batch in drain(scheduler, started, 10)
        for part in batch.parts
        for item in range(part.first_item, part.first_item + part.num_items)
    )
    expected = [(q, item) for q, n in enumerate((1, 100, 101, 333)) for item in range(n)]
    assert items == expected


def test_batches_keep_to_their_limit_and_to_free_slots(scheduler, config):
    busy = set()
    for batch in scheduler.on_query(make_query(0, 999), 0).start:
        pytest.fail(f"started {batch} without a worker")
    started = scheduler.on_workers((0, 1, 2), 1000).start
    for batch in started:
        assert batch.slot not in busy
        assert 1 <= batch.num_items <= config.batch_items_bound
        busy.add(batch.slot)
    assert busy == {0, 1, 2}


def test_the_timer_it_asks_for_leads_to_a_decision(scheduler):
    scheduler.on_workers((0,), 0)
    scheduler.on_query(make_query(0, 10), 0)
    deadline_ns = scheduler.next_deadline_ns()
    if deadline_ns is not None:
        assert scheduler.on_timer(deadline_ns).start
    assert scheduler.next_deadline_ns() is None


def test_a_full_queue_rejects_and_recovers(scheduler):
    assert scheduler.on_query(make_query(0, 1000), 0).reject == ()
    rejected = make_query(1, 1)
    decision = scheduler.on_query(rejected, 1)
    assert [(item.query, item.reason) for item in decision.reject] == [(rejected, "queue_full")]
    drain(scheduler, scheduler.on_workers((0,), 100).start, 100)
    assert scheduler.on_query(make_query(2, 1000, 500), 500).reject == ()


def test_a_failed_batch_ends_its_queries(scheduler):
    scheduler.on_query(make_query(0, 450), 0)
    scheduler.on_query(make_query(1, 90), 0)
    batch = scheduler.on_workers((0,), 100).start[0]
    after = list(scheduler.on_done(batch, Outcome.FAILED, 101).start)
    seen = drain(scheduler, after, 101)
    assert {part.query.query_id for batch in seen for part in batch.parts} == {1}


def test_the_same_events_give_the_same_decisions(config):
    def decisions():
        scheduler = build_scheduler(config, FLEET)
        seen = [scheduler.on_workers((0, 1), 0)]
        seen += [scheduler.on_query(make_query(i, 30 + 40 * i, i), i) for i in range(8)]
        return [*seen, *drain(scheduler, [b for d in seen for b in d.start], 100)]

    assert decisions() == decisions()


def test_it_never_looks_into_a_payload(scheduler):
    class Untouchable:
        def __getattribute__(self, name):
            raise AssertionError("a scheduler looked into a payload")

    scheduler.on_workers((0,), 0)
    query = dataclasses.replace(make_query(0, 100), payload=Untouchable())
    assert scheduler.on_query(query, 0).start[0].num_items == 100
