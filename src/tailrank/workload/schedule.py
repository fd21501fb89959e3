"""A schedule of queries, drawn before a run: arrivals, sizes and payloads from separate seeds.

Knows nothing of schedulers and clocks; a payload is whatever the caller makes of a random number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from tailrank.core.errors import ConfigError
from tailrank.core.query import Query
from tailrank.workload.arrivals import parse_arrivals
from tailrank.workload.query_sizes import QuerySizes, parse_query_sizes

_STREAM = 0x9A71
PayloadFor = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadConfig:
    """What the queries look like, apart from their rate.

    Args:
        sizes: distribution of items per query, see `parse_query_sizes`.
        arrivals: when they come, see `parse_arrivals`. With arrivals and sizes of the same trace
            each query has the size that it had there.
        items_limit: the largest query that the model can be asked; None: any.
        ids_per_item: sparse ids that each item brings, >= 0.
        user_ids: sparse ids that each query's user brings, >= 0.
        model: name of the model that ranks the queries.
        arrival_seed: of the gaps between queries.
        size_seed: of the query sizes.
        payload_seed: of the choice of payloads.

    Raises:
        ConfigError: a field is outside its range.
        DataError: a trace is missing or damaged.
    """

    sizes: str
    arrivals: str = "poisson"
    items_limit: int | None = None
    ids_per_item: float = 0.0
    user_ids: int = 0
    model: str = ""
    arrival_seed: int = 0
    size_seed: int = 0
    payload_seed: int = 0

    def __post_init__(self) -> None:
        parse_arrivals(self.arrivals)
        self.query_sizes()
        if not 0.0 <= self.ids_per_item < float("inf"):
            raise ConfigError("ids_per_item", self.ids_per_item, "a finite number from 0")
        for name in ("user_ids", "arrival_seed", "size_seed", "payload_seed"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "a whole number from 0")

    def query_sizes(self) -> QuerySizes:
        """The distribution of sizes, inside the limit as far as that can be known beforehand."""
        if self.items_limit is None:
            return parse_query_sizes(self.sizes)
        return parse_query_sizes(self.sizes, self.items_limit)


def draw_schedule(
    config: WorkloadConfig,
    *,
    qps: float,
    num_queries: int,
    start_ns: int = 0,
    payload_for: PayloadFor | None = None,
) -> list[Query]:
    """Draw a schedule of queries in order of arrival.

    Two schedules that differ in `qps` only hold the same queries, at scaled times where the arrival
    process allows it (see `Arrivals.draw_ns`).

    Args:
        config: what the queries look like.
        qps: offered load in queries per second, > 0.
        num_queries: length of the schedule, >= 1.
        start_ns: time zero of the schedule.
        payload_for: `(choice, num_items) -> payload`, with `choice` uniform in [0, 2^31), drawn
            from `payload_seed`; called once per query, in order.

    Raises:
        ConfigError: rate, length or a size that was drawn is outside its range.
    """
    arrivals = parse_arrivals(config.arrivals)
    scheduled_ns = arrivals.draw_ns(qps, num_queries, config.arrival_seed) + start_ns
    num_items = config.query_sizes().draw(num_queries, config.size_seed)
    if config.items_limit is not None and num_items.max() > config.items_limit:
        allowed = f"sizes up to {config.items_limit:,} items; {num_items.max():,} were drawn"
        raise ConfigError("sizes", config.sizes, allowed)
    num_ids = np.rint(config.ids_per_item * num_items).astype(np.int64) + config.user_ids
    sizes = num_items.tolist()
    payloads: Iterable[object] = repeat(None)
    if payload_for is not None:
        rng = np.random.default_rng([_STREAM, config.payload_seed])
        choices = rng.integers(0, 2**31, num_queries).tolist()
        payloads = [payload_for(*pair) for pair in zip(choices, sizes, strict=True)]
    # Columns, and one call each: the simulation of a million queries waits for this.
    columns = (scheduled_ns.tolist(), repeat(None), sizes, num_ids.tolist(), payloads)
    return list(map(Query, range(num_queries), repeat(config.model), *columns))
