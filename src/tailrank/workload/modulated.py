"""Rates that change with time: bursts that come by chance, and the curve of a day.

Both turn Poisson arrivals at the mean rate into arrivals at the changing one by a change of time:
a query due when the mean rate has brought x arrivals is due when the changing one has (Çinlar,
Introduction to Stochastic Processes, ch. 4.7). Knows nothing of queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError
from tailrank.core.sla import parse_duration_ns

_STREAM = 0x3A9F
_NUM_PHASES_MAX = 10_000_000  # 160 MB; keeps a typing error from filling memory
_BURSTS_SHOWN = 20  # so many have 0.8 to 1.2 times their mean length, two times in three
_SINE_STEPS = 1440  # one for each minute of a day, which changes a rate by 0.4 % at most

Seconds = NDArray[np.float64]


class Rhythm(Protocol):
    """A rate as it changes, relative to its mean."""

    @property
    def whole_s(self) -> float:
        """How long a run has to be to have about the mean rate."""
        ...

    def times_s(self, even_s: Seconds, seed: int) -> Seconds:
        """When what is due at `even_s` (rising) at the mean rate is due at this one."""
        ...


@dataclass(frozen=True, slots=True)
class Bursts:
    """A Markov-modulated Poisson process of two states.

    The mean rate is that of the process; a finite run has more or less by chance.

    Args:
        factor: rate in a burst over the rate outside, >= 1.
        share: of the time that bursts take, in (0, 1).
        length_s: their mean length, which is exponentially distributed.

    Source: Fischer and Meier-Hellstern, The MMPP cookbook (Performance Evaluation 18, 1993).
    """

    factor: float
    share: float
    length_s: float

    @property
    def whole_s(self) -> float:
        """As long as several bursts and the time between them."""
        return _BURSTS_SHOWN * (self.length_s + self.calm_length_s)

    @property
    def calm_rate(self) -> float:
        """Rate outside bursts, relative to the mean."""
        return 1.0 / (1.0 + self.share * (self.factor - 1.0))

    @property
    def calm_length_s(self) -> float:
        """Mean time between two bursts."""
        return self.length_s * (1.0 - self.share) / self.share

    def times_s(self, even_s: Seconds, seed: int) -> Seconds:
        """See `Rhythm`; the same bursts at every rate and for every length of a schedule.

        Raises:
            ConfigError: bursts are so short that the schedule has millions of them.
        """
        mean_s = np.array([self.calm_length_s, self.length_s])
        rate = np.array([self.calm_rate, self.calm_rate * self.factor])
        begin_seed, length_seed = np.random.SeedSequence([_STREAM, seed]).spawn(2)
        if np.random.default_rng(begin_seed).random() < self.share:  # it begins inside a burst
            mean_s, rate = mean_s[::-1], rate[::-1]
        num_pairs = 8 + math.ceil(1.5 * float(even_s[-1]) / float(mean_s.sum()))
        while True:
            if 2 * num_pairs > _NUM_PHASES_MAX:
                raise ConfigError(
                    "arrivals",
                    f"bursts of {self.length_s:g} s in {even_s[-1]:.3g} s of traffic",
                    f"at most {_NUM_PHASES_MAX // 2:,} bursts in a schedule",
                )
            units = np.random.default_rng(length_seed).standard_exponential((num_pairs, 2))
            lengths_s = units * mean_s
            arrived = np.concatenate([[0.0], np.cumsum((lengths_s * rate).ravel())])
            if arrived[-1] >= even_s[-1]:
                ends_s = np.concatenate([[0.0], np.cumsum(lengths_s.ravel())])
                times_s: Seconds = np.interp(even_s, arrived, ends_s)
                return times_s
            num_pairs *= 2


@dataclass(frozen=True, slots=True)
class Day:
    """A rate that repeats itself; time 0 is the beginning of a period.

    Args:
        period_s: length of a period.
        rates: for equal parts of it, relative to one another, all above 0.
    """

    period_s: float
    rates: tuple[float, ...]

    @property
    def whole_s(self) -> float:
        """One period."""
        return self.period_s

    @classmethod
    def sine(cls, period_s: float, amplitude: float) -> Day:
        """A sine around the mean, in steps that have its mean over each."""
        edges = np.linspace(0.0, 2.0 * np.pi, _SINE_STEPS + 1)
        steps = 1.0 - amplitude * np.diff(np.cos(edges)) / np.diff(edges)
        return cls(period_s, tuple(steps.tolist()))

    def times_s(self, even_s: Seconds, seed: int) -> Seconds:
        """See `Rhythm`."""
        arrived = np.concatenate([[0.0], np.cumsum(self.rates)]) / sum(self.rates)
        whole, part = np.divmod(even_s / self.period_s, 1.0)
        within = np.interp(part, arrived, np.linspace(0.0, 1.0, len(arrived)))
        return (whole + within) * self.period_s


def parse_rhythm(spec: str) -> Rhythm:
    """Read `mmpp:FACTOR,SHARE,LENGTH`, `diurnal:PERIOD,AMPLITUDE` or `diurnal:PERIOD,RATE,RATE,…`.

    Raises:
        ConfigError: the text is none of these, or a number is out of range.
    """
    name, _, rest = spec.strip().partition(":")
    fields = [text.strip() for text in rest.split(",")]
    if name == "mmpp":
        return _parse_bursts(spec, fields)
    return _parse_day(spec, fields)


def _parse_bursts(spec: str, fields: list[str]) -> Bursts:
    allowed = (
        "mmpp:FACTOR,SHARE,LENGTH with FACTOR from 1 to 1000, SHARE above 0 and below 1, and "
        "LENGTH a time above 0, as in mmpp:5,0.1,2s"
    )
    try:
        factor, share = float(fields[0]), float(fields[1])
        length_s = parse_duration_ns(fields[2], "arrivals") / 1e9
    except (ValueError, IndexError, ConfigError):
        raise ConfigError("arrivals", spec, allowed) from None
    if len(fields) != 3 or not (1.0 <= factor <= 1000.0 and 0.0 < share < 1.0 and length_s > 0):
        raise ConfigError("arrivals", spec, allowed)
    return Bursts(factor, share, length_s)


def _parse_day(spec: str, fields: list[str]) -> Day:
    allowed = (
        "diurnal:PERIOD,AMPLITUDE with AMPLITUDE from 0 to 1, or diurnal:PERIOD,RATE,RATE,… with "
        "rates above 0, as in diurnal:60s,0.6 or diurnal:24h,1,2,4,3"
    )
    try:
        period_s = parse_duration_ns(fields[0], "arrivals") / 1e9
        rates = tuple(map(float, fields[1:]))
    except (ValueError, ConfigError):
        raise ConfigError("arrivals", spec, allowed) from None
    if not period_s > 0 or not rates or not all(0.0 <= rate < math.inf for rate in rates):
        raise ConfigError("arrivals", spec, allowed)
    if len(rates) == 1 and rates[0] <= 1.0:
        return Day.sine(period_s, rates[0])
    if len(rates) == 1 or min(rates) <= 0.0:
        raise ConfigError("arrivals", spec, allowed)
    return Day(period_s, rates)
