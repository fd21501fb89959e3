"""Schedules: in order, seeded apart, the same traffic at every rate."""

from dataclasses import replace

import pytest

from tailrank.core.errors import ConfigError
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

CONFIG = WorkloadConfig(sizes="production", ids_per_item=8.0, user_ids=3, model="dlrm")


def draw(config=CONFIG, qps=100.0, num_queries=50, **options):
    return draw_schedule(config, qps=qps, num_queries=num_queries, **options)


def test_queries_are_numbered_in_order_of_arrival():
    schedule = draw(start_ns=1_000)
    assert [query.query_id for query in schedule] == list(range(50))
    times = [query.scheduled_ns for query in schedule]
    assert times == sorted(times)
    assert times[0] >= 1_000
    assert {query.model for query in schedule} == {"dlrm"}
    assert all(query.num_ids == 8 * query.num_items + 3 for query in schedule)


def test_rates_share_sizes_and_choices():
    slow, fast = draw(qps=10.0), draw(qps=1000.0)
    assert [query.num_items for query in slow] == [query.num_items for query in fast]
    assert slow[-1].scheduled_ns == pytest.approx(100 * fast[-1].scheduled_ns, rel=1e-6)


@pytest.mark.parametrize(
    ("seed", "changed"),
    [("arrival_seed", "scheduled_ns"), ("size_seed", "num_items"), ("payload_seed", "payload")],
)
def test_each_seed_changes_its_own_column_only(seed, changed):
    def columns(config):
        schedule = draw(config, payload_for=lambda choice, num_items: choice)
        return {
            name: [getattr(query, name) for query in schedule]
            for name in ("scheduled_ns", "num_items", "payload")
        }

    before, after = columns(CONFIG), columns(replace(CONFIG, **{seed: 7}))
    assert {name for name in before if before[name] != after[name]} == {changed}


def test_payload_is_made_once_per_query_for_its_size():
    calls = []
    schedule = draw(
        payload_for=lambda choice, num_items: calls.append((choice, num_items)) or choice
    )
    assert [num_items for _, num_items in calls] == [query.num_items for query in schedule]
    assert [choice for choice, _ in calls] == [query.payload for query in schedule]


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": "uniform:1,2"},
        {"ids_per_item": -1.0},
        {"ids_per_item": float("inf")},
        {"user_ids": -1},
        {"arrival_seed": -1},
    ],
)
def test_refuses(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(CONFIG, **changes)
