"""From a target and an SLA to its best operating point: profile, simulate, search, prove live.

Knows no command line and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tailrank.characterization.energy import EnergyMeter, find_meters
from tailrank.characterization.load_test import LoadTest, LoadTestConfig, measure_profile
from tailrank.characterization.service_time import (
    NUM_ITEMS_GRID,
    NUM_PARTS_GRID,
    ProfileConfig,
)
from tailrank.characterization.target import Target
from tailrank.core.errors import ConfigError
from tailrank.core.measurement import Measurement
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.kernels.cuda import device_uuid
from tailrank.runtime.record import RunResult
from tailrank.scheduling.policies import PolicyConfig, static_baseline_batch
from tailrank.tuning.capacity import Capacity, find_capacity, verify_capacity
from tailrank.tuning.search import BATCH_LADDER, Point, SearchResult, hill_climb
from tailrank.workload.query_sizes import parse_query_sizes
from tailrank.workload.schedule import WorkloadConfig

# An unbounded size distribution is profiled up to the largest of this many draws.
_SIZE_DRAWS = 200_000
# Offered load of the first simulated probe, as a share of what the workers could do without queue.
_FIRST_LOAD = 0.6
# Loads that a search usually tries before its bracket is narrow enough; only for telling progress.
_SIMULATED_PROBES, _LIVE_PROBES = 9, 5

OnProgress = Callable[[str, float, str], None]
"""Told the stage, its finished fraction (0 to 1) and a remark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPointConfig:
    """What to look for.

    Args:
        sla: percentile and limit.
        sizes: items per query, see `workload.parse_query_sizes`.
        policy: policy whose batch size is tuned.
        delay_ns: its delay limit, where it has one.
        num_workers: worker threads.
        seconds: length of each run, simulated and live.
        profile_seconds: time for the service-time table.
        live: whether to verify on this host.
        seed: of arrivals, sizes and payloads.
    """

    sla: SLA
    sizes: str
    policy: str = "static"
    delay_ns: int = 0
    num_workers: int = 1
    seconds: float = 10.0
    profile_seconds: float = 20.0
    live: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError("--workers", self.num_workers, "at least 1")
        if not self.seconds > 0:
            raise ConfigError("--duration", self.seconds, "a time above 0")
        if not self.profile_seconds > 0:
            raise ConfigError("--profile-budget", self.profile_seconds, "a time above 0")
        if self.seed < 0:
            raise ConfigError("--seed", self.seed, "a whole number from 0")
        self.policy_of(1)
        parse_query_sizes(self.sizes)

    def policy_of(self, batch_items_max: int) -> PolicyConfig:
        """The policy with this batch size."""
        return PolicyConfig(
            policy=self.policy, batch_items_max=batch_items_max, delay_max_ns=self.delay_ns
        )

    @property
    def items_max(self) -> int:
        """The largest query: the distribution's bound, or the largest of many draws."""
        sizes = parse_query_sizes(self.sizes)
        return sizes.items_max or int(sizes.draw(_SIZE_DRAWS, self.seed).max())

    @property
    def profile_config(self) -> ProfileConfig:
        """A grid that holds every batch the search can make."""
        top = self.items_max
        parts_top = 1 if self.policy == "static" else min(NUM_PARTS_GRID[-1], top)
        return ProfileConfig(
            num_items=(*(items for items in NUM_ITEMS_GRID if items < top), top),
            num_parts=(*(parts for parts in NUM_PARTS_GRID if parts < parts_top), parts_top),
            num_workers=self.num_workers,
            budget_s=self.profile_seconds,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCapacity:
    """What one policy holds inside the SLA.

    Args:
        name: `static baseline` or `tuned`.
        policy: its settings.
        simulated: from the service-time table.
        live: measured on this host; None where that was not asked for or not reached.
        run: the live run at the capacity, or the nearest one that was made.
    """

    name: str
    policy: PolicyConfig
    simulated: Capacity
    live: Capacity | None = None
    run: RunResult | None = None

    @property
    def best(self) -> Capacity:
        """The live capacity where there is one."""
        return self.live or self.simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """What the search found.

    Args:
        config: what was looked for.
        table: service times that the simulation used.
        baseline: the largest query spread over all workers.
        tuned: the best batch size: of those that were served live, if any was.
        overruled: the winner of the simulation, where the baseline held more live; then `tuned`
            is the baseline.
        search: every simulated batch size.
        interrupted: True if a keyboard interrupt ended the search or the live runs early.
    """

    config: OperatingPointConfig
    table: ServiceTimeTable
    baseline: PolicyCapacity
    tuned: PolicyCapacity
    search: SearchResult[int]
    overruled: PolicyCapacity | None = None
    interrupted: bool = False


def find_operating_point(
    config: OperatingPointConfig,
    target: Target,
    *,
    table: ServiceTimeTable | None = None,
    on_progress: OnProgress = lambda stage, fraction, remark: None,
    announce: Callable[[str], None] = lambda text: None,
) -> OperatingPoint:
    """Profile, search in simulation, verify the baseline and the winner live.

    A keyboard interrupt keeps what is known, once the baseline has been simulated.

    Args:
        config: what to look for.
        target: the model and its queries.
        table: service times of this host; None: measured first.
        on_progress: see `OnProgress`.
        announce: told what the profile's budget left no time for, if anything.

    Raises:
        RequestError: that budget does not hold one batch of every size.
        OutsideProfile: `table` does not reach as far as the batches to simulate.
        ConfigError, DataError: there are queries of more items than the target's pool has.
    """
    parse_query_sizes(config.sizes, target.pool.num_items_max)
    if table is None:
        advance = partial(on_progress, "profile")
        table = measure_profile(target, config.profile_config, advance, announce)
    load = LoadTest(
        LoadTestConfig(
            workload=WorkloadConfig(
                sizes=config.sizes,
                ids_per_item=target.ids_per_item,
                model=target.name,
                arrival_seed=config.seed,
                size_seed=config.seed,
                payload_seed=config.seed,
            ),
            sla=config.sla,
            num_workers=config.num_workers,
            seconds=config.seconds,
        ),
        target,
        table,
        _meter_of(target) if config.live else None,
    )
    baseline, tuned, search = _search(config, table, load, on_progress)
    point = OperatingPoint(
        config=config,
        table=table,
        baseline=baseline,
        tuned=tuned,
        search=search,
        interrupted=search.interrupted,
    )
    return _verify(point, load, on_progress) if config.live and not search.interrupted else point


def _meter_of(target: Target) -> EnergyMeter | None:
    """What counts the joules of all that computes for the target; None where a part does not."""
    return find_meters(device_uuid() if "cuda" in target.rankers else None).meter()


def _search(
    config: OperatingPointConfig, table: ServiceTimeTable, load: LoadTest, on_progress: OnProgress
) -> tuple[PolicyCapacity, PolicyCapacity, SearchResult[int]]:
    """The simulated capacity of the baseline and of every batch size worth a visit."""
    top = config.items_max
    static = PolicyConfig(
        policy="static", batch_items_max=static_baseline_batch(top, config.num_workers)
    )
    start_qps = _rough_capacity_qps(config, table)
    ladder = sorted({rung for rung in BATCH_LADDER if rung < top} | {static.batch_items_max, top})
    seen, probes = 0, 0

    def measure(policy: PolicyConfig, qps: float) -> Measurement:
        nonlocal probes
        remark = f"batch {policy.batch_items_max} at {qps:,.0f} queries/s"
        part = _finished(probes, _SIMULATED_PROBES)
        on_progress("simulate", min(1.0, (seen + part) / len(ladder)), remark)
        probes += 1
        return load.simulated(policy, qps)

    baseline = find_capacity(measure, static, config.sla, start_qps=start_qps)

    def simulate(batch_items_max: int) -> Capacity:
        policy = config.policy_of(batch_items_max)
        if policy == static:
            return baseline
        near_qps = baseline.capacity_qps or start_qps
        return find_capacity(measure, policy, config.sla, start_qps=near_qps)

    def on_point(point: Point[int]) -> None:
        nonlocal seen, probes
        seen, probes = seen + 1, 0

    search = hill_climb(simulate, ladder, start=static.batch_items_max, on_point=on_point)
    best = search.best or Point(static.batch_items_max, baseline)
    on_progress("simulate", 1.0, f"best batch {best.value}")
    return (
        PolicyCapacity(name="static baseline", policy=static, simulated=baseline),
        PolicyCapacity(name="tuned", policy=config.policy_of(best.value), simulated=best.capacity),
        search,
    )


def _verify(point: OperatingPoint, load: LoadTest, on_progress: OnProgress) -> OperatingPoint:
    """The live capacity of the baseline and of the winner, near what the simulation promised."""
    same = point.tuned.policy == point.baseline.policy
    contenders = [point.tuned] if same else [point.baseline, point.tuned]
    try:
        for index, contender in enumerate(contenders):
            if contender.simulated.capacity_qps == 0.0:
                continue  # nothing near which to look; the simulated floor is the result

            def report(part: float, remark: str, index: int = index) -> None:
                on_progress("live", (index + part) / len(contenders), remark)

            proven = _verify_one(contender, load, report)
            if contender is point.tuned:
                point = replace(point, tuned=proven)
            else:
                point = replace(point, baseline=proven)
    except KeyboardInterrupt:
        return replace(point, interrupted=True)
    if same:
        point = replace(point, baseline=replace(point.tuned, name=point.baseline.name))
    elif point.tuned.best.capacity_qps < point.baseline.best.capacity_qps:
        # What was served counts for more than what was simulated.
        overruled = replace(point.tuned, name="simulated best")
        point = replace(
            point, tuned=replace(point.baseline, name=point.tuned.name), overruled=overruled
        )
    on_progress("live", 1.0, "")
    return point


def _verify_one(
    contender: PolicyCapacity, load: LoadTest, report: Callable[[float, str], None]
) -> PolicyCapacity:
    """One policy, live, with the run that its capacity comes from."""
    runs: dict[float, RunResult] = {}

    def measure(policy: PolicyConfig, qps: float) -> Measurement:
        report(_finished(len(runs), _LIVE_PROBES), f"{contender.name}: {qps:,.0f} queries/s")
        measurement, runs[qps] = load.live(policy, qps)
        return measurement

    capacity = verify_capacity(
        measure, contender.policy, load.config.sla, expected_qps=contender.simulated.capacity_qps
    )
    return replace(contender, live=capacity, run=runs[capacity.at.offered_qps])


def _finished(num_probes: int, usual: int) -> float:
    """Share of a search for a capacity that is done: nobody knows how many probes it will take."""
    return num_probes / max(usual, num_probes + 1)


def _rough_capacity_qps(config: OperatingPointConfig, table: ServiceTimeTable) -> float:
    """What the workers could do if no query ever waited, less a margin."""
    sizes = parse_query_sizes(config.sizes).draw(1000, config.seed)
    items = max(1, round(float(sizes.mean())))
    num_ids = round(items * table.axes["ids_per_item"][0])
    service_ns = table.lookup_ns(1, items, num_ids, 1)
    return _FIRST_LOAD * config.num_workers * 1e9 / service_ns
