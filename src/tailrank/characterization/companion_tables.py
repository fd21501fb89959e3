"""How long a model's batches take while the other workers run other models.

Two tables of each model are measured: beside itself, and beside the others' queries. What a worker
meets under a plan lies between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailrank.characterization.colocation import MEAN_DRAWS, JointLoadConfig, Tenant
from tailrank.characterization.load_test import measure_profile
from tailrank.characterization.service_time import NUM_ITEMS_GRID, ProfileConfig
from tailrank.core.errors import RequestError
from tailrank.core.fleet import CPU, Fleet
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.core.service_time import ServiceTimeTable
from tailrank.workload.query_sizes import parse_query_sizes


@dataclass(frozen=True, slots=True)
class TenantTables:
    """How long one model's batches take on this host.

    Args:
        own: while the other busy workers run the same model.
        beside: while they run queries of the other models, by their shares of the load.
    """

    own: ServiceTimeTable
    beside: ServiceTimeTable

    def blend(self, own_share: float) -> ServiceTimeTable:
        """The table for neighbours of which this share runs the same model.

        An approximation: what neighbours cost is taken as linear in their mix.
        """
        own, beside = self.own, self.beside
        pooled = np.concatenate([own.spread, beside.spread])
        quantiles = (np.arange(len(own.spread)) + 0.5) / len(own.spread)
        return replace(
            own,
            median_ns=own_share * own.median_ns + (1.0 - own_share) * beside.median_ns,
            spread=np.quantile(pooled, quantiles),
        )


def companion(tenants: Sequence[Tenant], seed: int) -> Callable[[int], object]:
    """What a worker does that is busy with these models: whole queries, by their shares.

    Returns:
        Runs one query, drawn anew, on the calling thread, which has that slot.
    """
    draws: dict[int, random.Random] = {}
    sizes = {it.name: parse_query_sizes(it.sizes).draw(MEAN_DRAWS, seed) for it in tenants}
    shares = [tenant.share for tenant in tenants]

    def run(slot: int) -> object:
        draw = draws.setdefault(slot, random.Random(slot))
        (tenant,) = draw.choices(tenants, shares)
        num_items = int(draw.choice(sizes[tenant.name]))
        payload = tenant.target.pool.payload(draw.randrange(1 << 31), num_items)
        query = Query(0, tenant.name, 0, None, num_items, 0, payload)
        return tenant.target.run_batch(Batch(0, slot, (BatchPart(query, 0, num_items),)))

    return run


def measure_tenants(
    tenants: Sequence[Tenant],
    config: JointLoadConfig,
    *,
    budget_s: float,
    on_progress: Callable[[float, str], None],
    announce: Callable[[str], None],
) -> dict[str, TenantTables]:
    """The service times of every model, beside itself and beside the others.

    Args:
        tenants: at least two.
        config: how many workers there are, and the seed.
        budget_s: time for all tables together.
        on_progress: told the finished fraction, 0 to 1, and what is measured.
        announce: told what the budget left no time for, if anything.

    Raises:
        RequestError: the budget does not hold one batch of every size.
    """
    measured: list[ServiceTimeTable] = []
    for tenant in tenants:
        others = companion([it for it in tenants if it is not tenant], config.seed)
        for beside in (None, others):

            def advance(fraction: float, remark: str, name: str = tenant.name) -> None:
                finished = (len(measured) + fraction) / (2 * len(tenants))
                on_progress(finished, f"{name}: {remark}")

            profile = _profile_config(tenant, config, budget_s / (2 * len(tenants)))
            try:
                table = measure_profile(tenant.target, profile, advance, announce, beside=beside)
            except RequestError as error:
                each = f"{error.reason} for each of {2 * len(tenants)} tables"
                raise RequestError("--profile-budget", each) from None
            measured.append(table)
    names = [tenant.name for tenant in tenants]
    pairs = zip(names, measured[::2], measured[1::2], strict=True)
    return {name: TenantTables(own, beside) for name, own, beside in pairs}


def _profile_config(tenant: Tenant, config: JointLoadConfig, budget_s: float) -> ProfileConfig:
    """A grid that holds every batch of the model's queries."""
    top = tenant.items_max(config.seed)
    return ProfileConfig(
        num_items=(*(items for items in NUM_ITEMS_GRID[::2] if items < top), top),
        num_parts=(1,),
        num_workers=config.num_workers,
        budget_s=budget_s,
        seed=config.seed,
    )


def fleet_of(
    tables: dict[str, TenantTables], own_shares: dict[str, float], num_workers: int
) -> Fleet:
    """The fleet of a plan.

    Args:
        tables: of every model.
        own_shares: by model, the share of a worker's busy neighbours that runs the same one.
        num_workers: workers in all.
    """
    blended = {(name, CPU): tables[name].blend(own_shares[name]) for name in tables}
    return Fleet((CPU,) * num_workers, blended)
