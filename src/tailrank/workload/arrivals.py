"""When queries arrive: an absolute schedule, drawn beforehand. Knows nothing of queries.

A Poisson process unless the traffic is said to have bursts or a daily curve, or was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError
from tailrank.workload.modulated import Rhythm, parse_rhythm
from tailrank.workload.trace import TRACE_PREFIX, read_trace

ALLOWED = (
    "poisson, mmpp:FACTOR,SHARE,LENGTH, diurnal:PERIOD,AMPLITUDE, diurnal:PERIOD,RATE,RATE,…, "
    "trace:FILE or legacy-deeprecsys"
)
LEGACY_NOTE = (
    "legacy arrivals: gaps are Poisson integers of milliseconds, as in DeepRecSys; only to be held "
    "against its numbers"
)

# Folded into every seed, so that equal seeds for arrivals and sizes still give separate streams.
_STREAM = 0xA771
_TIME_NS_MAX = 1 << 62  # int64 holds twice that

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A process by which queries arrive, at whatever mean rate is asked for.

    Args:
        spec: as the user wrote it, such as `mmpp:5,0.1,2s`.
        whole_s: how long a run has to be to have about the mean rate, where bursts or days last
            seconds; None: any length will do.
        own_qps: the mean rate of a recorded trace; None: it has no rate of its own.
        num_recorded: queries of a recorded trace; a longer schedule begins with the first again.
        note: what must be said wherever figures from such traffic are shown; None: nothing.
    """

    spec: str
    _draw_s: Callable[[float, int, int], Seconds]
    whole_s: float | None = None
    own_qps: float | None = None
    num_recorded: int | None = None
    note: str | None = None

    def draw_ns(self, qps: float, num_queries: int, seed: int) -> NDArray[np.int64]:
        """Arrival times from time 0; a longer schedule begins with the shorter one.

        The same seed at another rate is the same traffic, only faster, so that two rates are
        compared on common random numbers; but bursts and days keep the length in seconds that they
        have, with more queries in each. Legacy arrivals are others at another rate.

        Args:
            qps: mean rate in queries per second, > 0.
            num_queries: length of the schedule, >= 1.
            seed: of what is random.

        Returns:
            int64 ns, non-decreasing, `num_queries` long.

        Raises:
            ConfigError: rate or length is outside its range.
        """
        if not 0.0 < qps < float("inf"):
            raise ConfigError("qps", qps, "a finite number above 0")
        if num_queries < 1:
            raise ConfigError("num_queries", num_queries, "at least 1")
        times_ns = np.rint(self._draw_s(qps, num_queries, seed) * 1e9)
        if times_ns[-1] >= _TIME_NS_MAX:
            allowed = f"a rate at which {num_queries:,} queries come within 146 years"
            raise ConfigError("qps", qps, allowed)
        return times_ns.astype(np.int64)


def parse_arrivals(spec: str) -> Arrivals:
    """Read the name of an arrival process and its numbers.

    - `poisson`: exponential gaps.
    - `mmpp:FACTOR,SHARE,LENGTH`: bursts, in which queries come FACTOR times as fast as outside;
      they take SHARE of the time and last LENGTH (as in `2s`) on average.
    - `diurnal:PERIOD,AMPLITUDE`: the rate is a sine around its mean, which it leaves by at most
      that share. `diurnal:PERIOD,RATE,RATE,…`: it takes these relative values, two or more, for
      equal parts of the period.
    - `trace:FILE`: recorded times, see `read_trace`; at another rate they are stretched.
    - `legacy-deeprecsys`: gaps of whole milliseconds, Poisson distributed.

    Raises:
        ConfigError: the text is none of these, or a number is out of range.
        DataError: the trace is missing or damaged; says where.
    """
    name, _, rest = spec.strip().partition(":")
    if spec.strip() == "poisson":
        return Arrivals(spec, _poisson_s)
    if spec.strip() == "legacy-deeprecsys":
        return Arrivals(spec, _legacy_s, note=LEGACY_NOTE)
    if spec.strip().startswith(TRACE_PREFIX):
        times_s = read_trace(rest).times_s()
        gap_s = float(times_s[-1]) / (len(times_s) - 1)
        replay = partial(_replay_s, times_s / gap_s)
        return Arrivals(spec, replay, own_qps=1.0 / gap_s, num_recorded=len(times_s))
    if name not in ("mmpp", "diurnal"):
        raise ConfigError("arrivals", spec, ALLOWED)
    rhythm = parse_rhythm(spec)
    return Arrivals(spec, partial(_modulated_s, rhythm), whole_s=rhythm.whole_s)


def poisson_arrivals_ns(qps: float, num_queries: int, seed: int) -> NDArray[np.int64]:
    """Arrival times of a Poisson process, from time 0; see `Arrivals.draw_ns`."""
    return parse_arrivals("poisson").draw_ns(qps, num_queries, seed)


def _unit_arrivals(num_queries: int, seed: int) -> NDArray[np.float64]:
    """A Poisson process of rate 1."""
    gaps = np.random.default_rng([_STREAM, seed]).standard_exponential(num_queries)
    return np.cumsum(gaps)


def _poisson_s(qps: float, num_queries: int, seed: int) -> Seconds:
    return _unit_arrivals(num_queries, seed) / qps


def _modulated_s(rhythm: Rhythm, qps: float, num_queries: int, seed: int) -> Seconds:
    """Poisson arrivals at a rate that changes: those at the mean rate, by a change of time."""
    return rhythm.times_s(_poisson_s(qps, num_queries, seed), seed)


def _replay_s(unit_times: NDArray[np.float64], qps: float, num_queries: int, seed: int) -> Seconds:
    """The recorded times, again and again, at this mean rate."""
    round_number, row = np.divmod(np.arange(num_queries), len(unit_times))
    times_s: Seconds = (unit_times[row] + round_number * len(unit_times)) / qps
    return times_s


def _legacy_s(qps: float, num_queries: int, seed: int) -> Seconds:
    """Whole milliseconds, which DeepRecSys' load generator draws: their CV is not 1.

    Source: the released loadGenerator.py of DeepRecSys (Gupta et al., ISCA 2020).
    """
    gaps_ms = np.random.default_rng([_STREAM, seed]).poisson(1e3 / qps, num_queries)
    times_s: Seconds = np.cumsum(gaps_ms) / 1e3
    return times_s
