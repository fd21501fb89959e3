"""What an engine has done so far: counters and histograms that cost next to nothing to keep.

Knows no exposition format. Whoever writes holds a lock; who reads may see one count ahead of
another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

# Seconds: three a decade where ranking's SLAs lie, so that a percentile read from them is within
# a factor of 1.5 of the true one.
BOUNDS_S = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)
_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS_S)


class Histogram:
    """Times by bucket; the last bucket has no bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_ns = 0

    def observe(self, time_ns: int) -> None:
        """Count a time."""
        self.counts[bisect_left(_BOUNDS_NS, time_ns)] += 1
        self.sum_ns += time_ns


@dataclass(slots=True, eq=False)
class EngineStats:
    """Totals since the start.

    Args:
        queries: answered.
        items: of answered queries.
        failed: queries that a ranker could not answer.
        shed: queries turned away, by reason.
        batches: run.
        splits: answered queries that were ranked in several parts.
        slo_violations: queries answered later than the SLA's limit.
        queue: from arrival to the start of the first part.
        compute: from there to the end of the last part.
        total: both.
    """

    queries: int = 0
    items: int = 0
    failed: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    splits: int = 0
    slo_violations: int = 0
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)
