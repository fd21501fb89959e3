"""Models on one machine as metrics, intervals, verdict and tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tailrank.characterization.colocation import JointLoad, Tenant
from tailrank.characterization.contention import OTHERS_LOADS, Cell, Contention
from tailrank.characterization.worker_division import Colocation, PlanCapacity
from tailrank.core.measurement import Validity
from tailrank.core.names import percentile_name, plain_names
from tailrank.reporting.tables import number, table_of

_RATIOS = ("latency_ns_p50", "latency_ns_p95", "latency_ns_p99", "service_ns_per_item")


def metrics(load: JointLoad, found: Colocation) -> dict[str, float]:
    """The flat metrics: of the best plan, of every plan, of every model.

    A plan that was not served has no `capacity_qps`, only `simulated_capacity_qps`.
    """
    flat = {"dedicated.simulated_capacity_qps": found.dedicated_qps}
    for one in found.plans:
        prefix = _plan_name(one)
        flat[f"{prefix}.simulated_capacity_qps"] = one.simulated.capacity_qps
        if one.live is not None:
            flat[f"{prefix}.capacity_qps"] = one.live.capacity_qps
    for tenant, name in _named(load.tenants):
        tables, workers = found.tables[tenant.name], load.config.num_workers
        alone_ns = tenant.mean_service_ns(tables.own, 1, load.config.seed)
        beside_ns = tenant.mean_service_ns(tables.beside, workers, load.config.seed)
        flat[f"{name}.service_ratio_beside_others"] = beside_ns / alone_ns
    if found.plans:
        flat |= _metrics_of_best(load, found.plans[0])
    return flat


def _metrics_of_best(load: JointLoad, best: PlanCapacity) -> dict[str, float]:
    """The load that the best plan holds, and each model's latencies there."""
    kind = "simulated_" if best.live is None else ""
    flat = {f"best.{kind}capacity_qps": best.best.capacity_qps}
    if best.best.capacity_qps:
        flat[f"best.{kind}capacity_items_per_s"] = best.best.at.achieved_items_per_s
    for (tenant, name), own in zip(_named(load.tenants), best.best_at, strict=True):
        flat[f"{name}.{kind}qps"] = own.offered_qps
        for percentile in sorted({95.0, 99.0, tenant.sla.percentile}):
            value_ns = own.summary.percentile(percentile).value
            flat[f"{name}.{kind}latency_ms_{percentile_name(percentile)}"] = value_ns / 1e6
    return flat


def intervals(found: Colocation) -> dict[str, tuple[float, float]]:
    """Brackets of the plans' capacities."""
    flat = {}
    for one in found.plans:
        prefix, simulated = _plan_name(one), one.simulated
        flat[f"{prefix}.simulated_capacity_qps"] = (simulated.low_qps, simulated.high_qps)
        if one.live is not None:
            flat[f"{prefix}.capacity_qps"] = (one.live.low_qps, one.live.high_qps)
    return flat


def validity(found: Colocation, contention: Contention | None = None) -> Validity:
    """What speaks against the best plan's figures."""
    reasons = [
        f"{one.plan.name}: {reason}"
        for one in found.plans[:1]
        for reason in one.best.invalid_reasons
    ]
    if found.interrupted or (contention is not None and contention.interrupted):
        reasons.append("interrupted: not everything was measured")
    return Validity(tuple(reasons))


def contention_metrics(
    load: JointLoad, contention: Contention
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Ratios to the model's own figures without others' load, and their intervals."""
    flat: dict[str, float] = {}
    bounds: dict[str, tuple[float, float]] = {}
    names = {tenant.name: name for tenant, name in _named(load.tenants)}
    for cell in contention.samples:
        if cell.others_load == 0.0:
            continue
        place = f"{cell.sharing}.{names[cell.model]}.others_{round(100 * cell.others_load)}"
        for figure in _RATIOS:
            ratio = contention.ratio(cell, figure)
            if ratio is not None:
                name = f"contention.{place}.{figure.replace('_ns', '_ratio', 1)}"
                flat[name], bounds[name] = ratio[0], ratio[1:]
    return flat, bounds


def plan_table(load: JointLoad, found: Colocation) -> Table:
    """Every plan: queries/s of all models, simulated and live, and each model's percentile."""
    headings = ["workers", "queries/s", "live", "items/s"]
    headings += [f"{tenant.name} p{tenant.sla.percentile:g} ms" for tenant in load.tenants]
    rows = []
    for one in found.plans:
        live = "-" if one.live is None else number(one.live.capacity_qps)
        percentiles = [
            number(own.summary.percentile(tenant.sla.percentile).value / 1e6)
            for tenant, own in zip(load.tenants, one.best_at, strict=True)
        ]
        items = one.best.at.achieved_items_per_s if one.best.capacity_qps else 0.0
        simulated = number(one.simulated.capacity_qps)
        rows.append([one.plan.name, simulated, live, number(items), *percentiles])
    dedicated = ["dedicated", number(found.dedicated_qps), "-", "-"]
    rows.append(dedicated + ["-"] * len(load.tenants))
    headings[1] = "simulated queries/s"
    return table_of(headings, rows, left=("workers",))


def contention_table(contention: Contention) -> Table:
    """p95 and service time against the others' load, as ratios to none."""
    headings = ["model", "workers", "figure", *(f"others {load:.0%}" for load in OTHERS_LOADS[1:])]
    rows = []
    cases = dict.fromkeys((cell.model, cell.sharing) for cell in contention.samples)
    for model, sharing in cases:
        for figure, label in (("latency_ns_p95", "p95"), ("service_ns_per_item", "service time")):
            cells = [Cell(sharing, model, load) for load in OTHERS_LOADS[1:]]
            ratios = [contention.ratio(cell, figure) for cell in cells]
            shown = ["-" if ratio is None else f"{ratio[0]:.2f}x" for ratio in ratios]
            rows.append([model, sharing, label, *shown])
    return table_of(headings, rows, left=("model", "workers", "figure"))


def _named(tenants: Sequence[Tenant]) -> list[tuple[Tenant, str]]:
    """Every model with its name in metrics."""
    names = plain_names((tenant.name for tenant in tenants), "model")
    return [(tenant, names[tenant.name]) for tenant in tenants]


def _plan_name(one: PlanCapacity) -> str:
    """`divided 1+1` as a metric has it: `divided_1_1`."""
    return one.plan.name.replace(" ", "_").replace("+", "_")
