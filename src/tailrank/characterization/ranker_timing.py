"""How long rankers take for one query on one core, measured in turns so that they compare."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tailrank.characterization.payloads import QueryPool
from tailrank.core.query import BatchPart, Query
from tailrank.features import FeatureBatch
from tailrank.inference import Ranker

QUERY_ITEMS = 128  # the mean of a production query's parts
_TURNS, _CALLS_A_TURN = 31, 12


class RankerTimes(NamedTuple):
    """CPU microseconds of a call by ranker, the median of each turn, and the items of a query."""

    of: dict[str, NDArray[np.float64]]
    num_items: int


def time_rankers(
    rankers: Mapping[str, Ranker],
    pool: QueryPool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RankerTimes:
    """Time rankers on one thread.

    Every call has a query of its own, or the later ranker would find rows of the earlier in cache.

    Args:
        rankers: by name; each has its turn in every round, and the first of a round moves on.
        pool: makes the queries, of `QUERY_ITEMS` items or all that it has.
        progress: told the rounds so far, and all.
    """
    draws, names = random.Random(0), list(rankers)
    num_items = min(QUERY_ITEMS, pool.num_items_max)
    times = {name: np.empty(_TURNS) for name in names}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(_TURNS):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                warming, *batches = [
                    _query(pool, draws, num_items) for _ in range(_CALLS_A_TURN + 1)
                ]
                rankers[name].rank(warming)  # brings its weights back, as the call before does
                times[name][turn] = statistics.median(_time_us(rankers[name], b) for b in batches)
            progress(turn + 1, _TURNS)
    finally:
        torch.set_num_threads(threads)
    return RankerTimes(times, num_items)


def _time_us(ranker: Ranker, batch: FeatureBatch) -> float:
    """CPU time of one call: what else runs on the host does not count."""
    started = time.thread_time_ns()
    ranker.rank(batch)
    return (time.thread_time_ns() - started) / 1e3


def _query(pool: QueryPool, draws: random.Random, num_items: int) -> FeatureBatch:
    """The features of one query."""
    payload = pool.payload(draws.randrange(1 << 31), num_items)
    query = Query(0, "", 0, None, num_items, 0, payload)
    return pool.features(BatchPart(query, 0, num_items))
