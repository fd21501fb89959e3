"""What a model's queries suffer from other models' load on the same machine, measured live.

The model keeps a fixed light load while the others' load rises; both kinds of sharing are measured:
workers divided evenly, where only caches and memory are shared, and all workers for all, where
queues are. Runs come in rounds and in shuffled order, so that a slow minute falls on all alike.

Source: Gupta et al. (HPCA 2020), section 5.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from scipy.special import stdtrit

from tailrank.characterization.colocation import JointLoad, TimedBatches
from tailrank.characterization.companion_tables import TenantTables
from tailrank.characterization.sharing_plans import SHARED
from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.scheduling.policies import Division, PolicyConfig, divide_workers

DIVIDED = "divided"
OWN_LOAD = 0.25  # of what the model's workers could do: light, so that its own queue is short
OTHERS_LOADS = (0.0, 0.2, 0.4, 0.6)


class Cell(NamedTuple):
    """A case: how workers are shared, whose latency is measured, the others' load."""

    sharing: str
    model: str
    others_load: float


class Sample(NamedTuple):
    """One run of a case: the model's latency percentiles in ns, and its ranker's ns per item."""

    latency_ns_p50: float
    latency_ns_p95: float
    latency_ns_p99: float
    service_ns_per_item: float


@dataclass(frozen=True, slots=True, eq=False)
class Contention:
    """All runs of all cases.

    Args:
        samples: a sample per round; a case that an interrupt left without any is absent.
        interrupted: True if a keyboard interrupt ended it early.
    """

    samples: dict[Cell, list[Sample]]
    interrupted: bool = False

    def ratio(self, cell: Cell, figure: str) -> tuple[float, float, float] | None:
        """How many times the figure is what it is without others' load.

        Returns:
            Geometric mean over rounds of the ratio within a round, and its 95 % interval (infinite
            with fewer than three rounds); None where a round is missing.
        """
        loaded, alone = self.samples.get(cell), self.samples.get(cell._replace(others_load=0.0))
        if not loaded or not alone:
            return None
        logs = [
            math.log(getattr(one, figure) / getattr(other, figure))
            for one, other in zip(loaded, alone, strict=False)
        ]
        mean = statistics.fmean(logs)
        half = math.inf
        if len(logs) > 2:
            student_t = float(stdtrit(len(logs) - 1, 0.975))
            half = student_t * statistics.stdev(logs) / math.sqrt(len(logs))
        return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def measure_contention(
    load: JointLoad,
    tables: dict[str, TenantTables],
    *,
    rounds: int,
    models: Sequence[str] = (),
    on_progress: Callable[[float, str], None] = lambda fraction, remark: None,
    announce: Callable[[str], None] = lambda text: None,
) -> Contention:
    """Measure every model's latency against the load of the others.

    A keyboard interrupt keeps the runs so far.

    Args:
        load: the models; at least as many workers, so that they can be divided.
        tables: tell what the workers can do, for loads to be shares of.
        rounds: runs of every case, from 1.
        models: whose latency to measure; empty: everyone's.
        on_progress: told the finished fraction, 0 to 1, and what is measured.
        announce: told how long the runs take, before the first.

    Raises:
        ConfigError: fewer workers than models, or no round.
        ServingError: a batch failed; says why.
    """
    if load.config.num_workers < len(load.tenants):
        allowed = f"at least {len(load.tenants)}, one for each model"
        raise ConfigError("--workers", load.config.num_workers, allowed)
    if rounds < 1:
        raise ConfigError("rounds", rounds, "a whole number from 1")
    names = models or [tenant.name for tenant in load.tenants]
    cells = [Cell(*case) for case in product((DIVIDED, SHARED), names, OTHERS_LOADS)]
    shuffle = random.Random(load.config.seed)
    order = [cell for _ in range(rounds) for cell in shuffle.sample(cells, len(cells))]
    lengths_s = {cell: load.run_seconds(_rates(load, tables, cell), cell.model) for cell in cells}
    whole_s = sum(lengths_s[cell] for cell in order)
    announce(f"contention: {len(order)} runs of {load.config.seconds:g} s or more, {whole_s:.0f} s")
    samples: dict[Cell, list[Sample]] = {}
    done_s = 0.0
    try:
        for cell in order:
            remark = f"{cell.model}, {cell.sharing}, others at {cell.others_load:.0%}"
            on_progress(done_s / whole_s, remark)
            samples.setdefault(cell, []).append(_run(load, tables, cell))
            done_s += lengths_s[cell]
    except KeyboardInterrupt:
        return Contention(samples, interrupted=True)
    on_progress(1.0, "")
    return Contention(samples)


def _run(load: JointLoad, tables: dict[str, TenantTables], cell: Cell) -> Sample:
    """One run of a case."""
    timed = TimedBatches()
    rates = _rates(load, tables, cell)
    run = load.live(_policy(load, cell.sharing), rates, timed, cell.model)[cell.model]
    summary = LatencySummary.of(run.latency_ns)
    return Sample(
        latency_ns_p50=summary.percentile(50.0).value,
        latency_ns_p95=summary.percentile(95.0).value,
        latency_ns_p99=summary.percentile(99.0).value,
        service_ns_per_item=timed.ns_per_item(cell.model),
    )


def _rates(load: JointLoad, tables: dict[str, TenantTables], cell: Cell) -> list[float]:
    """Queries per second of each model in a case."""
    slots = _slots(load, cell.sharing)
    divisor = 1 if cell.sharing == DIVIDED else max(1, len(load.tenants) - 1)
    rates = []
    for tenant in load.tenants:
        own_ns = tenant.mean_service_ns(tables[tenant.name].own, 1, load.config.seed)
        could_qps = len(slots[tenant.name]) * 1e9 / own_ns
        share = OWN_LOAD if tenant.name == cell.model else cell.others_load / divisor
        rates.append(share * could_qps)
    return rates


def _slots(load: JointLoad, sharing: str) -> dict[str, tuple[int, ...]]:
    """The workers of each model."""
    workers, models = load.config.num_workers, len(load.tenants)
    if sharing == SHARED:
        return {tenant.name: tuple(range(workers)) for tenant in load.tenants}
    bounds = [index * workers // models for index in range(models + 1)]
    return {
        tenant.name: tuple(range(bounds[index], bounds[index + 1]))
        for index, tenant in enumerate(load.tenants)
    }


def _policy(load: JointLoad, sharing: str) -> PolicyConfig:
    """Queries are not cut, so that what is measured is the machine and not the policy."""
    tops = {tenant.name: tenant.items_max(load.config.seed) for tenant in load.tenants}
    if sharing == SHARED:
        return PolicyConfig(policy="static", batch_items_max=max(tops.values()))
    slots = _slots(load, sharing)
    return divide_workers(
        *(
            Division((name,), slots[name], PolicyConfig(policy="static", batch_items_max=top))
            for name, top in tops.items()
        )
    )
