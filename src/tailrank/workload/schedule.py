"""A schedule of queries, drawn before a run: arrivals, sizes and payloads from separate seeds.

Knows nothing of schedulers and clocks; a payload is whatever the caller makes of a random number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tailrank.core.errors import ConfigError
from tailrank.core.query import Query
from tailrank.workload.arrivals import poisson_arrivals_ns
from tailrank.workload.query_sizes import parse_query_sizes

_STREAM = 0x9A71
PayloadFor = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadConfig:
    """What the queries look like, apart from their rate.

    Args:
        sizes: distribution of items per query, see `parse_query_sizes`.
        ids_per_item: sparse ids that each item brings, >= 0.
        user_ids: sparse ids that each query's user brings, >= 0.
        model: name of the model that ranks the queries.
        arrival_seed: of the gaps between queries.
        size_seed: of the query sizes.
        payload_seed: of the choice of payloads.

    Raises:
        ConfigError: a field is outside its range.
    """

    sizes: str
    ids_per_item: float = 0.0
    user_ids: int = 0
    model: str = ""
    arrival_seed: int = 0
    size_seed: int = 0
    payload_seed: int = 0

    def __post_init__(self) -> None:
        parse_query_sizes(self.sizes)
        if not 0.0 <= self.ids_per_item < float("inf"):
            raise ConfigError("ids_per_item", self.ids_per_item, "a finite number from 0")
        for name in ("user_ids", "arrival_seed", "size_seed", "payload_seed"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "a whole number from 0")


def draw_schedule(
    config: WorkloadConfig,
    *,
    qps: float,
    num_queries: int,
    start_ns: int = 0,
    payload_for: PayloadFor | None = None,
) -> list[Query]:
    """Draw a schedule of queries in order of arrival.

    Two schedules that differ in `qps` only hold the same queries at scaled times.

    Args:
        config: what the queries look like.
        qps: offered load in queries per second, > 0.
        num_queries: length of the schedule, >= 1.
        start_ns: time zero of the schedule.
        payload_for: `(choice, num_items) -> payload`, with `choice` uniform in [0, 2^31), drawn
            from `payload_seed`; called once per query, in order.

    Raises:
        ConfigError: rate or length is outside its range.
    """
    scheduled_ns = (poisson_arrivals_ns(qps, num_queries, config.arrival_seed) + start_ns).tolist()
    sizes = parse_query_sizes(config.sizes).draw(num_queries, config.size_seed).tolist()
    payloads: list[object] = [None] * num_queries
    if payload_for is not None:
        rng = np.random.default_rng([_STREAM, config.payload_seed])
        choices = rng.integers(0, 2**31, num_queries).tolist()
        payloads = [payload_for(*pair) for pair in zip(choices, sizes, strict=True)]
    return [
        Query(
            query_id=query_id,
            model=config.model,
            scheduled_ns=arrival_ns,
            deadline_ns=None,
            num_items=num_items,
            num_ids=round(config.ids_per_item * num_items) + config.user_ids,
            payload=payload,
        )
        for query_id, (arrival_ns, num_items, payload) in enumerate(
            zip(scheduled_ns, sizes, payloads, strict=True)
        )
    ]
