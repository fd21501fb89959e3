"""An operating point: what to look for, who competes, and what was found.

Knows no target, no clock and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tailrank.characterization.contenders import (
    DEFAULT_CONTENDERS,
    PARTS_MAX,
    SEARCHES,
    Contender,
    batch_top,
    check_contenders,
    find_contenders,
    packs,
)
from tailrank.characterization.service_time import NUM_ITEMS_GRID, NUM_PARTS_GRID, ProfileConfig
from tailrank.core.errors import ConfigError, one_of
from tailrank.core.fleet import CPU, Fleet
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.runtime.record import RunResult
from tailrank.scheduling.policies import POLICIES, PolicyConfig
from tailrank.tuning.candidate import Candidate
from tailrank.tuning.capacity import Capacity, Judge, judge_probe
from tailrank.tuning.search import Point
from tailrank.workload.query_sizes import parse_query_sizes
from tailrank.workload.schedule import WorkloadConfig

# An unbounded size distribution is profiled up to the largest of this many draws.
_SIZE_DRAWS = 200_000
# Where the budget goes: times up to which profiling and simulating may take, as shares of it.
_PROFILE_SHARE, _SIMULATE_SHARE = 0.2, 0.5
# Loads that a live search may try: five where the simulation was right, more where it was not.
_LIVE_PROBES = 8
# A live search that passed nowhere has looked far enough once it is this far below what was
# promised; above, its time was up.
_FAR_BELOW = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPointConfig:
    """What to look for.

    Args:
        sla: percentile and limit.
        sizes: items per query, see `workload.parse_query_sizes`.
        bounds: further percentiles and limits to keep.
        policies: who competes with the static baseline, from `CONTENDERS`.
        search: how their settings are searched, from `SEARCHES`.
        delay_ns: longest wait for company, of a policy that has one.
        num_workers: worker threads.
        fewer_workers: whether to try fewer as well: 1, 2, 4, …, those that are profiled.
        budget_s: wall time of everything: profile, simulation and live runs.
        live: whether to verify on this host.
        seed: of arrivals, sizes and payloads.
        items_limit: the largest query that the target can be asked; None: any.
        accelerators: devices beside the cores, a worker slot for each.

    Raises:
        ConfigError: a field is outside its range, or there are larger queries.
        DataError: likewise, in a trace.
    """

    sla: SLA
    sizes: str
    bounds: tuple[SLA, ...] = ()
    policies: tuple[str, ...] = DEFAULT_CONTENDERS
    search: str = SEARCHES[0]
    delay_ns: int = 1_000_000
    num_workers: int = 1
    fewer_workers: bool = True
    budget_s: float = 60.0
    live: bool = True
    seed: int = 0
    items_limit: int | None = None
    accelerators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError("--workers", self.num_workers, "at least 1")
        if not self.budget_s > 0:
            raise ConfigError("--budget", self.budget_s, "a time above 0")
        if self.seed < 0:
            raise ConfigError("--seed", self.seed, "a whole number from 0")
        if self.search not in SEARCHES:
            raise ConfigError("--search", self.search, one_of(SEARCHES, self.search))
        check_contenders(self.policies, accelerated=bool(self.accelerators))
        WorkloadConfig(sizes=self.sizes, items_limit=self.items_limit).query_sizes()

    @property
    def items_max(self) -> int:
        """The largest query: the distribution's bound, or the largest of many draws."""
        sizes = parse_query_sizes(self.sizes)
        return sizes.items_max or int(sizes.draw(_SIZE_DRAWS, self.seed).max())

    @property
    def devices(self) -> tuple[str, ...]:
        """Every kind of worker that is profiled."""
        return (CPU, *self.accelerators)

    def profile_config_of(self, device: str) -> ProfileConfig:
        """A grid that holds every batch the search can make for a device."""
        cores = self.profile_config
        return cores if device == CPU else replace(cores, num_workers=1, num_parts=(1,))

    @property
    def profile_config(self) -> ProfileConfig:
        """A grid that holds every batch the search can make for the cores."""
        top = batch_top(self.policies, self.items_max, self.items_limit)
        parts_top = min(PARTS_MAX, top) if packs(self.policies) else 1
        return ProfileConfig(
            num_items=(*(items for items in NUM_ITEMS_GRID if items < top), top),
            num_parts=(*(parts for parts in NUM_PARTS_GRID if parts < parts_top), parts_top),
            num_workers=self.num_workers,
            budget_s=self.profile_share * self.budget_s / len(self.devices),
            seed=self.seed,
        )

    @property
    def profile_share(self) -> float:
        """The share of the budget that the profile may take."""
        return _PROFILE_SHARE if self.live else _PROFILE_SHARE / _SIMULATE_SHARE

    @property
    def simulate_share(self) -> float:
        """The share of the budget by whose end all is simulated."""
        return _SIMULATE_SHARE if self.live else 1.0

    @property
    def contenders(self) -> list[Contender]:
        """Who competes, the static baseline first."""
        most = self.num_workers
        workers = self.profile_config.busy_workers if self.fewer_workers else (most,)
        return find_contenders(
            self.policies,
            items_max=self.items_max,
            items_limit=self.items_limit,
            workers=workers,
            accelerated=bool(self.accelerators),
        )

    @property
    def run_s(self) -> float:
        """Length of a run: so that each contender can be tried at a few loads."""
        return (1.0 - _SIMULATE_SHARE) * self.budget_s / (len(self.contenders) * _LIVE_PROBES)

    def policy_of(self, candidate: Candidate) -> PolicyConfig:
        """The settings of a candidate."""
        return candidate.configure(sla=self.sla, delay_max_ns=self.delay_ns)

    def fleet_of(
        self, candidate: Candidate, tables: Mapping[str, ServiceTimeTable], model: str
    ) -> Fleet:
        """Who serves a candidate: its cores, and the accelerators if it gives them anything.

        Args:
            candidate: the settings.
            tables: the service times of each device.
            model: name of the model that they are of.
        """
        uses = candidate.offload_threshold_items is not None
        uses = uses or POLICIES[candidate.policy].mixes_devices
        devices = (CPU,) * candidate.num_workers + (self.accelerators if uses else ())
        return Fleet(devices, {(model, device): tables[device] for device in set(devices)})

    @property
    def judge(self) -> Judge:
        """What a load must keep."""
        return partial(judge_probe, bounds=self.bounds)


@dataclass(frozen=True, slots=True)
class Bracket:
    """A candidate's simulated capacity: what it kept the SLA at, and what it missed it at."""

    candidate: Candidate
    low_qps: float
    high_qps: float

    @classmethod
    def of(cls, point: Point[Candidate]) -> Bracket:
        """What a search has seen of a candidate."""
        return cls(point.value, point.capacity.low_qps, point.capacity.high_qps)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCapacity:
    """What one contender holds inside the SLA.

    Args:
        name: as people read it.
        prefix: of its metrics.
        candidate: its best settings, as simulated.
        policy: the same as the scheduler takes them.
        simulated: from the service-time table, in runs as long as the live ones.
        brackets: every candidate that was simulated, as last seen.
        live: measured on this host; None where that was not asked for or not reached.
        run: the live run at the capacity, or the nearest one that was made.
    """

    name: str
    prefix: str
    candidate: Candidate
    policy: PolicyConfig
    simulated: Capacity
    brackets: tuple[Bracket, ...] = ()
    live: Capacity | None = None
    run: RunResult | None = field(default=None, repr=False)

    @property
    def best(self) -> Capacity:
        """The live capacity where there is one."""
        return self.live or self.simulated

    @property
    def cut_short(self) -> bool:
        """Whether the live search ended before it came to a load that keeps the SLA.

        Its zero would say that no load at all does, which nobody has seen.
        """
        if self.live is None or self.live.capacity_qps:
            return False
        return self.live.at.offered_qps > _FAR_BELOW * self.simulated.capacity_qps

    @property
    def invalid_reasons(self) -> tuple[str, ...]:
        """Why `best` should not be believed; empty if it should."""
        reasons = self.best.invalid_reasons
        if not self.cut_short:
            return reasons
        return (
            *reasons,
            f"out_of_time: no load below {self.best.at.offered_qps:,.0f} queries/s was tried, and "
            "that one did not surely keep the SLA; allow a longer budget",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """What the search found.

    Args:
        config: what was looked for.
        tables: service times that the simulation used, by device.
        contenders: the static baseline first; those that were reached before an interrupt.
        interrupted: True if a keyboard interrupt ended the search or the live runs early.
    """

    config: OperatingPointConfig
    tables: Mapping[str, ServiceTimeTable]
    contenders: tuple[PolicyCapacity, ...]
    interrupted: bool = False

    @property
    def baseline(self) -> PolicyCapacity:
        """The largest query spread over all workers."""
        return self.contenders[0]

    @property
    def tuned(self) -> PolicyCapacity:
        """The best: of those whose live capacity is known, if one is; the first among equals."""
        served = [each for each in self.contenders if each.live is not None and not each.cut_short]
        return max(served or self.contenders, key=lambda each: each.best.capacity_qps)


def best_so_far(found: Sequence[PolicyCapacity]) -> str:
    """The contender that leads, as far as is known; empty while nobody does."""
    served = [each for each in found if each.live is not None] or found
    best = max(served, key=lambda each: each.best.capacity_qps, default=None)
    if best is None:
        return ""
    return f"best so far {best.name}, {best.best.capacity_qps:,.0f} queries/s"
