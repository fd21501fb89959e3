"""The ways to share one machine's workers among several models: all by all, or divided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tailrank.characterization.colocation import JointLoad, Tenant
from tailrank.characterization.companion_tables import TenantTables, fleet_of
from tailrank.core.fleet import Fleet
from tailrank.scheduling.policies import (
    Division,
    PolicyConfig,
    divide_workers,
    static_baseline_batch,
)

SHARED = "shared"
_BATCHES = (128, 256)  # tried beside whole queries and the static baseline's batch
_WORKERS_AROUND = 2  # a division gives a model so many workers more or fewer than its work, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to share the workers.

    Args:
        name: `shared`, or the workers of each model, in order: `divided 1+1`.
        policy: it as a policy.
        fleet: service times under it.
    """

    name: str
    policy: PolicyConfig
    fleet: Fleet


def divisions(load: JointLoad, tables: dict[str, TenantTables]) -> list[tuple[int, ...]]:
    """Workers of each model, for every division near each one's share of the work.

    None where there are more models than workers.
    """
    workers = load.config.num_workers
    fair = [workers * share for share in work_shares(load, tables).values()]

    def complete(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        left, missing = workers - sum(counts), len(fair) - len(counts)
        if missing == 0:
            if left == 0:
                yield counts
            return
        for count in range(1, left - missing + 2):
            if abs(count - fair[len(counts)]) < _WORKERS_AROUND:
                yield from complete((*counts, count))

    return list(complete(()))


def work_shares(load: JointLoad, tables: dict[str, TenantTables]) -> dict[str, float]:
    """The share of the workers' time that each model takes."""
    work = {
        tenant.name: tenant.share
        * tenant.mean_service_ns(tables[tenant.name].own, 1, load.config.seed)
        for tenant in load.tenants
    }
    total = sum(work.values())
    return {name: part / total for name, part in work.items()}


def divided_plan(
    load: JointLoad,
    tables: dict[str, TenantTables],
    counts: Sequence[int],
    batches: Sequence[int],
) -> Plan:
    """The plan that gives each model so many workers, and cuts its queries so."""
    parts, own_shares, first = [], {}, 0
    for tenant, count, batch in zip(load.tenants, counts, batches, strict=True):
        slots = tuple(range(first, first + count))
        policy = PolicyConfig(policy="static", batch_items_max=batch)
        parts.append(Division((tenant.name,), slots, policy))
        own_shares[tenant.name] = (count - 1) / (load.config.num_workers - 1)
        first += count
    return Plan(
        name="divided " + "+".join(map(str, counts)),
        policy=divide_workers(*parts),
        fleet=fleet_of(tables, own_shares, load.config.num_workers),
    )


def shared_plan(load: JointLoad, tables: dict[str, TenantTables], batch: int) -> Plan:
    """The plan that lets every worker rank every model, first in, first out."""
    return Plan(
        name=SHARED,
        policy=PolicyConfig(policy="static", batch_items_max=batch),
        fleet=fleet_of(tables, work_shares(load, tables), load.config.num_workers),
    )


def batches_of(tenant: Tenant, num_workers: int, seed: int) -> list[int]:
    """Batch sizes worth a try: on one worker a query is only slowed down by being cut."""
    top = tenant.items_max(seed)
    if num_workers == 1:
        return [top]
    sizes = {static_baseline_batch(top, num_workers), *_BATCHES, top}
    return sorted(size for size in sizes if size <= top)
