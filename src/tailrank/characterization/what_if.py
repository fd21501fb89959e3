"""What a host would do, from profiles alone: other workers, other traffic, another device.

Everything here is simulated and nothing is run. Knows no command line and writes no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tailrank.characterization.load_test import (
    LoadTestConfig,
    rough_capacity_qps,
    simulate_load,
)
from tailrank.core.errors import ConfigError, OutsideProfile, RequestError
from tailrank.core.fleet import Fleet
from tailrank.core.measurement import Measurement
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.runtime.measurement import WARMUP_FRACTION
from tailrank.runtime.record import RunResult
from tailrank.scheduling.policies import PolicyConfig
from tailrank.tuning.capacity import Capacity, find_capacity
from tailrank.workload.arrivals import Arrivals, parse_arrivals
from tailrank.workload.schedule import WorkloadConfig

# Longer runs would take minutes and gigabytes, and decide no SLA any better.
_QUERIES_MAX = 5_000_000
_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledWorkers:
    """Workers of one device, with the profile that tells their service times.

    Args:
        profile: the file that `tailrank profile` wrote.
        device: their name in the fleet.
        count: how many; None: as many as the profile had busy at once.
    """

    profile: Path
    device: str = "cpu"
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> ProfiledWorkers:
        """Read `FILE`, or `DEVICE=FILE:COUNT`.

        Raises:
            ConfigError: the text is neither.
        """
        device, is_named, rest = text.partition("=")
        if not is_named:
            return cls(profile=Path(text))
        file, _, count = rest.rpartition(":")
        if not device or not file or not count.isdecimal() or int(count) < 1:
            raise ConfigError("--profile", text, "FILE, or DEVICE=FILE:COUNT as in cuda=gpu.json:1")
        return cls(profile=Path(file), device=device, count=int(count))


@dataclass(frozen=True, slots=True, eq=False)
class WhatIfFleet:
    """A fleet that may exist nowhere.

    Args:
        fleet: its slots and tables.
        assumptions: what was assumed beyond what was measured, in sentences.
    """

    fleet: Fleet
    assumptions: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, workers: Sequence[ProfiledWorkers], *, extrapolate_workers: bool = False
    ) -> WhatIfFleet:
        """Read the profiles.

        Args:
            workers: of each device.
            extrapolate_workers: whether a device may have more workers than its profile had busy at
                once; they are then as slow as if only so many were busy.

        Raises:
            DataError: a file is missing or is no profile.
            RequestError: two profiles are of one device, or of models that read other features.
            OutsideProfile: more workers than measured.
        """
        devices: list[str] = []
        tables: dict[tuple[str, str], ServiceTimeTable] = {}
        assumptions = []
        for own in workers:
            if ("", own.device) in tables:
                raise RequestError("--profile", f"{own.device!r} is named twice; give it one file")
            table = ServiceTimeTable.load(own.profile)
            measured = int(table.axes["busy_workers"][-1])
            count = measured if own.count is None else own.count
            if count > measured and not extrapolate_workers:
                raise OutsideProfile(
                    f"{own.profile} measured 1 to {measured} busy workers, {count} were asked for: "
                    f"profile a host with {count}, or take contention beyond {measured} busy "
                    f"workers as measured at {measured}, with --extrapolate-workers"
                )
            if count > measured:
                table = table.with_busy_workers(count)
                assumptions.append(
                    f"contention beyond {measured} busy workers is taken as measured at "
                    f"{measured}: {own.device} has {count} workers, and nobody measured more than "
                    f"{measured} at once, so the true capacity is likely lower"
                )
            tables["", own.device] = table
            devices += [own.device] * count
        axes = {table.axes["ids_per_item"] for table in tables.values()}
        if len(axes) > 1 or len(next(iter(axes))) > 1:
            shown = ", ".join(sorted(str(list(axis)) for axis in axes))
            reason = f"profiles of one model and its ids per item are wanted; these have {shown}"
            raise RequestError("--profile", reason)
        return cls(Fleet(tuple(devices), tables), tuple(assumptions))

    def describe(self) -> list[dict[str, object]]:
        """The workers of each device and what their profile is of, for the result file."""
        return [
            {
                "device": device,
                "workers": self.fleet.devices.count(device),
                "profiled": table.device,
            }
            for (_, device), table in self.fleet.tables.items()
        ]

    @property
    def ids_per_item(self) -> float:
        """Ids per item of the model that was profiled."""
        return next(iter(self.fleet.tables.values())).axes["ids_per_item"][0]

    @property
    def items_max(self) -> int:
        """Items of the largest batch that was measured on every device."""
        return int(min(table.axes["num_items"][-1] for table in self.fleet.tables.values()))

    @property
    def parts_max(self) -> int:
        """Parts of the batch with most parts that was measured on every device."""
        return int(min(table.axes["num_parts"][-1] for table in self.fleet.tables.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What to simulate.

    Args:
        sla: percentile and limit.
        sizes: items per query, see `workload.parse_query_sizes`.
        arrivals: when queries come, see `workload.parse_arrivals`.
        policy: the policy and its settings.
        qps: offered load; None: the largest inside the SLA is looked for.
        seconds: length of a run; None: 10 s, or as long as the arrivals take to show whole periods
            or several bursts after the warm-up, or the whole trace.
        seed: of arrivals, sizes and service times.
    """

    sla: SLA
    sizes: str
    arrivals: str
    policy: PolicyConfig
    qps: float | None = None
    seconds: float | None = None
    seed: int = 0

    def load(self, fleet: WhatIfFleet) -> LoadTestConfig:
        """The workload and the length of a run on this fleet.

        Raises:
            ConfigError: a number is out of range, or queries are larger than any that was measured.
            DataError: a trace is damaged.
        """
        if self.qps is not None and not 0.0 < self.qps < float("inf"):
            raise ConfigError("--qps", self.qps, "a finite number above 0")
        arrivals = parse_arrivals(self.arrivals)
        whole_trace = arrivals.num_recorded if self.seconds is None else None
        return LoadTestConfig(
            workload=WorkloadConfig(
                sizes=self.sizes,
                arrivals=self.arrivals,
                items_limit=fleet.items_max,
                ids_per_item=fleet.ids_per_item,
                arrival_seed=self.seed,
                size_seed=self.seed,
                payload_seed=self.seed,
            ),
            sla=self.sla,
            num_workers=len(fleet.fleet.devices),
            seconds=_seconds(arrivals) if self.seconds is None else self.seconds,
            queries=whole_trace,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfResult:
    """What the simulation has shown.

    Args:
        measurement: at the load that was asked for, or at the capacity (where no load met the SLA,
            at the smallest that was tried).
        run: its rows.
        capacity: None where a load was asked for.
        notes: what must be said beside the figures, in sentences.
    """

    measurement: Measurement
    run: RunResult = field(repr=False)
    capacity: Capacity | None
    notes: tuple[str, ...]


def ask_what_if(
    question: WhatIf,
    fleet: WhatIfFleet,
    on_probe: Callable[[int, float], None] = lambda number, qps: None,
) -> WhatIfResult:
    """Simulate one load, or search for the capacity.

    Args:
        question: what to simulate.
        fleet: on what.
        on_probe: told the number of each load that is simulated, from 1, and its queries/s.

    Raises:
        OutsideProfile: the policy makes batches that nobody measured.
        RequestError: a run has millions of queries.
    """
    load = question.load(fleet)
    probes = 0

    def run(policy: PolicyConfig, qps: float) -> tuple[Measurement, RunResult]:
        nonlocal probes
        probes += 1
        on_probe(probes, qps)
        if load.num_queries(qps) > _QUERIES_MAX:
            reason = f"a run at {qps:,.0f} queries/s has {load.num_queries(qps):,} queries, more "
            raise RequestError("--duration", reason + f"than {_QUERIES_MAX:,}; name a shorter one")
        return simulate_load(load, fleet.fleet, policy, qps)

    capacity = None
    if question.qps is None:
        start_qps = rough_capacity_qps(load, fleet.fleet)
        capacity = find_capacity(
            lambda policy, qps: run(policy, qps)[0],
            question.policy,
            question.sla,
            start_qps=start_qps,
        )
        # The same load again, for its rows: a search would have to keep those of every probe.
        measurement, result = run(question.policy, capacity.at.offered_qps)
    else:
        measurement, result = run(question.policy, question.qps)
    notes = _notes(question, load, measurement, result)
    return WhatIfResult(
        measurement=measurement,
        run=result,
        capacity=capacity,
        notes=(*fleet.assumptions, *notes),
    )


def _notes(
    question: WhatIf, load: LoadTestConfig, measurement: Measurement, run: RunResult
) -> list[str]:
    """What the arrivals want to be said."""
    arrivals = parse_arrivals(question.arrivals)
    notes = [] if arrivals.note is None else [arrivals.note]
    if arrivals.own_qps is not None and arrivals.num_recorded is not None:
        factor = arrivals.own_qps / measurement.offered_qps
        notes.append(
            f"the trace's {arrivals.num_recorded:,} queries came at {arrivals.own_qps:,.4g} "
            f"queries/s; their times were stretched {factor:.3g} times"
        )
        rounds = len(run.queries.scheduled_ns) / arrivals.num_recorded
        if rounds > 1:
            notes.append(f"the run is longer than its trace, which was repeated {rounds:.3g} times")
        notes.append("of the first tenth of the run, its warm-up, no latency is counted")
    elif arrivals.whole_s is not None and load.seconds < _seconds_of(1, arrivals.whole_s):
        notes.append(
            f"runs of {load.seconds:g} s are too short for {question.arrivals}: their mean rate is "
            f"another than the offered load, and {_seconds_of(1, arrivals.whole_s):.3g} s would "
            "show it all after the warm-up"
        )
    return notes


def _seconds(arrivals: Arrivals) -> float:
    """Length of a run where none was asked for: whole periods, whichever are the busy hours."""
    if arrivals.whole_s is None:
        return _SECONDS
    periods = math.ceil(_SECONDS * (1.0 - WARMUP_FRACTION) / arrivals.whole_s)
    return _seconds_of(periods, arrivals.whole_s)


def _seconds_of(periods: int, period_s: float) -> float:
    """Length of a run that has so many periods left after its warm-up."""
    return periods * period_s / (1.0 - WARMUP_FRACTION)
