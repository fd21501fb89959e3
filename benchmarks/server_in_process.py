"""The same rankers without a wire: what the servers of `bench_server.py` are held against."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from server_case import SEED
from tailrank.characterization.target import initialise_worker
from tailrank.core.query import Query
from tailrank.features import FeatureBatch, Side
from tailrank.runtime.live import run_live
from tailrank.scheduling.policies import PolicyConfig
from tailrank.serving.executors import EXECUTORS, fork_rankers
from tailrank.serving.model import ServedModel

_POOL = 32


class InProcess:
    """The rankers of one model, on threads and in worker processes.

    Make it while the process has one thread: it forks.

    Args:
        model: with feature tables of users and items.
        num_workers: threads, or processes.
    """

    def __init__(self, model: ServedModel, num_workers: int) -> None:
        (forked,) = fork_rankers([model.ranker], num_workers)
        self._model, self._num_workers, self._forked = model, num_workers, forked
        self._rankers = dict(zip(EXECUTORS, (model.ranker, forked), strict=True))

    def close(self) -> None:
        """End the processes."""
        self._forked.workers.close()

    def items_per_s(self, executor: str, num_items: int, num_calls: int) -> float:
        """What workers rank that never wait for a query."""
        ranker, queries = self._rankers[executor], self._queries(num_items)
        result = run_live(
            [Query(number, "", 0, None, num_items, 0) for number in range(num_calls)],
            PolicyConfig(policy="static", batch_items_max=num_items, queue_items_max=1 << 40),
            num_workers=self._num_workers,
            run_batch=lambda batch: [ranker.rank(queries[batch.batch_id % _POOL])],
            initialise_worker=initialise_worker,
        )
        if result.first_error is not None:
            raise result.first_error
        return num_calls * num_items / result.ended_ns * 1e9

    def _queries(self, num_items: int) -> list[FeatureBatch]:
        return queries_of(self._model, num_items)


def calls_ms_p50(model: ServedModel, num_items: int, qps: float, num_calls: int) -> float:
    """Median time of a call on this thread, every so often, as a light load has it."""
    initialise_worker(0)
    queries, times = queries_of(model, num_items), []
    for number in range(num_calls):
        time.sleep(1.0 / qps)
        query = queries[number % _POOL]
        started = time.perf_counter()
        model.ranker.rank(query)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def queries_of(model: ServedModel, num_items: int) -> list[FeatureBatch]:
    """Features of random users and items."""
    rng = np.random.default_rng([SEED, num_items])

    def drawn(side: Side, count: int) -> list[int]:
        found: list[int] = rng.integers(0, model.tables[side].num_rows, count).tolist()
        return found

    return [
        FeatureBatch(
            user=model.tables["user"].features(drawn("user", 1), "user_id"),
            item=model.tables["item"].features(drawn("item", num_items), "item_ids"),
            item_to_user_B=torch.zeros(num_items, dtype=torch.int64),
        )
        for _ in range(_POOL)
    ]
