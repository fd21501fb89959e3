"""The largest load inside an SLA: double until it fails, then bisect.

`measure(config, qps) -> Measurement` is handed in: nothing here can tell simulation from serving.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeVar

from tailrank.core.errors import ConfigError
from tailrank.core.measurement import Measurement
from tailrank.core.sla import SLA

Config = TypeVar("Config")
Measure = Callable[[Config, float], Measurement]

_NUM_OCTAVES_MAX = 20  # doublings from the start before a search gives up: a factor of a million
# Times that a load is measured again while its generator was late: pauses of a shared host come and
# go, and a miss that is theirs would bound all that follows.
_LATE_REPEATS = 2
_LIGHT_LOAD_FRACTION = 1 / 1024  # of the start: whoever misses the SLA there misses it everywhere


class Verdict(Enum):
    """What a probe says about the SLA at its load."""

    PASS = "pass"
    MISS = "miss"
    UNDECIDED = "undecided"


SecondsLeft = Callable[[], float]
"""Time until a search must end; handed in, for nothing here owns a clock."""

Judge = Callable[[Measurement, SLA], Verdict]
"""Holds a measurement against an SLA: `judge_probe`, or a `partial` of it that asks for more."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One measured load.

    Args:
        qps: offered load.
        measurement: what was seen.
        verdict: see `judge_probe`.
    """

    qps: float
    measurement: Measurement
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Capacity:
    """Latency-bounded throughput with its interval.

    Args:
        low_qps: the largest load that was seen to pass; 0 where none did.
        high_qps: the smallest load above it that was seen to miss; inf where none was.
        probes: every measured load, in order of measurement.
        at: the measurement at `low_qps`; where nothing passed, the one at the smallest load, which
            shows the latency floor.
    """

    low_qps: float
    high_qps: float
    probes: tuple[Probe, ...]
    at: Measurement

    @property
    def capacity_qps(self) -> float:
        """The largest load that was seen to meet the SLA with confidence."""
        return self.low_qps

    @property
    def undecided(self) -> bool:
        """Whether even the smallest load was neither a clear pass nor a clear miss."""
        return self.low_qps == 0.0 and self.at.offered_qps < self.high_qps

    @property
    def invalid_reasons(self) -> tuple[str, ...]:
        """Why the verdicts that decided should not be believed; empty if they should.

        An unstable probe above the capacity is a plain miss; the other reasons count wherever they
        touch one of the two ends.
        """
        reasons = list(self.at.validity.reasons)
        if self.undecided:
            reasons.append(
                f"undecided: {self.at.summary.num_queries} queries at {self.at.offered_qps:.3g} "
                "queries/s show neither that the SLA is kept nor that it is missed; measure longer"
            )
        for probe in self.probes:
            if probe.qps == self.high_qps:
                reasons += [
                    reason
                    for reason in probe.measurement.validity.reasons
                    if not reason.startswith("unstable")
                ]
        return tuple(dict.fromkeys(reasons))


class CapacityInterrupted(KeyboardInterrupt):
    """A keyboard interrupt between the probes of a search.

    Args:
        capacity: what the probes before it have shown.
    """

    def __init__(self, capacity: Capacity) -> None:
        super().__init__()
        self.capacity = capacity


def unlimited() -> float:
    """The time left of a search that may take as long as it likes."""
    return math.inf


def judge_probe(
    measurement: Measurement,
    sla: SLA,
    *,
    bounds: tuple[SLA, ...] = (),
    allow_rejects: bool = True,
    certain: bool = True,
) -> Verdict:
    """Hold a measurement against the SLA: is the allowed fraction of slow queries kept for certain?

    Decided on the confidence bounds of the fraction above the limit. A run whose backlog grew, or
    that was cut off before its queue was empty, is a miss.

    Args:
        measurement: what was seen.
        sla: percentile and limit.
        bounds: further percentiles and limits that are to be kept as well.
        allow_rejects: whether queries may be turned away as long as the percentiles bear it.
        certain: False: decide on the fraction that was seen, so that nothing is undecided; for
            comparing policies that all see the same queries, where chance falls on all alike.
    """
    unstable = any(reason.startswith("unstable") for reason in measurement.validity.reasons)
    if unstable or (measurement.num_rejected and not allow_rejects):
        return Verdict.MISS
    verdict = Verdict.PASS
    for bound in (sla, *bounds):
        slow = measurement.summary.fraction_above(bound.latency_ns)
        low, high = (slow.low, slow.high) if certain else (slow.value, slow.value)
        allowed = 1.0 - bound.percentile / 100.0
        if low > allowed:
            return Verdict.MISS
        if high > allowed:
            verdict = Verdict.UNDECIDED
    return verdict


def find_capacity(
    measure: Measure[Config],
    config: Config,
    sla: SLA,
    *,
    start_qps: float,
    tolerance: float = 0.02,
    judge: Judge = judge_probe,
) -> Capacity:
    """Search from a rough guess: double until a load fails, then bisect.

    If the guess itself fails, the search goes on between it and a thousandth of it; an SLA that is
    missed even there is the result `low_qps = 0`.

    A load whose generator was late is measured again, up to twice. A load that is neither a clear
    pass nor a clear miss bounds the search from above but not the interval: `low_qps` is what
    passed for certain, `high_qps` what missed for certain.

    Args:
        measure: measures one load; called at most about 40 times.
        config: handed through to `measure`.
        sla: percentile and limit.
        start_qps: first load, > 0.
        tolerance: width of the last bracket, relative to its lower end, > 0.
        judge: what a load must keep; a `partial` of `judge_probe` asks for further bounds.

    Raises:
        ConfigError: a number is out of range.
    """
    _check_positive(start_qps=start_qps, tolerance=tolerance)
    search = _Search(partial(measure, config), lambda seen: judge(seen, sla))
    if search.passes(start_qps):
        for octave in range(1, _NUM_OCTAVES_MAX + 1):
            if not search.passes(start_qps * 2**octave):
                break
    else:
        search.passes(start_qps * _LIGHT_LOAD_FRACTION)
    search.bisect(tolerance)
    return search.capacity()


def verify_capacity(
    measure: Measure[Config],
    config: Config,
    sla: SLA,
    *,
    expected_qps: float,
    step: float = 1.06,
    tolerance: float = 0.02,
    num_probes_max: int = 12,
    judge: Judge = judge_probe,
    seconds_left: SecondsLeft = unlimited,
) -> Capacity:
    """Search near an expectation: step away from it by growing factors, then bisect.

    For live runs, where every probe costs seconds and the simulated capacity is known.

    Args:
        measure: measures one load.
        config: handed through to `measure`.
        sla: percentile and limit.
        expected_qps: first load, > 0.
        step: factor of the first step, > 1; each further step squares it, at most 2.
        tolerance: width of the last bracket, relative to its lower end, > 0.
        num_probes_max: most probes, >= 2.
        judge: what a load must keep; a `partial` of `judge_probe` asks for further bounds.
        seconds_left: asked before each probe but the first; the search ends where none are left.

    Raises:
        ConfigError: a number is out of range.
        CapacityInterrupted: a keyboard interrupt came after the first probe.
    """
    _check_positive(expected_qps=expected_qps, tolerance=tolerance)
    if not 1.0 < step <= 2.0:
        raise ConfigError("step", step, "a number above 1, at most 2")
    if num_probes_max < 2:
        raise ConfigError("num_probes_max", num_probes_max, "a whole number from 2")
    search = _Search(
        partial(measure, config), lambda seen: judge(seen, sla), num_probes_max, seconds_left
    )
    qps = expected_qps
    upwards = search.passes(qps)
    while search.may_probe():
        qps = qps * step if upwards else qps / step
        if search.passes(qps) != upwards:
            break
        step = min(step * step, 2.0)
    search.bisect(tolerance)
    return search.capacity()


class _Search:
    """The probes so far and the bracket they leave."""

    def __init__(
        self,
        measure: Callable[[float], Measurement],
        judge: Callable[[Measurement], Verdict],
        num_probes_max: float = math.inf,
        seconds_left: SecondsLeft = unlimited,
    ) -> None:
        self._measure, self._judge = measure, judge
        self._num_probes_max, self._seconds_left = num_probes_max, seconds_left
        self.probes: list[Probe] = []
        self._low_qps = 0.0  # largest pass
        self._stop_qps = math.inf  # smallest load that did not pass

    def may_probe(self) -> bool:
        """Whether probes and time are left for another load."""
        return len(self.probes) < self._num_probes_max and self._seconds_left() > 0.0

    def passes(self, qps: float) -> bool:
        """Measure one more load."""
        try:
            measurement = self._measure(qps)
            for _ in range(_LATE_REPEATS):
                if not _is_late(measurement) or self._seconds_left() <= 0.0:
                    break
                measurement = self._measure(qps)
        except KeyboardInterrupt:
            if self.probes:
                raise CapacityInterrupted(self.capacity()) from None
            raise
        verdict = self._judge(measurement)
        self.probes.append(Probe(qps, measurement, verdict))
        if verdict is Verdict.PASS:
            self._low_qps = max(self._low_qps, qps)
        else:
            self._stop_qps = min(self._stop_qps, qps)
        return verdict is Verdict.PASS

    def bisect(self, tolerance: float) -> None:
        """Narrow the bracket, geometrically, as the loads were stepped."""
        while (
            self._low_qps > 0.0
            and self._stop_qps < math.inf
            and self._stop_qps > self._low_qps * (1.0 + tolerance)
            and self.may_probe()
        ):
            self.passes(math.sqrt(self._low_qps * self._stop_qps))

    def capacity(self) -> Capacity:
        """What the probes have shown."""
        missed = [
            probe.qps
            for probe in self.probes
            if probe.verdict is Verdict.MISS and probe.qps > self._low_qps
        ]
        at_qps = self._low_qps or min(probe.qps for probe in self.probes)
        at = next(probe.measurement for probe in self.probes if probe.qps == at_qps)
        return Capacity(self._low_qps, min(missed, default=math.inf), tuple(self.probes), at)


def _is_late(measurement: Measurement) -> bool:
    """Whether the host kept the load generator waiting: says nothing of the load, good or bad."""
    return any(reason.startswith("generator_late") for reason in measurement.validity.reasons)


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0.0 < number < math.inf:
            raise ConfigError(name, number, "a finite number above 0")
