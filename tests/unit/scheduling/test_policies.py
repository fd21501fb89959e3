"""Policies by name: what is built, what is refused."""

import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.sla import SLA
from tailrank.scheduling.coalescing import CoalescingScheduler
from tailrank.scheduling.policies import PolicyConfig, build_scheduler, static_baseline_batch
from tailrank.scheduling.static import StaticScheduler


@pytest.mark.parametrize(
    ("policy", "kind"), [("static", StaticScheduler), ("coalescing", CoalescingScheduler)]
)
def test_build(policy, kind):
    config = PolicyConfig(policy=policy, batch_items_max=8)
    assert isinstance(build_scheduler(config), kind)
    assert build_scheduler(config) is not build_scheduler(config)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("policy", {"policy": "magic"}),
        ("batch_items_max", {"batch_items_max": 0}),
        ("batch_parts_max", {"batch_parts_max": 0}),
        ("queue_items_max", {"queue_items_max": 0}),
        ("delay_max_ns", {"policy": "coalescing", "delay_max_ns": -1}),
        ("delay_max_ns", {"policy": "static", "delay_max_ns": 1}),
        ("sla", {"policy": "static", "sla": SLA(95.0, 1)}),
        ("offload_threshold_items", {"offload_threshold_items": 0}),
        ("offload_threshold_items", {"policy": "coalescing", "offload_threshold_items": 9}),
        ("reject_lost", {"policy": "coalescing", "reject_lost": True}),
    ],
)
def test_refuses_what_it_cannot_honour(field, changes):
    with pytest.raises(ConfigError, match=field):
        PolicyConfig(**({"policy": "static", "batch_items_max": 8} | changes))


@pytest.mark.parametrize(
    ("items_max", "num_workers", "batch"),
    [(1000, 40, 25), (1000, 2, 500), (999, 2, 500), (5, 8, 1)],
)
def test_static_baseline_spreads_the_largest_query(items_max, num_workers, batch):
    assert static_baseline_batch(items_max, num_workers) == batch
