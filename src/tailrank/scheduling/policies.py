"""The policies by name. To add one: a file beside this, and a line in `POLICIES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tailrank.core.errors import ConfigError, one_of
from tailrank.core.fleet import Fleet
from tailrank.core.sla import SLA
from tailrank.scheduling.coalescing import CoalescingScheduler
from tailrank.scheduling.deeprecsched import DeepRecSchedScheduler
from tailrank.scheduling.divided import DividedScheduler, Section
from tailrank.scheduling.kairos import KairosScheduler
from tailrank.scheduling.scheduler import Scheduler
from tailrank.scheduling.slack import SlackScheduler
from tailrank.scheduling.static import StaticScheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """A policy and its settings.

    Args:
        policy: a name in `POLICIES`.
        batch_items_max: most items of a batch, >= 1; of a query that is offloaded, none.
        batch_parts_max: most parts of a batch, >= 1. Each part brings its user's work, so that the
            price of a batch grows with them; the service-time table must have measured as many.
        delay_max_ns: longest wait for company while a worker is free, >= 0; 0 under `static`,
            which never waits.
        queue_items_max: most items that may wait for a worker, >= 1; a query beyond is rejected.
        sla: what the policy is to keep, for one that looks at deadlines.
        offload_threshold_items: query size from which the whole query goes to the accelerator,
            >= 1; None: none does.
        reject_lost: whether to reject a query once it can no longer meet its deadline.
        divisions: which models have which workers, under `divided`; see `divide_workers`.

    Raises:
        ConfigError: a field is outside its range, or the policy cannot honour it.
    """

    policy: str
    batch_items_max: int
    batch_parts_max: int = 8
    delay_max_ns: int = 0
    queue_items_max: int = 1_000_000
    sla: SLA | None = None
    offload_threshold_items: int | None = None
    reject_lost: bool = False
    divisions: tuple[Division, ...] = ()

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError("policy", self.policy, one_of(sorted(POLICIES), self.policy))
        for name in ("batch_items_max", "batch_parts_max", "queue_items_max"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "a whole number from 1")
        if self.delay_max_ns < 0:
            raise ConfigError("delay_max_ns", self.delay_max_ns, "a time in ns from 0")
        if self.offload_threshold_items is not None and self.offload_threshold_items < 1:
            allowed = "a whole number from 1, or None"
            raise ConfigError("offload_threshold_items", self.offload_threshold_items, allowed)
        for name, default in _OWN_SETTINGS.items():
            value = getattr(self, name)
            if value != default and name not in POLICIES[self.policy].settings:
                raise ConfigError(name, value, f"{default}: `{self.policy}` has no such setting")
        if POLICIES[self.policy].needs_sla and self.sla is None:
            raise ConfigError("sla", None, f"the percentile and limit that `{self.policy}` keeps")
        if self.policy == "divided" and not self.divisions:
            raise ConfigError(
                "divisions", None, "who has which workers; `divided` is for several models"
            )

    @property
    def batch_items_bound(self) -> int:
        """Most items of a batch on any worker: an offloaded query is one batch, however large."""
        offloads = self.offload_threshold_items is not None
        own = self.queue_items_max if offloads else self.batch_items_max
        return max([own, *(part.policy.batch_items_bound for part in self.divisions)])


@dataclass(frozen=True, slots=True)
class Division:
    """A part of the workers, and who has it.

    Args:
        models: names of the models whose queries it ranks.
        slots: its worker slots.
        policy: how it ranks them.
    """

    models: tuple[str, ...]
    slots: tuple[int, ...]
    policy: PolicyConfig


def divide_workers(*divisions: Division) -> PolicyConfig:
    """The policy `divided`: each part of the workers has its own models and its own policy.

    Raises:
        ConfigError: there is no part.
    """
    batch_items_max = max((part.policy.batch_items_max for part in divisions), default=1)
    return PolicyConfig(policy="divided", batch_items_max=batch_items_max, divisions=divisions)


# Settings that only some policies have, with the value that leaves them alone.
_OWN_SETTINGS = {
    "delay_max_ns": 0,
    "sla": None,
    "offload_threshold_items": None,
    "reject_lost": False,
    "divisions": (),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """How a policy is built.

    Args:
        build: from its settings and the fleet, if there is one.
        settings: names of those in `_OWN_SETTINGS` that it has.
        needs_sla: whether it decides by deadlines.
        mixes_devices: whether it deals every query out over all devices.
    """

    build: Callable[[PolicyConfig, Fleet | None], Scheduler]
    settings: frozenset[str] = frozenset()
    needs_sla: bool = False
    mixes_devices: bool = False


def _static(config: PolicyConfig, fleet: Fleet | None) -> Scheduler:
    return StaticScheduler(
        batch_items_max=config.batch_items_max, queue_items_max=config.queue_items_max
    )


def _coalescing(config: PolicyConfig, fleet: Fleet | None) -> Scheduler:
    return CoalescingScheduler(
        batch_items_max=config.batch_items_max,
        batch_parts_max=config.batch_parts_max,
        queue_items_max=config.queue_items_max,
        delay_max_ns=config.delay_max_ns,
    )


def _divided(config: PolicyConfig, fleet: Fleet | None) -> Scheduler:
    return DividedScheduler(
        [
            Section(part.models, part.slots, build_scheduler(part.policy, fleet))
            for part in config.divisions
        ]
    )


def _slack(config: PolicyConfig, fleet: Fleet | None) -> Scheduler:
    assert config.sla is not None, "checked by PolicyConfig"
    return SlackScheduler(
        batch_items_max=config.batch_items_max,
        batch_parts_max=config.batch_parts_max,
        queue_items_max=config.queue_items_max,
        sla=config.sla,
        fleet=_needed(fleet, config),
        reject_lost=config.reject_lost,
    )


def _needed(fleet: Fleet | None, config: PolicyConfig) -> Fleet:
    if fleet is None:
        allowed = f"workers and service-time tables, by which `{config.policy}` predicts"
        raise ConfigError("fleet", None, allowed)
    return fleet


def _deeprecsched(config: PolicyConfig, fleet: Fleet | None) -> Scheduler:
    return DeepRecSchedScheduler(
        batch_items_max=config.batch_items_max,
        queue_items_max=config.queue_items_max,
        offload_threshold_items=config.offload_threshold_items,
        devices=None if fleet is None else fleet.devices,
    )


def _kairos(config: PolicyConfig, fleet: Fleet | None) -> Scheduler:
    assert config.sla is not None, "checked by PolicyConfig"
    return KairosScheduler(
        batch_items_max=config.batch_items_max,
        queue_items_max=config.queue_items_max,
        sla=config.sla,
        fleet=_needed(fleet, config),
    )


POLICIES: dict[str, Policy] = {
    "static": Policy(_static),
    "coalescing": Policy(_coalescing, frozenset({"delay_max_ns"})),
    "deeprecsched": Policy(_deeprecsched, frozenset({"offload_threshold_items"})),
    "kairos": Policy(_kairos, frozenset({"sla"}), needs_sla=True, mixes_devices=True),
    "slack": Policy(_slack, frozenset({"sla", "reject_lost"}), needs_sla=True),
    "divided": Policy(_divided, frozenset({"divisions"})),
}


def build_scheduler(config: PolicyConfig, fleet: Fleet | None = None) -> Scheduler:
    """A fresh scheduler with empty queues and no workers; slots join by `on_workers`.

    Args:
        config: the policy and its settings.
        fleet: what a policy that predicts, or that tells devices apart, goes by.

    Raises:
        ConfigError: the policy wants a fleet and there is none, or not one that it can use.
    """
    return POLICIES[config.policy].build(config, fleet)


def static_baseline_batch(items_max: int, num_workers: int) -> int:
    """The static baseline's batch: the largest query spread over all workers.

    Source: DeepRecSys (ISCA 2020), section 6: 1000 items over 40 cores = batch 25.
    """
    return -(-items_max // num_workers)
