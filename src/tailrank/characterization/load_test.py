"""A target under load: the same workload, simulated from its profile or served for real.

Both sides hand `tuning` the same thing, a `measure(policy, qps) -> Measurement`, which is how it
cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tailrank.characterization.energy import EnergyMeter
from tailrank.characterization.service_time import ProfileConfig, measure_service_times
from tailrank.characterization.target import Target, initialise_worker
from tailrank.core.errors import ConfigError, ServingError
from tailrank.core.fleet import Fleet
from tailrank.core.latency import queries_needed
from tailrank.core.measurement import Measurement
from tailrank.core.query import Batch
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.runtime.live import run_live
from tailrank.runtime.measurement import WARMUP_FRACTION, to_measurement
from tailrank.runtime.record import QueryOutcome, RunResult
from tailrank.runtime.virtual import TableServiceTime, simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

# Batches of the null run that prices the loop: enough for a stable mean, well under a second.
_NULL_BATCHES = 4000
# A run has at least this many times the queries that bound the percentile at all.
_QUERIES_FACTOR = 10
# The first load of a search, as a share of what the workers could do without a queue; and how many
# queries tell their mean size.
_FIRST_LOAD, _SIZE_DRAWS = 0.6, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTestConfig:
    """How a target is put under load.

    Args:
        workload: what the queries look like; its `ids_per_item` is the target's.
        sla: decides how long a run must be to bound the percentile.
        bounds: further percentiles that a run must bound.
        num_workers: worker slots, of all devices together.
        seconds: length of one run, simulated or live alike, so that both see the same queries;
            longer where the percentile needs more of them.
        queries: length of one run in queries at any load, as of a whole trace; None: see `seconds`.
    """

    workload: WorkloadConfig
    sla: SLA
    num_workers: int
    seconds: float = 10.0
    queries: int | None = None
    bounds: tuple[SLA, ...] = ()

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError("--workers", self.num_workers, "at least 1")
        if not self.seconds > 0:
            raise ConfigError("--duration", self.seconds, "a time above 0")

    def num_queries(self, qps: float) -> int:
        """Queries of a run at this load: enough for the percentile, and for the time."""
        if self.queries is not None:
            return self.queries
        strictest = max(bound.percentile for bound in (self.sla, *self.bounds))
        counted = _QUERIES_FACTOR * queries_needed(strictest)
        return max(round(qps * self.seconds), round(counted / (1.0 - WARMUP_FRACTION)))


class LoadTest:
    """Measures policies on one target.

    Args:
        config: see `LoadTestConfig`.
        target: what is measured.
        measured: its service times on this host, for `simulated` and for policies that predict: one
            table, or the fleet whose slots are of several devices.
        meter: counts the joules of live runs; None: the machine has no meter.
    """

    def __init__(
        self,
        config: LoadTestConfig,
        target: Target,
        measured: ServiceTimeTable | Fleet,
        meter: EnergyMeter | None = None,
    ) -> None:
        self.config, self._target, self._meter = config, target, meter
        if isinstance(measured, ServiceTimeTable):
            self._run_batch = target.run_batch
            measured = Fleet.uniform(measured, config.num_workers, model=config.workload.model)
        else:
            self._run_batch = target.run_batch_on(measured.devices)
        self._fleet = measured

    def simulated(self, policy: PolicyConfig, qps: float) -> Measurement:
        """A run in simulated time.

        Raises:
            OutsideProfile: the policy makes batches that nobody measured.
        """
        return simulate_load(self.config, self._fleet, policy, qps)[0]

    def live(self, policy: PolicyConfig, qps: float) -> tuple[Measurement, RunResult]:
        """A run on this host, with real features and scores; with its rows, for the report.

        Raises:
            ServingError: a batch failed; says why.
        """
        config = self.config
        schedule = draw_schedule(
            config.workload,
            qps=qps,
            num_queries=config.num_queries(qps),
            payload_for=self._target.pool.payload,
        )
        spent_j = None if self._meter is None else self._meter.begin()
        result = run_live(
            schedule,
            policy,
            num_workers=config.num_workers,
            run_batch=self._run_batch,
            initialise_worker=initialise_worker,
            fleet=self._fleet,
        )
        joules = None if spent_j is None else spent_j()
        check_answers(result)
        measurement = to_measurement(result, offered_qps=qps, sla=config.sla)
        if joules:
            answered = int((result.queries.outcome == QueryOutcome.ANSWERED).sum())
            measurement = replace(measurement, queries_per_joule=answered / joules)
        return measurement, result


def rough_capacity_qps(config: LoadTestConfig, fleet: Fleet) -> float:
    """What the workers could do if no query ever waited, less a margin: where to begin to look."""
    workload = config.workload
    sizes = workload.query_sizes().draw(_SIZE_DRAWS, workload.size_seed)
    items = max(1, round(float(sizes.mean())))
    num_ids = round(items * workload.ids_per_item)
    slots = range(len(fleet.devices))
    times_ns = [fleet.table(workload.model, slot).lookup_ns(1, items, num_ids, 1) for slot in slots]
    return _FIRST_LOAD * sum(1e9 / time_ns for time_ns in times_ns)


def simulate_load(
    config: LoadTestConfig, fleet: Fleet, policy: PolicyConfig, qps: float
) -> tuple[Measurement, RunResult]:
    """A run in simulated time, with its rows.

    Raises:
        OutsideProfile: the policy makes batches that nobody measured.
    """
    result = simulate(
        draw_schedule(config.workload, qps=qps, num_queries=config.num_queries(qps)),
        policy,
        num_workers=config.num_workers,
        service_time_ns=TableServiceTime(fleet, seed=config.workload.payload_seed),
        fleet=fleet,
    )
    return to_measurement(result, offered_qps=qps, sla=config.sla), result


def check_answers(run: RunResult) -> None:
    """Refuse a run in which a batch failed: a broken ranker must not pass for a slow one.

    Raises:
        ServingError: how many queries were lost, and what the first of them died of.
    """
    if run.first_error is not None:
        lost = int((run.queries.outcome == QueryOutcome.FAILED).sum())
        raise ServingError(
            f"{lost} of {len(run.queries.outcome)} queries failed; the first: {run.first_error}"
        ) from run.first_error


def measure_profile(
    target: Target,
    config: ProfileConfig,
    on_progress: Callable[[float, str], None],
    announce: Callable[[str], None],
    device: str | None = None,
    beside: Callable[[int], object] | None = None,
) -> ServiceTimeTable:
    """The service-time table of a target on one device of this host; see `measure_service_times`.

    Args:
        target: what is measured.
        config: see there, like the other arguments.
        on_progress: see there.
        announce: see there.
        device: one of those that the target was loaded for; None: its first.
        beside: see there.

    Raises:
        ConfigError: the target was not loaded for that device.
    """
    device = device or target.ranker.device
    return measure_service_times(
        config,
        target.run_batch_on((device,) * config.num_workers),
        target.pool.payload,
        device=target.profile_label_on(device),
        ids_per_item=target.ids_per_item,
        initialise_worker=initialise_worker,
        on_progress=on_progress,
        announce=announce,
        pin=device != "cuda",
        beside=beside,
    )


def measure_fleet(
    target: Target,
    devices: Sequence[str],
    config: ProfileConfig,
    on_progress: Callable[[float, str], None],
    announce: Callable[[str], None],
) -> Fleet:
    """The service times of a target on every device of a fleet.

    Each device is measured while the others rest: that a GPU's thread takes some of a CPU worker's
    core when it packs its batches is not in the tables.

    Args:
        target: loaded for each of these devices.
        devices: of each worker slot.
        config: what to measure of each device, with as many workers as it has slots, and for how
            long in all.
        on_progress: see `measure_service_times`.
        announce: likewise.

    Raises:
        ConfigError: the target was not loaded for one of them.
        RequestError: the budget does not hold one batch of every size.
    """
    kinds = list(dict.fromkeys(devices))
    tables = {}
    for index, device in enumerate(kinds):

        def advance(fraction: float, remark: str, index: int = index, device: str = device) -> None:
            on_progress((index + fraction) / len(kinds), f"{device}: {remark}")

        share = replace(
            config,
            num_workers=list(devices).count(device),
            budget_s=config.budget_s / len(kinds),
        )
        tables[target.name, device] = measure_profile(target, share, advance, announce, device)
    return Fleet(tuple(devices), tables)


def measure_overhead_ns() -> int:
    """What a batch costs one worker outside the ranker: a live run of a ranker that does nothing.

    All queries are due at once, so the worker never waits and its time is the loop's.
    """
    schedule = draw_schedule(WorkloadConfig(sizes="fixed:1"), qps=1e9, num_queries=_NULL_BATCHES)

    def run_nothing(batch: Batch) -> tuple[None, ...]:
        return (None,) * len(batch.parts)

    result = run_live(
        schedule,
        PolicyConfig(policy="static", batch_items_max=1),
        num_workers=1,
        run_batch=run_nothing,
        initialise_worker=initialise_worker,
    )
    span_ns = int(result.batches.done_ns[-1] - result.batches.done_ns[0])
    return span_ns // (len(result.batches.done_ns) - 1)
