"""How an engine serves: policy, workers, SLA."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tailrank.core.sla import SLA
from tailrank.runtime.live import LiveConfig
from tailrank.scheduling.policies import POLICIES, PolicyConfig
from tailrank.serving.executors import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How queries are served.

    Args:
        policy: the scheduling policy; its `queue_items_max` bounds the items that are open.
        num_workers: worker threads.
        sla: the limit is every query's deadline that brings none of its own.
        live: how worker threads run. Garbage is collected: a server never ends.
        executor: where they compute: themselves, or in a process each; None: measured at the start.
    """

    policy: PolicyConfig
    num_workers: int
    sla: SLA
    live: LiveConfig = field(default_factory=LiveConfig)
    executor: Executor | None = "threads"


def server_policy(config: PolicyConfig, sla: SLA) -> PolicyConfig:
    """The policy as a server needs it: whoever looks at deadlines gives up what will miss them."""
    settings = POLICIES[config.policy].settings
    if "sla" in settings:
        config = replace(config, sla=sla)
    return replace(config, reject_lost=True) if "reject_lost" in settings else config
