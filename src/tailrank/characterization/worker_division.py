"""Who should have which workers, so that several models on one machine all keep their SLAs.

For fixed shares of the load, every sensible division of the workers is simulated from tables that
were measured with the other models at work; the best division, and all workers shared by all, are
then served for real. Knows no command line and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tailrank.characterization.colocation import (
    JointLoad,
    JointLoadConfig,
    Tenant,
)
from tailrank.characterization.companion_tables import TenantTables, measure_tenants
from tailrank.characterization.sharing_plans import (
    SHARED,
    Plan,
    batches_of,
    divided_plan,
    divisions,
    shared_plan,
)
from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.sla import SLA
from tailrank.runtime.measurement import to_measurement
from tailrank.runtime.record import RunResult
from tailrank.tuning.capacity import (
    Capacity,
    Verdict,
    find_capacity,
    judge_probe,
    verify_capacity,
)

_FIRST_LOAD = 0.5  # of what the workers could do if no query ever waited
_LIVE_PROBES = 6

OnProgress = Callable[[str, float, str], None]
"""Told the stage, its finished fraction (0 to 1) and a remark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCapacity:
    """The largest load at which every model keeps its SLA under one plan.

    Args:
        plan: how the workers are shared.
        simulated: from the tables; loads are of all models together.
        simulated_at: each model's measurement at that capacity (or at the lowest load tried).
        live: measured on this host; None where that was not asked for or not reached.
        live_at: each model's measurement there.
    """

    plan: Plan
    simulated: Capacity
    simulated_at: tuple[Measurement, ...]
    live: Capacity | None = None
    live_at: tuple[Measurement, ...] = ()

    @property
    def best(self) -> Capacity:
        """The live capacity where there is one."""
        return self.live or self.simulated

    @property
    def best_at(self) -> tuple[Measurement, ...]:
        """The measurements that go with `best`."""
        return self.simulated_at if self.live is None else self.live_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Colocation:
    """What the search found.

    Args:
        tables: each model's service times.
        dedicated_qps: load of the same mix if the machine's time went from model to model, none
            ever beside another: what as many machines of their own would hold in all, per machine,
            simulated; 0 where a model alone misses its SLA.
        plans: every simulated plan, the best first; what was served counts for more.
        interrupted: True if a keyboard interrupt ended the search or the live runs early.
    """

    tables: dict[str, TenantTables]
    dedicated_qps: float
    plans: tuple[PlanCapacity, ...] = ()
    interrupted: bool = False


OnLoad = Callable[[Plan, float], None]
"""Told the plan and the load that is about to be measured."""


@dataclass(slots=True)
class _Probes:
    """Measures one plan at one load, and judges it by every model's SLA."""

    tenants: Sequence[Tenant]
    run: Callable[[Plan, list[float]], dict[str, RunResult]]
    on_load: OnLoad
    seen: dict[float, tuple[Measurement, ...]] = field(default_factory=dict)

    def measure(self, plan: Plan, qps: float) -> Measurement:
        """All models together; each one's own measurement is kept in `seen`."""
        self.on_load(plan, qps)
        rates = [qps * tenant.share for tenant in self.tenants]
        runs = self.run(plan, rates)
        self.seen[qps] = tuple(
            to_measurement(runs[tenant.name], offered_qps=rate, sla=tenant.sla)
            for tenant, rate in zip(self.tenants, rates, strict=True)
        )
        return joined(self.tenants, self.seen[qps], qps)

    def judge(self, measurement: Measurement, _: SLA) -> Verdict:
        """A miss where one model misses, a pass where all pass."""
        verdicts = {
            judge_probe(own, tenant.sla)
            for tenant, own in zip(self.tenants, self.seen[measurement.offered_qps], strict=True)
        }
        for verdict in (Verdict.MISS, Verdict.UNDECIDED):
            if verdict in verdicts:
                return verdict
        return Verdict.PASS


def joined(
    tenants: Sequence[Tenant], measurements: Sequence[Measurement], qps: float
) -> Measurement:
    """The measurement of all models together; it is valid where each one's is."""
    latencies = np.concatenate([own.summary.sorted_ns for own in measurements])
    reasons = [
        "{}: {}: {}".format(*_coded(reason, tenant.name))
        for tenant, own in zip(tenants, measurements, strict=True)
        for reason in own.validity.reasons
    ]
    return Measurement(
        offered_qps=qps,
        achieved_qps=sum(own.achieved_qps for own in measurements),
        achieved_items_per_s=sum(own.achieved_items_per_s for own in measurements),
        num_rejected=sum(own.num_rejected for own in measurements),
        num_failed=sum(own.num_failed for own in measurements),
        summary=LatencySummary.of(latencies),
        validity=Validity(tuple(reasons)),
    )


def _coded(reason: str, name: str) -> tuple[str, str, str]:
    """A reason's code first, as those who look for it expect, then whose it is."""
    code, _, sentence = reason.partition(": ")
    return code, name, sentence


def find_division(
    tenants: Sequence[Tenant],
    config: JointLoadConfig,
    *,
    profile_seconds: float,
    live: bool = True,
    on_progress: OnProgress = lambda stage, fraction, remark: None,
    announce: Callable[[str], None] = lambda text: None,
) -> Colocation:
    """Profile every model beside the others, simulate every plan, serve the best ones.

    A keyboard interrupt keeps what is known, once the tables are.

    Args:
        tenants: at least two, whose shares add up to 1.
        config: workers, length of each run, seed.
        profile_seconds: time for all tables.
        live: whether to serve the best division, and the workers shared, on this host.
        on_progress: see `OnProgress`.
        announce: told what the profile's budget left no time for, if anything, and how long the
            live runs take.

    Raises:
        ConfigError: fewer than two models, or shares that do not add up to 1.
        RequestError: the budget does not hold one batch of every size.
    """
    if len(tenants) < 2:
        raise ConfigError("models", [it.name for it in tenants], "at least two, to share a machine")
    if abs(sum(tenant.share for tenant in tenants) - 1.0) > 1e-9:
        raise ConfigError("shares", [tenant.share for tenant in tenants], "shares that add up to 1")
    load = JointLoad(config, tenants)
    tables = measure_tenants(
        tenants,
        config,
        budget_s=profile_seconds,
        on_progress=lambda fraction, remark: on_progress("profile", fraction, remark),
        announce=announce,
    )
    known = [Colocation(tables=tables, dedicated_qps=0.0)]
    try:
        for found in _simulate(load, tables, on_progress):
            known.append(found)
        if live:
            for found in _serve(load, known[-1], on_progress, announce):
                known.append(found)
    except KeyboardInterrupt:
        return replace(known[-1], interrupted=True)
    return known[-1]


def _simulate(
    load: JointLoad, tables: dict[str, TenantTables], on_progress: OnProgress
) -> Iterator[Colocation]:
    """What is known after each simulated plan."""
    tenants, config = load.tenants, load.config
    shapes = divisions(load, tables)
    steps = len(tenants) + len(shapes) + 1
    done = 0

    def on_load(plan: Plan, qps: float) -> None:
        on_progress("simulate", done / steps, f"{plan.name} at {qps:,.0f} queries/s")

    hours, batches = 0.0, {}
    for position, tenant in enumerate(tenants):
        counts = {shape[position] for shape in shapes} | {config.num_workers}
        for count in sorted(counts):
            best = _best_alone(tenant, replace(config, num_workers=count), tables, on_load)
            batches[tenant.name, count] = best.plan.policy.batch_items_max
        qps = best.simulated.capacity_qps  # of all workers: they come last
        hours += tenant.share / qps if qps else math.inf
        done += 1
    found = Colocation(tables=tables, dedicated_qps=1.0 / hours)
    shared = sorted({batches[tenant.name, config.num_workers] for tenant in tenants})
    candidates = [[shared_plan(load, tables, batch) for batch in shared]]
    for shape in shapes:
        cuts = [batches[tenant.name, n] for tenant, n in zip(tenants, shape, strict=True)]
        candidates.append([divided_plan(load, tables, shape, cuts)])
    for plans in candidates:
        best = _best(load, plans, on_load)
        found = replace(found, plans=_ranked([*found.plans, best]))
        done += 1
        yield found
    on_progress("simulate", 1.0, f"best: {found.plans[0].plan.name}")


def _best_alone(
    tenant: Tenant,
    config: JointLoadConfig,
    tables: dict[str, TenantTables],
    on_load: OnLoad,
) -> PlanCapacity:
    """A model that has so many workers, and nobody beside it, with the batch that suits it."""
    alone = JointLoad(config, [replace(tenant, share=1.0)])
    own = {tenant.name: tables[tenant.name]}
    batches = batches_of(tenant, config.num_workers, config.seed)
    return _best(alone, [shared_plan(alone, own, batch) for batch in batches], on_load)


def _best(load: JointLoad, plans: Sequence[Plan], on_load: OnLoad) -> PlanCapacity:
    """The simulated plan of the largest capacity."""
    seen = [_simulated(load, plan, on_load) for plan in plans]
    return max(seen, key=lambda one: one.simulated.capacity_qps)


def _serve(
    load: JointLoad,
    found: Colocation,
    on_progress: OnProgress,
    announce: Callable[[str], None],
) -> Iterator[Colocation]:
    """What is known after each plan that was served: the best division, and the workers shared."""
    shared = [it for it in found.plans if it.plan.name == SHARED]
    divided = [it for it in found.plans if it.plan.name != SHARED]
    chosen = [it for it in (*shared[:1], *divided[:1]) if it.simulated.capacity_qps]
    for contender in chosen:
        announce(_live_plan(load, contender))
    for index, contender in enumerate(chosen):
        probes = 0

        def on_load(plan: Plan, qps: float, index: int = index) -> None:
            nonlocal probes
            fraction = (index + min(1.0, probes / _LIVE_PROBES)) / len(chosen)
            on_progress("live", fraction, f"{plan.name} at {qps:,.0f} queries/s")
            probes += 1

        measured = _Probes(load.tenants, lambda plan, rates: load.live(plan.policy, rates), on_load)
        capacity = verify_capacity(
            measured.measure,
            contender.plan,
            load.tenants[0].sla,
            expected_qps=contender.simulated.capacity_qps,
            num_probes_max=_LIVE_PROBES,
            judge=measured.judge,
        )
        proven = replace(contender, live=capacity, live_at=measured.seen[capacity.at.offered_qps])
        others = [it for it in found.plans if it is not contender]
        found = replace(found, plans=_ranked([proven, *others]))
        yield found
    on_progress("live", 1.0, "")


def _live_plan(load: JointLoad, contender: PlanCapacity) -> str:
    """How long it takes to serve a plan, and for whose sake its runs are longer than asked for."""
    qps = contender.simulated.capacity_qps
    rates = [qps * tenant.share for tenant in load.tenants]
    seconds, asked_s = load.run_seconds(rates), load.config.seconds
    text = f"{contender.plan.name}: up to {_LIVE_PROBES} live runs of {seconds:.3g} s"
    if seconds <= asked_s:
        return text
    names = [tenant.name for tenant in load.tenants]
    slowest = max(range(len(names)), key=lambda each: load.run_seconds(rates, names[each]))
    percentile = load.tenants[slowest].sla.percentile
    return (
        f"{text} rather than {asked_s:g} s: {names[slowest]} has {rates[slowest]:.3g} queries/s, "
        f"too few to bound its p{percentile:g} sooner"
    )


def _ranked(plans: list[PlanCapacity]) -> tuple[PlanCapacity, ...]:
    """The best first: those that were served before those that were not."""

    def merit(seen: PlanCapacity) -> tuple[bool, float]:
        return seen.live is not None, seen.best.capacity_qps

    return tuple(sorted(plans, key=merit, reverse=True))


def _simulated(load: JointLoad, plan: Plan, on_load: OnLoad) -> PlanCapacity:
    """The capacity of a plan in simulation."""
    probes = _Probes(
        load.tenants, lambda plan, rates: load.simulated(plan.policy, plan.fleet, rates), on_load
    )
    busy_ns = sum(
        tenant.share * tenant.mean_service_ns(plan.fleet.table(tenant.name, 0), 1, load.config.seed)
        for tenant in load.tenants
    )
    capacity = find_capacity(
        probes.measure,
        plan,
        load.tenants[0].sla,
        start_qps=_FIRST_LOAD * load.config.num_workers * 1e9 / busy_ns,
        judge=probes.judge,
    )
    at = probes.seen[capacity.at.offered_qps]
    return PlanCapacity(plan=plan, simulated=capacity, simulated_at=at)
