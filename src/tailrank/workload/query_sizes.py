"""How many candidate items a query has: the distributions that the field reports.

Knows nothing of arrivals or features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError
from tailrank.workload.trace import TRACE_PREFIX, read_trace

Sizes = NDArray[np.int64]

ALLOWED = "fixed:N, normal:MEAN,STD, lognormal:MU,SIGMA, production, mlperf or trace:FILE"
_STREAM = 0x512E
# MLPerf DLRM user-item pairs per query, 20 quantiles of equal weight (mlcommons/inference,
# recommendation/dlrm_v2, dist_quantile.txt).
_MLPERF_QUANTILES = (100,) * 2 + (200,) * 12 + (300,) * 2 + (400, 500, 600, 700)
_ITEMS_MAX = 1_000_000  # far above any ranking query; keeps a typing error from filling memory


@dataclass(frozen=True, slots=True)
class QuerySizes:
    """A distribution of query sizes.

    Args:
        spec: as the user wrote it, such as `normal:165,16`.
        items_max: the largest size that can occur; None where the distribution has no bound.
    """

    spec: str
    items_max: int | None
    _draw: Callable[[tuple[Generator, ...], int], NDArray[np.float64]]

    def draw(self, num_queries: int, seed: int) -> Sizes:
        """Draw `num_queries` sizes, int64 >= 1; a longer draw begins with the shorter one.

        Fractions are cut off, as in DeepRecSys, whose published percentiles they reproduce.
        """
        # Three generators, because a distribution that draws several numbers per query from one
        # would give other sizes for another length.
        seeds = np.random.SeedSequence([_STREAM, seed]).spawn(3)
        generators = tuple(np.random.default_rng(child) for child in seeds)
        drawn = self._draw(generators, num_queries)
        return np.clip(drawn, 1, _ITEMS_MAX).astype(np.int64)


def parse_query_sizes(spec: str, items_limit: int = _ITEMS_MAX) -> QuerySizes:
    """Read a distribution: `fixed:N`, `normal:MEAN,STD`, … or the sizes of `trace:FILE`.

    A trace's sizes come in its order, from the first row on, again and again; with arrivals of the
    same trace each query so has the size that it had.

    Args:
        spec: the text.
        items_limit: the largest query that may be asked.

    Raises:
        ConfigError: the text is none of these, a number is out of range, or the distribution goes
            beyond the limit.
        DataError: the trace is missing or damaged, or a size in it is out of range; says where.
    """
    sizes = _parse(spec, items_limit)
    if sizes.items_max is not None and sizes.items_max > items_limit:
        allowed = f"sizes up to {items_limit:,} items; these go up to {sizes.items_max:,}"
        raise ConfigError("sizes", spec, allowed)
    return sizes


def _parse(spec: str, items_limit: int) -> QuerySizes:
    """`parse_query_sizes`, but for the limit of what is no trace."""
    name, colon, rest = spec.strip().partition(":")
    if spec.strip().startswith(TRACE_PREFIX):
        recorded = read_trace(rest).sizes(items_limit)
        return QuerySizes(spec, int(recorded.max()), partial(_replay, recorded))
    if name == "production" and not colon:
        return QuerySizes(spec, 999, _draw_production)
    if name == "mlperf" and not colon:
        return QuerySizes(spec, max(_MLPERF_QUANTILES), _draw_mlperf)
    try:
        numbers = tuple(float(text) for text in rest.split(","))
    except ValueError:
        raise ConfigError("sizes", spec, ALLOWED) from None
    if name == "fixed" and len(numbers) == 1:
        return _fixed(spec, numbers[0])
    if name == "normal" and len(numbers) == 2:
        return _normal(spec, *numbers)
    if name == "lognormal" and len(numbers) == 2:
        return _lognormal(spec, *numbers)
    raise ConfigError("sizes", spec, ALLOWED)


def _fixed(spec: str, num_items: float) -> QuerySizes:
    if not 1 <= num_items <= _ITEMS_MAX or num_items != int(num_items):
        raise ConfigError("sizes", spec, f"fixed:N with a whole N from 1 to {_ITEMS_MAX}")
    return QuerySizes(spec, int(num_items), lambda _, count: np.full(count, num_items))


def _normal(spec: str, mean: float, std: float) -> QuerySizes:
    if not (1.0 <= mean <= _ITEMS_MAX and 0.0 <= std <= mean):
        raise ConfigError("sizes", spec, "normal:MEAN,STD with MEAN >= 1 and 0 <= STD <= MEAN")
    return QuerySizes(spec, None, lambda rngs, count: rngs[0].normal(mean, std, count))


def _lognormal(spec: str, mu: float, sigma: float) -> QuerySizes:
    if not (0.0 <= mu <= 12.0 and 0.0 <= sigma <= 3.0):
        raise ConfigError("sizes", spec, "lognormal:MU,SIGMA with 0 <= MU <= 12, 0 <= SIGMA <= 3")
    return QuerySizes(spec, None, lambda rngs, count: rngs[0].lognormal(mu, sigma, count))


def _replay(recorded: Sizes, _: tuple[Generator, ...], count: int) -> NDArray[np.float64]:
    return recorded[np.arange(count) % len(recorded)].astype(np.float64)


def _draw_mlperf(generators: tuple[Generator, ...], count: int) -> NDArray[np.float64]:
    return generators[0].choice(np.array(_MLPERF_QUANTILES, dtype=np.float64), count)


def _draw_production(generators: tuple[Generator, ...], count: int) -> NDArray[np.float64]:
    """The public encoding of the production sizes in Fig. 5 of DeepRecSys (ISCA 2020).

    Of 99 queries 8 are small (below 100 items), 22 large (200-599) and 5 very large (600-999); the
    rest is lognormal(5.1, 0.2) within [100, 200], and what falls outside becomes U[190, 200).
    """
    body = generators[0].lognormal(5.1, 0.2, count)
    kind = generators[1].integers(0, 99, count)
    uniform = generators[2].random(count)
    sizes = np.where((body < 100) | (body > 200), 190 + 10 * uniform, body)
    for first, last, low, high in ((0, 8, 1, 100), (8, 30, 200, 600), (30, 35, 600, 1000)):
        sizes = np.where((kind >= first) & (kind < last), low + (high - low) * uniform, sizes)
    return sizes
