"""Several models on one machine: their joint load, simulated from tables or served for real.

Each model has its own queries, sizes and SLA; what a run shows is told model by model. Knows no
search and writes no file.

Source: Gupta et al., The Architectural Implications of Facebook's DNN-based Personalized
Recommendation (HPCA 2020), section 5: models beside each other slow one another down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailrank.characterization.load_test import check_answers
from tailrank.characterization.target import Target, initialise_worker
from tailrank.core.errors import ConfigError
from tailrank.core.fleet import Fleet
from tailrank.core.latency import queries_needed
from tailrank.core.query import Batch, Query
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.runtime.live import run_live
from tailrank.runtime.measurement import WARMUP_FRACTION
from tailrank.runtime.ports import RunBatch
from tailrank.runtime.record import RunResult
from tailrank.runtime.virtual import TableServiceTime, simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.query_sizes import parse_query_sizes
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

_SIZE_DRAWS = 200_000  # an unbounded size distribution is profiled up to the largest of these
MEAN_DRAWS = 1000  # sizes that stand for a distribution
# A run has at least this many times the queries that bound a model's percentile at all.
_QUERIES_FACTOR = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One of the models that share the machine.

    Args:
        target: the model and its queries.
        sla: what its users are promised.
        share: its share of all queries, above 0.
        sizes: items per query, see `workload.parse_query_sizes`.
    """

    target: Target
    sla: SLA
    share: float
    sizes: str

    def __post_init__(self) -> None:
        WorkloadConfig(sizes=self.sizes, items_limit=self.target.pool.num_items_max)
        if not 0.0 < self.share <= 1.0:
            raise ConfigError("share", self.share, "a number above 0, at most 1")

    @property
    def name(self) -> str:
        """Its model's name."""
        return self.target.name

    def items_max(self, seed: int) -> int:
        """The largest query: the distribution's bound, or the largest of many draws."""
        sizes = parse_query_sizes(self.sizes)
        return sizes.items_max or int(sizes.draw(_SIZE_DRAWS, seed).max())

    def mean_service_ns(self, table: ServiceTimeTable, busy_workers: int, seed: int) -> float:
        """What a query takes on one worker on average, uncut, that many workers being busy."""
        sizes = parse_query_sizes(self.sizes).draw(MEAN_DRAWS, seed)
        ids_per_item = table.axes["ids_per_item"][0]
        top = int(table.axes["num_items"][-1])
        times_ns = [
            table.lookup_ns(1, items, round(items * ids_per_item), busy_workers)
            for items in np.minimum(sizes, top).tolist()
        ]
        return float(np.mean(times_ns))


@dataclass(frozen=True, slots=True, kw_only=True)
class JointLoadConfig:
    """How models are put under load together.

    Args:
        num_workers: worker threads in all.
        seconds: length of one run; longer where a model's percentile needs more queries.
        seed: of arrivals, sizes and payloads.
    """

    num_workers: int
    seconds: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError("--workers", self.num_workers, "at least 1")
        if not self.seconds > 0:
            raise ConfigError("--duration", self.seconds, "a time above 0")
        if self.seed < 0:
            raise ConfigError("--seed", self.seed, "a whole number from 0")


class JointLoad:
    """Runs of all models together.

    Args:
        config: see `JointLoadConfig`.
        tenants: of different names.
    """

    def __init__(self, config: JointLoadConfig, tenants: Sequence[Tenant]) -> None:
        if len({tenant.name for tenant in tenants}) < len(tenants):
            names = [tenant.name for tenant in tenants]
            raise ConfigError("models", names, "models of different names")
        self.config, self.tenants = config, tuple(tenants)

    def run_seconds(self, qps: Sequence[float], judged: str | None = None) -> float:
        """Length of a run: as asked for, or until the percentile of who is judged is bounded.

        Args:
            qps: queries per second of each tenant, from 0; one above 0.
            judged: the model whose latencies count; None: every model's do.
        """
        needed_s = [
            _QUERIES_FACTOR * queries_needed(tenant.sla.percentile) / (1 - WARMUP_FRACTION) / rate
            for tenant, rate in zip(self.tenants, qps, strict=True)
            if rate > 0 and judged in (None, tenant.name)
        ]
        return max(self.config.seconds, *needed_s)

    def schedule(
        self, qps: Sequence[float], *, payloads: bool, judged: str | None = None
    ) -> list[Query]:
        """One schedule of all models' queries, each model's on its own Poisson process.

        Args:
            qps: see `run_seconds`.
            payloads: whether queries are to be served for real.
            judged: see `run_seconds`.
        """
        seconds = self.run_seconds(qps, judged)
        parts = [
            draw_schedule(
                self._workload(position),
                qps=rate,
                num_queries=max(1, round(rate * seconds)),
                payload_for=self.tenants[position].target.pool.payload if payloads else None,
            )
            for position, rate in enumerate(qps)
            if rate > 0
        ]
        # All models are under load to the end: the last one to stop alone would see an idle host.
        ends_ns = min(part[-1].scheduled_ns for part in parts)
        merged = sorted(
            (query for part in parts for query in part if query.scheduled_ns <= ends_ns),
            key=lambda query: query.scheduled_ns,
        )
        slas = {tenant.name: tenant.sla for tenant in self.tenants}
        return [
            Query(
                number,
                query.model,
                query.scheduled_ns,
                query.scheduled_ns + slas[query.model].latency_ns,
                query.num_items,
                query.num_ids,
                query.payload,
            )
            for number, query in enumerate(merged)
        ]

    def simulated(
        self, policy: PolicyConfig, fleet: Fleet, qps: Sequence[float]
    ) -> dict[str, RunResult]:
        """A run in simulated time, by model; see `schedule`.

        Raises:
            OutsideProfile: the policy makes batches that nobody measured.
        """
        schedule = self.schedule(qps, payloads=False)
        run = simulate(
            schedule,
            policy,
            num_workers=self.config.num_workers,
            service_time_ns=TableServiceTime(fleet, seed=self.config.seed),
            fleet=fleet,
        )
        return runs_by_model(run, schedule, policy)

    def live(
        self,
        policy: PolicyConfig,
        qps: Sequence[float],
        timed: TimedBatches | None = None,
        judged: str | None = None,
    ) -> dict[str, RunResult]:
        """A run on this host, with real features and scores, by model; see `schedule`.

        Args:
            policy: the policy.
            qps: queries per second of each tenant.
            timed: takes the time of every batch.
            judged: see `run_seconds`.

        Raises:
            ServingError: a batch failed; says why.
        """
        schedule = self.schedule(qps, payloads=True, judged=judged)
        run_batch = run_batch_of([tenant.target for tenant in self.tenants])
        run = run_live(
            schedule,
            policy,
            num_workers=self.config.num_workers,
            run_batch=run_batch if timed is None else timed.around(run_batch),
            initialise_worker=initialise_worker,
        )
        check_answers(run)
        return runs_by_model(run, schedule, policy)

    def _workload(self, position: int) -> WorkloadConfig:
        tenant, seed = self.tenants[position], len(self.tenants) * self.config.seed + position
        return WorkloadConfig(
            sizes=tenant.sizes,
            ids_per_item=tenant.target.ids_per_item,
            model=tenant.name,
            arrival_seed=seed,
            size_seed=seed,
            payload_seed=seed,
        )


class TimedBatches:
    """The time that each model's ranker took of a worker, batch by batch, in ns, with its items."""

    def __init__(self) -> None:
        self.by_model: dict[str, list[tuple[int, int]]] = {}
        self._lock = threading.Lock()

    def around(self, run_batch: RunBatch) -> RunBatch:
        """The same, timed."""

        def run(batch: Batch) -> Sequence[object]:
            started_ns = time.perf_counter_ns()
            results = run_batch(batch)
            row = (time.perf_counter_ns() - started_ns, batch.num_items)
            with self._lock:
                self.by_model.setdefault(batch.parts[0].query.model, []).append(row)
            return results

        return run

    def ns_per_item(self, model: str) -> float:
        """Time over items, of all batches of a model together."""
        times_ns, items = np.array(self.by_model[model]).sum(axis=0)
        return float(times_ns / items)


def run_batch_of(targets: Sequence[Target]) -> RunBatch:
    """What a worker does with a batch of any of several models."""
    runners = {target.name: target.run_batch for target in targets}
    return lambda batch: runners[batch.parts[0].query.model](batch)


def runs_by_model(
    run: RunResult, schedule: Sequence[Query], policy: PolicyConfig
) -> dict[str, RunResult]:
    """A run as each model saw it: its own queries, on the workers that it has.

    Args:
        run: of that schedule.
        schedule: queries of several models.
        policy: tells who has which workers; all have all unless it divides them.
    """
    models = np.array([query.model for query in schedule])
    everyone = tuple(range(run.num_workers))
    slots = {model: part.slots for part in policy.divisions for model in part.models}
    return {
        str(model): run.only(models == model, slots.get(str(model), everyone))
        for model in np.unique(models)
    }
