"""Latency percentiles with confidence intervals: the only percentile code in the package.

A query that was rejected, failed or never finished counts as infinite latency: it stays in every
percentile instead of leaving the sample. Percentiles are order statistics of the raw values
(nearest rank), never of a histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError

CONFIDENCE = 0.95
_Z = 1.959963984540054  # two-sided 95 % normal quantile
_NUM_BLOCKS_MAX = 32  # batch means: enough blocks for a variance, long enough to be independent


def queries_needed(percentile: float) -> int:
    """Least number of independent queries that bounds `percentile` (0-100) from above.

    With n samples the largest one exceeds the percentile with probability 1 - p^n; an upper bound
    at 97.5 % one-sided confidence (95 % two-sided) exists only when p^n <= 0.025.
    """
    return math.ceil(math.log((1.0 - CONFIDENCE) / 2.0) / math.log(percentile / 100.0))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value (a percentile in ns, or a fraction) and its 95 % confidence interval.

    A bound of `inf` means that the sample sets none.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Latencies of one run, frozen: in order of arrival and sorted.

    Args:
        arrival_order_ns: float64, one per query in order of scheduled arrival; inf = unanswered.
    """

    arrival_order_ns: NDArray[np.float64]
    sorted_ns: NDArray[np.float64]

    @classmethod
    def of(cls, arrival_order_ns: NDArray[np.float64]) -> LatencySummary:
        """Summarise latencies (ns, float64, inf = unanswered) given in order of arrival."""
        ordered = np.asarray(arrival_order_ns, dtype=np.float64)
        return cls(ordered, np.sort(ordered))

    @property
    def num_queries(self) -> int:
        """All queries, answered or not."""
        return len(self.sorted_ns)

    @property
    def num_unanswered(self) -> int:
        """Queries that were rejected, failed or never finished."""
        return int(np.isinf(self.sorted_ns).sum())

    @property
    def mean_ns(self) -> float:
        """Mean latency; inf as soon as one query went unanswered."""
        return float(self.sorted_ns.mean()) if self.num_queries else math.nan

    @property
    def max_ns(self) -> float:
        """Largest latency."""
        return float(self.sorted_ns[-1]) if self.num_queries else math.nan

    def percentile(self, percentile: float) -> Estimate:
        """The percentile (0-100, nearest rank) and its 95 % confidence interval.

        The interval comes from the binomial distribution of the rank. Latencies that follow each
        other share a queue and so are correlated; the number of queries is therefore divided by the
        variance inflation that batch means show for the indicator "above the percentile"
        (Law, Simulation Modeling and Analysis, ch. 9.5.3).

        Raises:
            ConfigError: the percentile is not in (0, 100), or there is no query.
        """
        if not 0.0 < percentile < 100.0:
            raise ConfigError("percentile", percentile, "a number above 0 and below 100")
        count = self.num_queries
        if count == 0:
            raise ConfigError("num_queries", 0, "at least one query")
        share = percentile / 100.0
        value = float(self.sorted_ns[min(count, math.ceil(share * count)) - 1])
        effective = max(1.0, count / self._variance_inflation(value))
        half_width = _Z * math.sqrt(share * (1.0 - share) / effective)
        low_rank = math.floor((share - half_width) * count)
        high_rank = math.ceil((share + half_width) * count) + 1
        low = float(self.sorted_ns[low_rank - 1]) if low_rank >= 1 else 0.0
        bounded = high_rank <= count and effective >= queries_needed(percentile)
        high = float(self.sorted_ns[high_rank - 1]) if bounded else math.inf
        return Estimate(value, low, high)

    def fraction_above(self, limit_ns: float) -> Estimate:
        """The fraction of queries slower than a limit, with its 95 % confidence interval.

        An SLA is decided here and not on the percentile's interval: "p95 <= limit" says that at
        most 5 % of queries are above the limit, and a run that is far inside shows that with few
        independent queries, while the percentile itself would need many to be bounded.

        The interval is Wilson's (JASA 1927), on as many queries as the batch means of the indicator
        "above the limit" leave independent.

        Raises:
            ConfigError: there is no query.
        """
        count = self.num_queries
        if count == 0:
            raise ConfigError("num_queries", 0, "at least one query")
        value = float((self.sorted_ns > limit_ns).mean())
        effective = max(1.0, count / self._variance_inflation(limit_ns))
        shrink = 1.0 + _Z**2 / effective
        center = (value + _Z**2 / (2.0 * effective)) / shrink
        spread = math.sqrt(value * (1.0 - value) / effective + (_Z / (2.0 * effective)) ** 2)
        half_width = _Z * spread / shrink
        return Estimate(value, max(0.0, center - half_width), min(1.0, center + half_width))

    def _variance_inflation(self, value: float) -> float:
        """Variance of the share above `value`, as batch means show it, over the independent one."""
        blocks = min(_NUM_BLOCKS_MAX, self.num_queries // 50)
        if blocks < 8:
            return 1.0
        length = self.num_queries // blocks
        ordered = self.arrival_order_ns[: blocks * length]
        inflation = 1.0
        # Both sides of ties: where the percentile lies on a plateau (a stall, unanswered queries),
        # nothing is above it, and only "at or above" shows that the plateau is one excursion.
        for above in (ordered > value, ordered >= value):
            share = float(above.mean())
            if 0.0 < share < 1.0:
                block_means = above.reshape(blocks, length).mean(axis=1)
                independent = share * (1.0 - share) / length
                inflation = max(inflation, float(block_means.var(ddof=1)) / independent)
        return inflation


class LatencyRecorder:
    """Collects one latency per query.

    Args:
        num_queries: queries of the run; each starts out as unanswered.
    """

    def __init__(self, num_queries: int) -> None:
        self._latency_ns = np.full(num_queries, np.inf)

    def record(self, position: int, latency_ns: int) -> None:
        """Note the latency of the `position`-th query in order of scheduled arrival."""
        assert latency_ns >= 0, "an answer never precedes its query"
        self._latency_ns[position] = latency_ns

    def summary(self) -> LatencySummary:
        """Everything recorded so far; queries without a record count as infinite."""
        return LatencySummary.of(self._latency_ns.copy())
