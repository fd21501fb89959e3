"""When queries arrive: a Poisson process on an absolute schedule. Knows nothing of queries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError

# Folded into every seed, so that equal seeds for arrivals and sizes still give separate streams.
_STREAM = 0xA771


def poisson_arrivals_ns(qps: float, num_queries: int, seed: int) -> NDArray[np.int64]:
    """Arrival times of a Poisson process, from time 0.

    The gaps are drawn at rate 1 and scaled by 1/qps: the same seed at another rate is the same
    traffic, only faster, so that two rates are compared on common random numbers. A longer schedule
    begins with the shorter one.

    Args:
        qps: queries per second, > 0.
        num_queries: length of the schedule, >= 1.
        seed: of the gaps.

    Returns:
        int64 ns, non-decreasing, `num_queries` long.

    Raises:
        ConfigError: rate or length is outside its range.
    """
    if not 0.0 < qps < float("inf"):
        raise ConfigError("qps", qps, "a finite number above 0")
    if num_queries < 1:
        raise ConfigError("num_queries", num_queries, "at least 1")
    unit_gaps = np.random.default_rng([_STREAM, seed]).standard_exponential(num_queries)
    return np.rint(np.cumsum(unit_gaps) * (1e9 / qps)).astype(np.int64)
