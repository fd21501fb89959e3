"""The way to an operating point: profile, simulate all contenders, prove their best live.

A whole budget of wall time is dealt out. Knows no command line and no file: what is finished goes
to whoever keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tailrank.characterization.bench import Bench
from tailrank.characterization.contenders import Contender, ContenderSearch
from tailrank.characterization.load_test import rough_capacity_qps, simulate_load
from tailrank.characterization.operating_point import (
    Bracket,
    OperatingPoint,
    OperatingPointConfig,
    PolicyCapacity,
    best_so_far,
)
from tailrank.characterization.service_time import BudgetTooShort
from tailrank.characterization.stages import (
    LiveRun,
    LiveStage,
    NoStages,
    SimulatedStage,
    Stages,
)
from tailrank.core.clock import Clock, MonotonicClock
from tailrank.core.errors import RequestError
from tailrank.core.fleet import Fleet
from tailrank.core.measurement import Measurement
from tailrank.core.service_time import ServiceTimeTable
from tailrank.runtime.measurement import to_measurement
from tailrank.runtime.record import RunResult
from tailrank.tuning.candidate import Candidate
from tailrank.tuning.capacity import Capacity, Probe, verify_capacity
from tailrank.tuning.search import Point, SearchResult, merit
from tailrank.tuning.verification import Verified, verify_best

# Beyond so many queries chance is small beside what a simulation does not know. A run that is over
# within the SLA's limit keeps it at any load: beyond what workers can do, it lasts two of them.
_SIMULATED_QUERIES_MAX, _LIMITS_MIN = 20_000, 2

OnProgress = Callable[[str, float, str], None]
"""Told the stage, its finished fraction (0 to 1) and a remark."""


def find_operating_point(
    config: OperatingPointConfig,
    bench: Bench,
    *,
    tables: Mapping[str, ServiceTimeTable] | None = None,
    stages: Stages | None = None,
    on_progress: OnProgress = lambda stage, fraction, remark: None,
    announce: Callable[[str], None] = lambda text: None,
    clock: Clock | None = None,
) -> OperatingPoint:
    """Profile, find the best settings of every contender in simulation, prove them live.

    A keyboard interrupt keeps what is known, once the baseline has been simulated.

    Args:
        config: what to look for.
        bench: what is put under load.
        tables: its service times by device; those of devices that are not there are measured first.
        stages: knows what an interrupted search had finished, and keeps what this one finishes;
            None: nobody does.
        on_progress: see `OnProgress`.
        announce: told where the time goes, and what it was too short for.
        clock: what the budget is held against; None: the system's.

    Raises:
        RequestError: the budget is too short for the profile, or for a single live run.
        OutsideProfile: `tables` do not reach as far as the batches to simulate.
        ServingError: a batch failed live.
    """
    search = _Search(
        config, bench, stages or NoStages(), on_progress, announce, clock or MonotonicClock()
    )
    search.profile(tables or {})
    return search.prove(search.simulate())


class _Search:
    """One way through profile, simulation and live runs, with the time that it has."""

    def __init__(
        self,
        config: OperatingPointConfig,
        bench: Bench,
        stages: Stages,
        on_progress: OnProgress,
        announce: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._config, self._bench, self._stages = config, bench, stages
        self._on_progress, self._announce, self._clock = on_progress, announce, clock
        self._load = bench.load(config)
        self._started_ns = clock.now_ns()
        self._simulate_until_s = config.simulate_share * config.budget_s
        self._strict: dict[Candidate, Capacity] = {}  # in runs as long as the live ones
        self._tables: dict[str, ServiceTimeTable] = {}  # by device
        self._start_qps = 0.0  # of the searches, below what the cores can do

    def profile(self, given: Mapping[str, ServiceTimeTable]) -> None:
        """The service times of every device: given, kept, or measured now."""
        for position, device in enumerate(self._config.devices):
            table = given.get(device) or self._stages.profile(device)
            if table is None:
                table = self._measured(device, position)
                self._stages.keep_profile(device, table)
            self._tables[device] = table

    def _measured(self, device: str, position: int) -> ServiceTimeTable:
        """The service times of a device, one of several."""
        config = self._config
        num_devices = len(config.devices)

        def advance(fraction: float, remark: str) -> None:
            words = remark if num_devices == 1 else f"{device}: {remark}"
            self._on_progress("profile", (position + fraction) / num_devices, words)

        grid = config.profile_config_of(device)
        try:
            return self._bench.profile(device, grid, advance, self._announce)
        except BudgetTooShort as error:
            share = config.profile_share / num_devices
            reason = f"{share:.0%} of {config.budget_s:g} s do not hold one batch of every size to "
            reason += f"be timed here and now; allow {math.ceil(error.needed_s / share)} s or more"
            raise RequestError("--budget", reason) from None

    def simulate(self) -> OperatingPoint:
        """The best settings of every contender, by simulation."""
        config, found = self._config, list[PolicyCapacity]()
        contenders = config.contenders  # the first is the baseline, on all cores
        fleet = self._fleet(contenders[0].space.candidates()[0])
        self._start_qps = rough_capacity_qps(self._load, fleet)
        search = ContenderSearch(
            self._simulate,
            config.sla,
            config.bounds,
            search=config.search,
            start_qps=self._start_qps,
            seed=config.seed,
        )
        interrupted = False
        for index, contender in enumerate(contenders):
            try:
                one, interrupted = self._find(contender, search, found, len(contenders))
                found.append(one)
            except KeyboardInterrupt:
                interrupted = True
                if index == 0:
                    raise
            if interrupted:
                break
        point = OperatingPoint(
            config=config, tables=self._tables, contenders=tuple(found), interrupted=interrupted
        )
        self._on_progress("simulate", 1.0, best_so_far(point.contenders))
        return point

    def _find(
        self,
        contender: Contender,
        search: ContenderSearch,
        before: list[PolicyCapacity],
        num_contenders: int,
    ) -> tuple[PolicyCapacity, bool]:
        """One contender at its best, and whether its search was interrupted."""
        interrupted = False
        stage = self._stages.simulated(contender.prefix)
        if stage is not None:
            capacity = self._again(stage.best)
        else:
            result = self._search(contender, search, before, num_contenders)
            interrupted = result.interrupted
            if result.best is None:
                raise KeyboardInterrupt
            # A search that was cut short may not have come to what another one has shown.
            known = search.known(contender)
            chosen = max((result.best, *known), key=merit)
            if not interrupted:
                chosen = self._as_long_as_live(chosen, known)
            capacity = chosen.capacity
            seen = {point.value: Bracket.of(point) for point in (*known, *result.points)}
            stage = SimulatedStage(Bracket.of(chosen), tuple(seen.values()))
            if not interrupted and not result.out_of_time:
                self._stages.keep_simulated(contender.prefix, stage)
        one = PolicyCapacity(
            name=contender.name,
            prefix=contender.prefix,
            candidate=stage.best.candidate,
            policy=self._config.policy_of(stage.best.candidate),
            simulated=capacity,
            brackets=stage.seen,
        )
        return one, interrupted

    def _search(
        self,
        contender: Contender,
        search: ContenderSearch,
        before: list[PolicyCapacity],
        num_contenders: int,
    ) -> SearchResult[Candidate]:
        """Search a contender's settings, in its share of the time that is left."""
        so_far = best_so_far(before)

        def on_point(point: Point[Candidate], fraction: float) -> None:
            remark = f"{contender.name}: {_words(point)}"
            done = (len(before) + fraction) / num_contenders
            self._on_progress("simulate", done, "; ".join(filter(None, (so_far, remark))))

        now_s = self._elapsed_s()
        until_s = now_s + (self._simulate_until_s - now_s) / (num_contenders - len(before))
        result = search.find(
            contender, seconds_left=lambda: until_s - self._elapsed_s(), on_point=on_point
        )
        if result.out_of_time:
            self._announce(
                f"{contender.name}: time for {len({p.value for p in result.points})} of "
                f"{len(contender.space.candidates())} settings only, or not for the longest runs"
            )
        return result

    def _as_long_as_live(
        self, best: Point[Candidate], known: Sequence[Point[Candidate]]
    ) -> Point[Candidate]:
        """The best in runs as long as the live ones, judged as strictly, to be compared.

        Of `best` and of those of `known`, other contenders', that had such runs already.
        """
        strict = self._strict
        if best.capacity.capacity_qps and best.value not in strict:
            strict[best.value] = verify_capacity(
                self._simulate,
                best.value,
                self._config.sla,
                expected_qps=best.capacity.capacity_qps,
                judge=self._config.judge,
                seconds_left=lambda: self._simulate_until_s - self._elapsed_s(),
            )
        seen = [Point(p.value, strict[p.value]) for p in (best, *known) if p.value in strict]
        found = max(seen, key=merit, default=best)
        return found if found.capacity.capacity_qps else best

    def _again(self, kept: Bracket) -> Capacity:
        """A capacity that was found before: simulated at its two ends, which decided it."""
        ends_qps = [qps for qps in (kept.low_qps, kept.high_qps) if 0.0 < qps < math.inf]
        ends = [self._simulate(kept.candidate, qps) for qps in ends_qps]
        return self._capacity(kept, ends)

    def _capacity(self, kept: Bracket, ends: Sequence[Measurement]) -> Capacity:
        """A capacity from what its ends have shown, that of the capacity first."""
        judge, sla = self._config.judge, self._config.sla
        probes = [Probe(seen.offered_qps, seen, judge(seen, sla)) for seen in ends]
        return Capacity(kept.low_qps, kept.high_qps, tuple(probes), ends[0])

    def _simulate(
        self, candidate: Candidate, qps: float, num_queries: int | None = None
    ) -> Measurement:
        """A simulated run; of as many queries as a live one where no number is given."""
        limits_ns = _LIMITS_MIN * self._config.sla.latency_ns if qps > 2 * self._start_qps else 0
        length = num_queries or min(self._load.num_queries(qps), _SIMULATED_QUERIES_MAX)
        length = max(length, min(math.ceil(qps * limits_ns / 1e9), _SIMULATED_QUERIES_MAX))
        fleet = self._fleet(candidate)
        load = replace(self._load, num_workers=len(fleet.devices), queries=length)
        return simulate_load(load, fleet, self._config.policy_of(candidate), qps)[0]

    def _fleet(self, candidate: Candidate) -> Fleet:
        return self._config.fleet_of(candidate, self._tables, self._load.workload.model)

    def prove(self, point: OperatingPoint) -> OperatingPoint:
        """The best of every contender, live, near what the simulation promised."""
        config = self._config
        promised = [each for each in point.contenders if each.simulated.capacity_qps]
        if not config.live or point.interrupted or not promised:
            return point
        runs: dict[Candidate, tuple[Capacity, RunResult]] = {}
        for each in promised:
            if (kept := self._stages.live(each.candidate)) is not None:
                runs[each.candidate] = self._served_before(kept), kept.ends[0].run
        # What all are compared with goes first, then the most promising.
        baseline, *others = promised
        order = [baseline, *sorted(others, key=lambda each: -each.simulated.capacity_qps)]
        wanted = {each.candidate: each for each in order if each.candidate not in runs}
        self._check_time_for_live([*wanted.values()], done=len(runs))
        interrupted = self._serve(wanted, runs, point)
        proven = tuple(_served(each, runs) for each in point.contenders)
        self._on_progress("live", 1.0, "")
        return replace(point, contenders=proven, interrupted=interrupted)

    def _serve(
        self,
        wanted: dict[Candidate, PolicyCapacity],
        runs: dict[Candidate, tuple[Capacity, RunResult]],
        point: OperatingPoint,
    ) -> bool:
        """Verify candidates as long as there is time; True if that was interrupted."""
        config, started_s = self._config, self._elapsed_s()
        serve = self._bench.live(config, self._load, point.tables)
        rows: dict[float, RunResult] = {}
        interrupted = False

        def measure(candidate: Candidate, qps: float) -> Measurement:
            nonlocal interrupted
            so_far = best_so_far([_served(each, runs) for each in point.contenders])
            remark = f"{wanted[candidate].name} at {qps:,.0f} queries/s"
            done = (self._elapsed_s() - started_s) / max(1e-9, config.budget_s - started_s)
            self._on_progress("live", min(0.99, done), "; ".join(filter(None, (so_far, remark))))
            try:
                measurement, rows[qps] = serve(candidate, qps)
            except KeyboardInterrupt:
                interrupted = True
                raise
            return measurement

        def on_verified(found: Verified[Candidate]) -> None:
            runs[found.value] = found.live, rows[found.live.at.offered_qps]
            whole = replace(wanted[found.value], live=found.live)
            # What the budget cut short is worth another try.
            if not interrupted and not whole.invalid_reasons:
                self._stages.keep_live(_live_stage(found.value, found.live, rows))
            rows.clear()

        verification = verify_best(
            measure,
            [Point(each.candidate, each.simulated) for each in wanted.values()],
            config.sla,
            num_best=max(1, len(wanted)),
            judge=config.judge,
            seconds_left=lambda: config.budget_s - self._elapsed_s(),
            on_verified=on_verified,
        )
        if verification.out_of_time:
            self._announce("the budget ended before every contender was served live")
        return verification.interrupted

    def _served_before(self, kept: LiveStage) -> Capacity:
        """A live capacity from the rows of the runs that decided it."""
        ends = [
            replace(
                to_measurement(end.run, offered_qps=end.qps, sla=self._config.sla),
                queries_per_joule=end.queries_per_joule,
            )
            for end in kept.ends
        ]
        return self._capacity(kept.bracket, ends)

    def _check_time_for_live(self, wanted: list[PolicyCapacity], *, done: int) -> None:
        """Refuse a budget that is too short for a single live run of anybody."""
        if done or not wanted:
            return
        spent_s, budget_s = self._elapsed_s(), self._config.budget_s
        runs_s = [
            self._load.num_queries(qps) / qps
            for qps in (each.simulated.capacity_qps for each in wanted)
        ]
        if min(runs_s) > budget_s - spent_s:
            needed_s = math.ceil(spent_s + sum(runs_s))
            raise RequestError(
                "--budget",
                f"{budget_s:g} s leave {max(0.0, budget_s - spent_s):.1f} s for live runs, and a "
                f"single one takes {min(runs_s):.1f} s; allow {needed_s} s or more, or "
                "--simulate-only",
            )

    def _elapsed_s(self) -> float:
        """Time since the search began."""
        return (self._clock.now_ns() - self._started_ns) / 1e9


def _live_stage(candidate: Candidate, found: Capacity, rows: dict[float, RunResult]) -> LiveStage:
    """What is kept of a live search: its bracket, and the runs at the ends of it."""
    joules = {probe.qps: probe.measurement.queries_per_joule for probe in found.probes}
    ends = [qps for qps in (found.at.offered_qps, found.high_qps) if qps in rows]
    return LiveStage(
        Bracket(candidate, found.low_qps, found.high_qps),
        tuple(LiveRun(qps, rows[qps], joules[qps]) for qps in dict.fromkeys(ends)),
    )


def _served(
    contender: PolicyCapacity, runs: dict[Candidate, tuple[Capacity, RunResult]]
) -> PolicyCapacity:
    """A contender with what was served of its settings, if they were."""
    found = runs.get(contender.candidate)
    return contender if found is None else replace(contender, live=found[0], run=found[1])


def _words(point: Point[Candidate]) -> str:
    """A simulated point as people read it."""
    own, qps = point.value, point.capacity.capacity_qps
    threshold = own.offload_threshold_items
    offload = "" if threshold is None else f"offload from {threshold}, "
    return f"batch {own.batch_items_max}, {offload}{qps:,.0f} queries/s"
