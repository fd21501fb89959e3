"""The simulated half of `bench_policies.py`: what each policy holds in a cell, and the oracle.

A cell is a preset, a distribution of query sizes and an SLA. All policies of a cell see the same
queries at scaled times, and are judged on what these show: p95 inside the SLA, p99 inside three
times it, no reject, the queue drained. Knows nothing of what measured the service times.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tailrank.characterization.load_test import LoadTestConfig, simulate_load
from tailrank.core.fleet import Fleet
from tailrank.core.measurement import Measurement
from tailrank.core.query import Query
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import PolicyConfig, static_baseline_batch
from tailrank.tuning.candidate import Candidate, SearchSpace
from tailrank.tuning.capacity import Verdict, find_capacity, judge_probe, verify_capacity
from tailrank.tuning.halving import successive_halving
from tailrank.tuning.search import BATCH_LADDER, SearchResult
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

# p95 targets of DeepRecSys (ISCA 2020) in ms, some as reported by others.
PAPER_P95_MS = {
    "ncf": 5.0,
    "wide-and-deep": 25.0,
    "mt-wide-and-deep": 25.0,
    "dlrm-rmc1": 100.0,
    "dlrm-rmc2": 400.0,
    "dlrm-rmc3": 100.0,
    "din": 100.0,
    "dien": 35.0,
}
SIZES = ("production", "mlperf")
SLA_CLASSES = ("paper", "tenth", "tight")
ITEMS_MAX = 1000
# Batch sizes of the oracle's grid: the ladder that searches walk, and half-way rungs.
ORACLE_BATCHES = tuple(sorted({*BATCH_LADDER, 80, 112, 160, 224, 320, 448, 640, 896}))
TIGHT_FACTOR = 3.0  # times the mean query on one worker
P99_FACTOR = 3
# Loads and capacities are told apart to this share.
TOLERANCE = 0.005
# Less than this share of what the workers could do is chance in a few quiet seconds: no load.
_SERVED_SHARE = 0.01
# Of the load without any queue: where the very first search of a cell begins.
_FIRST_LOAD = 0.6
# Slower than p99 allows this share of queries may be: their work may be left out of a bound.
_SLOW_SHARE = 0.01
# Queries of the runs of a search's rounds, as shares of the longest.
_SEARCH_ROUNDS = (1 / 16, 1 / 4, 1)
_SEARCH_QUERIES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Cell:
    """A preset, the sizes of its queries and how tight its SLA is."""

    preset: str
    sizes: str
    sla_class: str

    @property
    def model(self) -> str:
        """The preset in names of metrics."""
        return self.preset.removeprefix("dlrm-").replace("-", "_")

    @property
    def name(self) -> str:
        """In names of metrics: `rmc1.production.tenth`."""
        return f"{self.model}.{self.sizes}.{self.sla_class}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFound:
    """What the policies hold in a cell, in queries/s; 0 where no load to speak of meets the SLA.

    Args:
        cell: which.
        sla_ms: its p95.
        baseline_qps: static, the largest query spread over all workers.
        static_qps: the best of all static batches.
        static_batch: that batch.
        slack_qps: the best of all slack batches, from the same grid.
        slack_batch: that batch.
        slack_untuned_qps: slack with the largest batch that was measured.
        search_over_oracle: what a search of short runs chose over the best of the same space, both
            at full length; None where that was not asked for.
        search_s: CPU time of that search.
    """

    cell: Cell
    sla_ms: float
    baseline_qps: float
    static_qps: float
    static_batch: int
    slack_qps: float
    slack_batch: int
    slack_untuned_qps: float
    search_over_oracle: float | None
    search_s: float


def sla_of(cell: Cell, table: ServiceTimeTable) -> SLA:
    """The p95 of a cell."""
    paper_ns = PAPER_P95_MS[cell.preset] * 1e6
    if cell.sla_class == "paper":
        return SLA(95.0, round(paper_ns))
    if cell.sla_class == "tenth":
        return SLA(95.0, round(paper_ns / 10))
    sizes = WorkloadConfig(sizes=cell.sizes).query_sizes().draw(100_000, 0)
    items = round(float(sizes.mean()))
    mean_ns = table.lookup_ns(1, items, round(items * table.axes["ids_per_item"][0]), 1)
    return SLA(95.0, round(TIGHT_FACTOR * mean_ns))


def p99_bound(sla: SLA) -> SLA:
    """What is asked of p99 beside the SLA."""
    return SLA(99.0, P99_FACTOR * sla.latency_ns)


def judge_seen(measurement: Measurement, sla: SLA) -> Verdict:
    """Both bounds, on the queries that were seen; rejects count as a miss."""
    return judge_probe(
        measurement, sla, bounds=(p99_bound(sla),), allow_rejects=False, certain=False
    )


def static_policy(batch_items_max: int) -> PolicyConfig:
    """Static with this batch."""
    return PolicyConfig(policy="static", batch_items_max=batch_items_max)


def baseline_policy(num_workers: int) -> PolicyConfig:
    """The static baseline of DeepRecSys."""
    return static_policy(static_baseline_batch(ITEMS_MAX, num_workers))


def slack_policy(sla: SLA, batch_items_max: int = ITEMS_MAX) -> PolicyConfig:
    """Slack; by itself it batches as it likes."""
    return PolicyConfig(policy="slack", batch_items_max=batch_items_max, sla=sla)


class Simulation:
    """One cell, simulated; a load that was seen is not simulated again.

    Args:
        config: the workload, the SLA and the length of a run.
        table: service times; all workers are alike.
    """

    def __init__(self, config: LoadTestConfig, table: ServiceTimeTable) -> None:
        self.config, self.sla, self.table = config, config.sla, table
        self.fleet = Fleet.uniform(table, config.num_workers, model=config.workload.model)
        self._seen: dict[tuple[PolicyConfig, float, int], Measurement] = {}

    def measure(
        self, policy: PolicyConfig, qps: float, num_queries: int | None = None
    ) -> Measurement:
        """A run of so many queries, by default as the configuration says."""
        count = num_queries or self.config.num_queries(qps)
        key = policy, qps, count
        if key not in self._seen:
            config = replace(self.config, queries=count)
            self._seen[key], _ = simulate_load(config, self.fleet, policy, qps)
        return self._seen[key]

    def passes(self, policy: PolicyConfig, qps: float) -> bool:
        """Whether the policy keeps both bounds at this load."""
        return judge_seen(self.measure(policy, qps), self.sla) is Verdict.PASS

    def capacity_qps(self, policy: PolicyConfig, near_qps: float = 0.0) -> float:
        """The largest load that keeps both bounds, looked for near a guess where there is one."""
        light_qps = self.rough_qps / 1024
        if near_qps and (self.passes(policy, near_qps) or self.passes(policy, light_qps)):
            found = verify_capacity(
                self.measure,
                policy,
                self.sla,
                expected_qps=near_qps,
                step=1.04,
                tolerance=TOLERANCE,
                num_probes_max=40,
                judge=judge_seen,
            )
        else:
            found = find_capacity(
                self.measure,
                policy,
                self.sla,
                start_qps=self.rough_qps,
                tolerance=TOLERANCE,
                judge=judge_seen,
            )
        return found.capacity_qps

    def best(
        self, policies: Sequence[PolicyConfig], known: tuple[PolicyConfig, float]
    ) -> tuple[PolicyConfig, float]:
        """The oracle: the policy that holds most, among these and one whose capacity is known.

        Whoever misses the SLA at a load a hair above the best so far cannot hold more, as queries
        are the same at every load but for the time between them; so one run settles most. None is
        needed where the workers' whole time is too short for a static batch's work.
        """
        best, best_qps = known
        for policy in policies:
            near_qps = best_qps * (1.0 + TOLERANCE)
            hopeless = best_qps and (
                not self.may_keep_up(policy, near_qps) or not self.passes(policy, near_qps)
            )
            if policy != best and not hopeless:
                qps = self.capacity_qps(policy, near_qps)
                best, best_qps = max((best, best_qps), (policy, qps), key=lambda it: it[1])
        return best, best_qps

    def served(self, qps: float) -> float:
        """The load, or 0 where it is next to nothing of what the workers could do."""
        return qps if qps >= _SERVED_SHARE * self.rough_qps / _FIRST_LOAD else 0.0

    def may_keep_up(self, policy: PolicyConfig, qps: float) -> bool:
        """False where no schedule of a static policy's batches could keep the bound on p99.

        All queries but the slow ones that p99 allows are done by the last arrival plus that bound;
        the workers have no more than that time, and batches take no less than their least median.
        """
        if policy.policy != "static":
            return True
        work_ns = np.sort([self._work_ns(query, policy.batch_items_max) for query in self._queries])
        least_ns = work_ns[: round((1.0 - _SLOW_SHARE) * len(work_ns))].sum()
        least_ns *= float(self.table.spread.mean()) * 0.99  # what the draws' mean may fall short of
        time_ns = self._queries[-1].scheduled_ns / qps + p99_bound(self.sla).latency_ns
        return bool(least_ns <= self.config.num_workers * time_ns)

    def _work_ns(self, query: Query, batch_items_max: int) -> int:
        """Least time of one worker for a query in its parts, beside any number of busy ones."""
        num_parts = -(-query.num_items // batch_items_max)
        size, num_larger = divmod(query.num_items, num_parts)
        return (num_parts - num_larger) * self._part_ns(size) + (
            num_larger and num_larger * self._part_ns(size + 1)
        )

    def _part_ns(self, num_items: int) -> int:
        ids = round(num_items * self.table.axes["ids_per_item"][0])
        busy = map(int, self.table.axes["busy_workers"])
        return min(self.table.lookup_ns(1, num_items, ids, count) for count in busy)

    @cached_property
    def _queries(self) -> list[Query]:
        """The queries, at one a second."""
        count = self.config.num_queries(1.0)
        return draw_schedule(self.config.workload, qps=1.0, num_queries=count)

    @cached_property
    def rough_qps(self) -> float:
        """A share of what the workers could do if no query ever waited."""
        mean_ns = float(np.mean([self._part_ns(query.num_items) for query in self._queries]))
        return _FIRST_LOAD * self.config.num_workers * 1e9 / mean_ns


def workload_of(cell: Cell, ids_per_item: float, seed: int = 0) -> WorkloadConfig:
    """The queries of a cell, the same for all policies and SLAs."""
    return WorkloadConfig(
        sizes=cell.sizes,
        ids_per_item=ids_per_item,
        model=cell.preset,
        arrival_seed=seed,
        size_seed=seed,
        payload_seed=seed,
    )


def simulate_cell(
    cell: Cell, table: ServiceTimeTable, num_workers: int, num_queries: int, with_search: bool
) -> CellFound:
    """Everything about one cell.

    Args:
        cell: which.
        table: the preset's service times.
        num_workers: worker slots.
        num_queries: of each run.
        with_search: whether to hold a search against the oracle of its space as well.
    """
    sla = sla_of(cell, table)
    config = LoadTestConfig(
        workload=workload_of(cell, table.axes["ids_per_item"][0]),
        sla=sla,
        num_workers=num_workers,
        queries=num_queries,
    )
    simulation = Simulation(config, table)
    baseline = baseline_policy(num_workers)
    baseline_qps = simulation.capacity_qps(baseline)
    best, static_qps = best_static(simulation, baseline, baseline_qps)
    untuned = slack_policy(sla)
    untuned_qps = simulation.capacity_qps(untuned, static_qps)
    slacks = [slack_policy(sla, batch) for batch in ORACLE_BATCHES[::-1]]
    best_slack, slack_qps = simulation.best(slacks, (untuned, untuned_qps))
    started_s = time.process_time()
    oracle_qps = max(static_qps, slack_qps)
    found = search(simulation).best if with_search and oracle_qps else None
    search_s = time.process_time() - started_s
    ratio = None
    if found is not None:
        chosen = policy_of(found.value, sla)
        ratio = simulation.capacity_qps(chosen, oracle_qps) / oracle_qps
    return CellFound(
        cell=cell,
        sla_ms=sla.latency_ns / 1e6,
        baseline_qps=simulation.served(baseline_qps),
        static_qps=simulation.served(static_qps),
        static_batch=best.batch_items_max,
        slack_qps=simulation.served(slack_qps),
        slack_batch=best_slack.batch_items_max,
        slack_untuned_qps=simulation.served(untuned_qps),
        search_over_oracle=ratio,
        search_s=search_s,
    )


def best_static(
    simulation: Simulation, baseline: PolicyConfig, baseline_qps: float
) -> tuple[PolicyConfig, float]:
    """The best static policy of the whole grid, large batches first, which are cheap to try."""
    statics = [static_policy(batch) for batch in ORACLE_BATCHES[::-1]]
    return simulation.best(statics, (baseline, baseline_qps))


def search(simulation: Simulation) -> SearchResult[Candidate]:
    """The default search of simulations, among static and slack batches."""
    longest = min(simulation.config.num_queries(simulation.rough_qps), _SEARCH_QUERIES_MAX)
    return successive_halving(
        lambda candidate, qps, count: simulation.measure(
            policy_of(candidate, simulation.sla), qps, count
        ),
        SearchSpace(policies=("static", "slack")).candidates(),
        simulation.sla,
        num_queries=[round(share * longest) for share in _SEARCH_ROUNDS],
        start_qps=simulation.rough_qps,
        judge=judge_seen,
    )


def policy_of(candidate: Candidate, sla: SLA) -> PolicyConfig:
    """A candidate's settings; slack is told the SLA."""
    return candidate.configure(sla=sla)
