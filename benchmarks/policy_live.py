"""The live half of `bench_policies.py`: what was simulated, served on this host.

Capacities are compared and not percentiles at one load: near its capacity a policy's p95 climbs
tenfold within a few percent of load, so that a percentile says more of the host's last percent of
speed than of the simulation. Simulated and live runs have the same queries and the same length, and
begin their searches at the same load.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policy_cells import (
    Cell,
    Simulation,
    baseline_policy,
    best_static,
    judge_seen,
    policy_of,
    search,
    sla_of,
    slack_policy,
    workload_of,
)
from tailrank.characterization.load_test import LoadTest, LoadTestConfig
from tailrank.characterization.target import Target, initialise_worker
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement
from tailrank.core.query import Batch
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.runtime.journal import FileJournal, load_journal, replay
from tailrank.runtime.live import run_live
from tailrank.runtime.ports import RunBatch
from tailrank.scheduling.policies import PolicyConfig, build_scheduler
from tailrank.tuning.capacity import Verdict, verify_capacity
from tailrank.tuning.verification import verify_best
from tailrank.workload.schedule import draw_schedule

# The six cases: presets that are bound by lookups, by products and by Python, at all three SLAs.
CASES = (
    Cell("dlrm-rmc1", "production", "tenth"),
    Cell("dlrm-rmc2", "mlperf", "tight"),
    Cell("dlrm-rmc3", "production", "tight"),
    Cell("wide-and-deep", "mlperf", "paper"),
    Cell("ncf", "production", "paper"),
    Cell("din", "mlperf", "tight"),
)
# The one that is searched live, whose runs are journalled and stalled as well.
MAIN_CASE = CASES[0]
GOAL_SIZES, GOAL_SLA = "normal:128,16", SLA(95.0, 100_000_000)
STALL_NS, STALL_EVERY_NS = 50_000_000, 1_000_000_000
# Share of the capacity at which a run is journalled or stalled: busy, and not at the brink.
_LOAD_SHARE = 0.7
_LEAST_QPS = 10.0
_BEST = ("static", "slack")
_NUM_PROBES_MAX = 6
_TOLERANCE = 0.01

Say = Callable[[str], None]
Profile = Callable[[], ServiceTimeTable]
"""Times a target's batches, quickly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How long is served.

    Args:
        num_workers: worker threads.
        rounds: searches for each policy's live capacity, in turns with the others', each after a
            quick profile of its own.
        run_s: of one run; longer where p95 needs more queries.
        queries: of one run; None: as `run_s` says.
        search_s: of live load in the search that is held against the oracle.
        journal_s: of the run that is journalled.
        stall_s: of the run with a stalled ranker.
    """

    num_workers: int
    rounds: int = 3
    run_s: float = 1.5
    queries: int | None = None
    search_s: float = 25.0
    journal_s: float = 60.0
    stall_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFound:
    """What a target has shown: metrics, and why some should not be believed."""

    metrics: dict[str, float]
    reasons: tuple[str, ...]


class LiveCase:
    """A cell, simulated and served.

    Args:
        cell: which; its sizes and SLA may be replaced by the goal's.
        target: the loaded preset.
        table: its service times, measured just before.
        settings: how long is served.
        goal: whether sizes and SLA are those of the goal.
        sla: instead of the one that follows from the table.
    """

    def __init__(
        self,
        cell: Cell,
        target: Target,
        table: ServiceTimeTable,
        settings: LiveSettings,
        *,
        goal: bool = False,
        sla: SLA | None = None,
    ) -> None:
        cell = replace(cell, sizes=GOAL_SIZES) if goal else cell
        self.cell = cell
        self.sla = sla or (GOAL_SLA if goal else sla_of(cell, table))
        config = LoadTestConfig(
            workload=workload_of(cell, target.ids_per_item),
            sla=self.sla,
            num_workers=settings.num_workers,
            seconds=settings.run_s,
            queries=settings.queries,
        )
        self.target, self.settings = target, settings
        self.simulation = Simulation(config, table)
        self._load = LoadTest(config, target, self.simulation.fleet)
        self.served_s = 0.0
        self.reasons: set[str] = set()

    def timed_again(self, table: ServiceTimeTable) -> LiveCase:
        """The same case by a newer table; what speaks against it is kept in one place."""
        case = LiveCase(self.cell, self.target, table, self.settings, sla=self.sla)
        case.reasons = self.reasons
        return case

    def serve(self, policy: PolicyConfig, qps: float) -> Measurement:
        """A live run."""
        started_s = time.monotonic()
        measurement, _ = self._load.live(policy, qps)
        self.served_s += time.monotonic() - started_s
        return measurement

    def serve_again(self, policy: PolicyConfig, qps: float) -> Measurement:
        """A live run; another one in its place where it missed the SLA.

        A shared host stands still for longer than the SLA now and then, which spoils a whole run.
        """
        seen = self.serve(policy, qps)
        missed = judge_seen(seen, self.sla) is not Verdict.PASS
        return self.serve(policy, qps) if missed else seen

    def live(self, policy: PolicyConfig, near_qps: float) -> float:
        """The live capacity, looked for near the simulated one for as long as so many runs last."""
        run_s = self.simulation.config.num_queries(near_qps) / near_qps
        until_s = time.monotonic() + 2 * _NUM_PROBES_MAX * run_s
        found = verify_capacity(
            self.serve_again,
            policy,
            self.sla,
            expected_qps=near_qps,
            step=1.04,
            tolerance=_TOLERANCE,
            num_probes_max=_NUM_PROBES_MAX,
            judge=judge_seen,
            seconds_left=lambda: until_s - time.monotonic(),
        )
        # Too short to be certain is no fault here: simulated and live runs have the same queries.
        self.reasons.update(it for it in found.invalid_reasons if not it.startswith("too_short"))
        return found.capacity_qps

    def policies(self) -> dict[str, tuple[PolicyConfig, float]]:
        """Baseline, best static and slack, with what each holds in simulation."""
        simulation, baseline = self.simulation, baseline_policy(self.settings.num_workers)
        baseline_qps = simulation.capacity_qps(baseline)
        static, static_qps = best_static(simulation, baseline, baseline_qps)
        slack = slack_policy(self.sla)
        return {
            "baseline": (baseline, baseline_qps),
            "static": (static, static_qps),
            "slack": (slack, simulation.capacity_qps(slack, static_qps)),
        }


def measure_case(case: LiveCase, name: str, profile: Profile, say: Say) -> dict[str, float]:
    """Simulated and live capacities of three policies, in rounds.

    The speed of a shared host changes by a tenth and more from one minute to the next. So each
    round times the batches, simulates with that and then serves, as `tune` does; the error is that
    of the median of the rounds' ratios, and A/A the largest ratio between two rounds of one policy,
    less one.
    """
    chosen = case.policies()
    simulated: dict[str, list[float]] = {who: [] for who, (_, qps) in chosen.items() if qps}
    live: dict[str, list[float]] = {who: [] for who in simulated}
    for number in range(1, case.settings.rounds + 1):
        say(f"{name}: round {number}")
        now = case.timed_again(profile())
        for who in simulated:
            policy, near_qps = chosen[who]
            simulated[who].append(now.simulation.capacity_qps(policy, near_qps))
            live[who].append(now.live(policy, simulated[who][-1] or near_qps))
            say(
                f"{name}: {who} {live[who][-1]:,.0f} queries/s, simulated {simulated[who][-1]:,.0f}"
            )
    metrics = {
        f"live.{name}.sla_ms": case.sla.latency_ns / 1e6,
        f"live.{name}.static_batch_items_max": chosen["static"][0].batch_items_max,
    }
    errors: list[float] = []
    spreads: list[float] = []
    for who, seen in live.items():
        pairs = zip(simulated[who], seen, strict=True)
        errors.append(statistics.median(difference(*pair, signed=True) for pair in pairs))
        spreads.append(difference(max(seen), min(seen)))
        metrics |= {
            f"live.{name}.{who}_qps": statistics.median(seen),
            f"live.{name}.{who}_qps_min": min(seen),
            f"live.{name}.{who}_qps_max": max(seen),
            f"live.{name}.{who}_simulated_qps": statistics.median(simulated[who]),
            f"simulation_error_fraction.{name}.{who}": errors[-1],
        }
    if errors:
        metrics[f"simulation_error_fraction.{name}"] = max(map(abs, errors))
        metrics[f"aa_spread_fraction.{name}"] = max(spreads)
    return metrics


def difference(value: float, other: float, *, signed: bool = False) -> float:
    """Relative to the second; 1 where that is none."""
    if not other:
        return float(value != other)
    return value / other - 1.0 if signed else abs(value / other - 1.0)


def measure_goal(case: LiveCase, say: Say) -> dict[str, float]:
    """The live capacity of RMC1 with the better of the two policies."""
    simulated = case.policies()
    who = max(("static", "slack"), key=lambda it: simulated[it][1])
    policy, qps = simulated[who]
    say(f"goal: {who} near {qps:,.0f} queries/s")
    return {
        "rmc1_normal.capacity_qps": case.live(policy, qps) if qps else 0.0,
        "rmc1_normal.simulated_capacity_qps": qps,
        "rmc1_normal.batch_items_max": policy.batch_items_max,
    }


def measure_search(case: LiveCase, oracle_qps: float, say: Say) -> dict[str, float]:
    """Simulate all, verify the best live with so much live load, against the best known live."""
    before_s, started_s = case.served_s, time.monotonic()
    found = search(case.simulation)
    searched_s = time.monotonic() - started_s
    say(f"search: simulated in {searched_s:.0f} s, now live")
    verified = verify_best(
        lambda candidate, qps: case.serve(policy_of(candidate, case.sla), qps),
        found.ranked,
        case.sla,
        judge=judge_seen,
        seconds_left=lambda: case.settings.search_s - (case.served_s - before_s),
    )
    best = 0.0 if verified.best is None else verified.best.live.capacity_qps
    return {
        "search.live_capacity_qps": best,
        "search.live_load_s": case.served_s - before_s,
        "search.simulated_s": searched_s,
        "search_over_oracle.live": best / oracle_qps if oracle_qps else 1.0,
    }


def measure_journal(case: LiveCase, qps: float, say: Say) -> dict[str, float]:
    """A journalled live run of slack, told to a fresh scheduler."""
    say(f"journal: {case.settings.journal_s:g} s at {qps:,.0f} queries/s")
    policy, fleet = slack_policy(case.sla), case.simulation.fleet
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        with FileJournal(path, policy, fleet) as journal:
            _serve(case, policy, qps, case.settings.journal_s, case.target.run_batch, journal)
        policy, fleet_read, entries = load_journal(path)
    decided = replay(entries, build_scheduler(policy, fleet_read))
    different = sum(entry[2:] != now for entry, now in zip(entries, decided, strict=True))
    return {"journal.num_steps": len(entries), "journal.num_steps_different": different}


def measure_stall(case: LiveCase, qps: float, say: Say) -> dict[str, float]:
    """p99 with a ranker that stands still for 50 ms each second, and without.

    The schedule does not wait for the ranker: a query that is due in a stall waits for its end.
    """
    metrics = {}
    for name, run_batch in (
        ("unstalled", case.target.run_batch),
        ("stalled", stalled(case.target.run_batch)),
    ):
        say(f"{name}: {case.settings.stall_s:g} s at {qps:,.0f} queries/s")
        latency_ns = _serve(
            case, slack_policy(case.sla), qps, case.settings.stall_s, run_batch, None
        )
        for percentile in (95, 99):
            value_ns = latency_ns.percentile(float(percentile)).value
            metrics[f"{name}.latency_ms_p{percentile}"] = value_ns / 1e6
    return metrics


def stalled(run_batch: RunBatch) -> RunBatch:
    """The same ranker, but no batch begins in the first 50 ms of a second."""

    def run(batch: Batch) -> Sequence[object]:
        into_ns = time.monotonic_ns() % STALL_EVERY_NS
        if into_ns < STALL_NS:
            time.sleep((STALL_NS - into_ns) / 1e9)
        return run_batch(batch)

    return run


def _serve(
    case: LiveCase,
    policy: PolicyConfig,
    qps: float,
    seconds: float,
    run_batch: RunBatch,
    journal: FileJournal | None,
) -> LatencySummary:
    """A live run of so many seconds."""
    config = case.simulation.config
    run = run_live(
        draw_schedule(
            config.workload,
            qps=qps,
            num_queries=max(100, round(qps * seconds)),
            payload_for=case.target.pool.payload,
        ),
        policy,
        num_workers=config.num_workers,
        run_batch=run_batch,
        initialise_worker=initialise_worker,
        fleet=case.simulation.fleet,
        journal=journal,
    )
    if run.first_error is not None:
        raise run.first_error
    return LatencySummary.of(run.latency_ns)


def measure_target(
    preset: str,
    target: Target,
    table: ServiceTimeTable,
    settings: LiveSettings,
    profile: Profile,
    say: Say,
) -> LiveFound:
    """All that is served of one preset; `profile` times it anew."""
    metrics: dict[str, float] = {}
    reasons: set[str] = set()
    for cell in CASES:
        if cell.preset != preset:
            continue
        case = LiveCase(cell, target, table, settings)
        metrics |= measure_case(case, cell.name, profile, say)
        if cell == MAIN_CASE:
            served, simulated = (
                max(metrics.get(f"live.{cell.name}.{who}{it}_qps", 0.0) for who in _BEST)
                for it in ("", "_simulated")
            )
            metrics |= measure_search(case, served, say)
            # A host too busy to hold any load still has steps to replay.
            qps = max(_LOAD_SHARE * (served or simulated), _LEAST_QPS)
            metrics |= measure_journal(case, qps, say) | measure_stall(case, qps, say)
            goal = LiveCase(cell, target, table, settings, goal=True)
            metrics |= measure_goal(goal, say)
            reasons |= {f"rmc1_normal: {reason}" for reason in goal.reasons}
        reasons |= {f"{cell.name}: {reason}" for reason in case.reasons}
    return LiveFound(metrics=metrics, reasons=tuple(sorted(reasons)))
