"""The policies by name. To add one: a file beside this, and a line in `POLICIES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tailrank.core.errors import ConfigError, one_of
from tailrank.scheduling.coalescing import CoalescingScheduler
from tailrank.scheduling.scheduler import Scheduler
from tailrank.scheduling.static import StaticScheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """A policy and its settings.

    Args:
        policy: a name in `POLICIES`.
        batch_items_max: most items of a batch, >= 1.
        batch_parts_max: most parts of a batch, >= 1. Each part brings its user's work, so that the
            price of a batch grows with them; the service-time table must have measured as many.
        delay_max_ns: longest wait for company while a worker is free, >= 0; 0 under `static`,
            which never waits.
        queue_items_max: most items that may wait for a worker, >= 1; a query beyond is rejected.

    Raises:
        ConfigError: a field is outside its range, or the policy cannot honour it.
    """

    policy: str
    batch_items_max: int
    batch_parts_max: int = 8
    delay_max_ns: int = 0
    queue_items_max: int = 1_000_000

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError("policy", self.policy, one_of(sorted(POLICIES), self.policy))
        for name in ("batch_items_max", "batch_parts_max", "queue_items_max"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "a whole number from 1")
        if self.delay_max_ns < 0:
            raise ConfigError("delay_max_ns", self.delay_max_ns, "a time in ns from 0")
        if self.policy == "static" and self.delay_max_ns:
            raise ConfigError("delay_max_ns", self.delay_max_ns, "0: `static` never waits")


def _static(config: PolicyConfig) -> Scheduler:
    return StaticScheduler(
        batch_items_max=config.batch_items_max, queue_items_max=config.queue_items_max
    )


def _coalescing(config: PolicyConfig) -> Scheduler:
    return CoalescingScheduler(
        batch_items_max=config.batch_items_max,
        batch_parts_max=config.batch_parts_max,
        queue_items_max=config.queue_items_max,
        delay_max_ns=config.delay_max_ns,
    )


POLICIES: dict[str, Callable[[PolicyConfig], Scheduler]] = {
    "static": _static,
    "coalescing": _coalescing,
}


def build_scheduler(config: PolicyConfig) -> Scheduler:
    """A fresh scheduler with empty queues and no workers; slots join by `on_workers`."""
    return POLICIES[config.policy](config)


def static_baseline_batch(items_max: int, num_workers: int) -> int:
    """The static baseline's batch: the largest query spread over all workers.

    Source: DeepRecSys (ISCA 2020), section 6: 1000 items over 40 cores = batch 25.
    """
    return -(-items_max // num_workers)
