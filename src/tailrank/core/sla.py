"""The service-level agreement: a percentile of latency and its limit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tailrank.core.errors import ConfigError

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|min|h)")
_SLA = re.compile(r"p(\d+(?:\.\d+)?)=(.+)")


def parse_duration_ns(text: str, field: str) -> int:
    """Read `60s`, `1.5ms`, `2min` and the like as whole ns.

    Args:
        text: number and unit.
        field: the setting it stands for, named in the error.

    Raises:
        ConfigError: the text is not of that form.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(field, text, "a number with ns, us, ms, s, min or h, as in 10ms")
    return round(float(match[1]) * _UNITS_NS[match[2]])


@dataclass(frozen=True, slots=True)
class SLA:
    """The `percentile`-th percentile of latency is at most `latency_ns`.

    Args:
        percentile: in (0, 100).
        latency_ns: limit in ns, > 0.

    Raises:
        ConfigError: either is outside its range.
    """

    percentile: float
    latency_ns: int

    def __post_init__(self) -> None:
        if not 0.0 < self.percentile < 100.0:
            raise ConfigError("sla.percentile", self.percentile, "a number above 0 and below 100")
        if self.latency_ns <= 0:
            raise ConfigError("sla.latency_ns", self.latency_ns, "a time above 0")

    @classmethod
    def parse(cls, text: str, field: str = "--sla") -> SLA:
        """Read `p95=10ms`, `p99.9=2.5s` and the like.

        Args:
            text: percentile and limit.
            field: the setting it stands for, named in the error.

        Raises:
            ConfigError: the text is not of that form, or a number is out of range.
        """
        match = _SLA.fullmatch(text.strip())
        if match is None or _DURATION.fullmatch(match[2].strip()) is None:
            units = "with ns, us, ms, s, min or h"
            raise ConfigError(field, text, f"pPERCENTILE=LIMIT {units}, as in p95=10ms")
        try:
            return cls(float(match[1]), parse_duration_ns(match[2], field))
        except ConfigError as error:
            part = "percentile" if error.field == "sla.percentile" else "limit"
            raise ConfigError(field, text, f"{error.allowed} as the {part}") from None

    def __str__(self) -> str:
        return f"p{self.percentile:g}={self.latency_ns / 1e6:g}ms"
