"""Where batches are computed: on the worker threads, or in a process for each of them.

Threads share Python's interpreter lock, with each other and with whoever reads requests; processes
pay for the way there and back. Which is more depends on the model, so that it can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from tailrank.characterization.target import initialise_worker
from tailrank.core.errors import ConfigError, one_of
from tailrank.core.query import Query
from tailrank.features import FeatureBatch, SideFeatures
from tailrank.inference import Ranker
from tailrank.runtime.forked import ForkedWorkers
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.shared_arrays import Array
from tailrank.scheduling.policies import PolicyConfig
from tailrank.serving.model import ServedModel

Executor = Literal["threads", "processes"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)

# What a process cannot be forked with is a device that the one before it has opened.
_FORKED_DEVICES = ("cpu", "eager")
# The mean query of DeepRecSys' N(165, 16).
_TYPICAL_ITEMS = 165
_NUM_QUERIES = 8
_ROUNDS = 3
_ROUND_NS = 100_000_000
_ROUND_CALLS_MAX = 5000
# Rounds of 0.1 s differ by as much on a quiet host; threads need less memory.
_CLEARLY_MORE = 1.05


class ForkedRanker:
    """A ranker whose calls are computed in worker processes; as many at once as there are.

    Features and scores travel as they lie in memory; a call whose process is killed is computed
    again by another.

    Args:
        ranker: that computes, on the CPU.
        workers: processes of `fork_rankers`.
        number: of the ranker there.
    """

    def __init__(self, ranker: Ranker, workers: ForkedWorkers, number: int) -> None:
        self._ranker, self.device = ranker, ranker.device
        self.workers, self._number = workers, np.array(number)

    def rank(self, batch: FeatureBatch) -> Tensor:
        """Scores, as the ranker gives them; raises what it raised, and `WorkerDied`."""
        (scores,) = self.workers.call([self._number, *_to_arrays(batch)])
        return torch.from_numpy(scores)

    def describe(self) -> dict[str, object]:
        """What was chosen on this host, for the result file."""
        return self._ranker.describe()


def fork_rankers(rankers: Sequence[Ranker], num_workers: int) -> list[ForkedRanker]:
    """The same rankers in worker processes, each of which computes for all of them.

    To be called before the process has threads that compute. Tables are shared with the processes,
    not copied.

    Raises:
        WorkerDied: a process could not be forked.
    """
    workers = ForkedWorkers(
        partial(_rank_arrays, tuple(rankers)), num_workers, partial(initialise_worker, 0)
    )
    return [ForkedRanker(ranker, workers, number) for number, ranker in enumerate(rankers)]


class Placed(NamedTuple):
    """Models where they compute.

    Args:
        models: with rankers to be called by the worker threads.
        executor: where those compute.
        items_per_s: what each executor was measured to do; empty if none was.
    """

    models: tuple[ServedModel, ...]
    executor: Executor
    items_per_s: dict[str, float]

    def __str__(self) -> str:
        """Where, and why if it was measured."""
        if not self.items_per_s:
            return self.executor
        (other,) = self.items_per_s.keys() - {self.executor}
        ratio = self.items_per_s[self.executor] / self.items_per_s[other]
        return f"{self.executor} ({ratio:.2f} times the items/s of {other})"

    @property
    def processes(self) -> ForkedWorkers | None:
        """Where all of them compute, if not in threads."""
        ranker = self.models[-1].ranker
        return ranker.workers if isinstance(ranker, ForkedRanker) else None

    @property
    def num_died(self) -> int:
        """Processes that ended before they should have."""
        return 0 if self.processes is None else self.processes.num_died

    @property
    def num_replaced(self) -> int:
        """Processes that were forked in the place of such."""
        return 0 if self.processes is None else self.processes.num_replaced

    def close(self) -> None:
        """End their processes, if there are any; a second time does nothing."""
        if self.processes is not None:
            self.processes.close()


def parse_executor(name: str | None) -> Executor | None:
    """The executor of that name; None: as measured.

    Raises:
        ConfigError: there is none of that name.
    """
    if name is None:
        return None
    for executor in EXECUTORS:
        if executor == name:
            return executor
    raise ConfigError("--executor", name, one_of(EXECUTORS, name))


def place(
    models: Sequence[ServedModel],
    executor: Executor | None,
    *,
    num_workers: int,
    batch_items_max: int,
    live: LiveConfig,
) -> Placed:
    """Put the rankers of models where they are to compute.

    Args:
        models: at least one; the last is the heaviest.
        executor: where; None: where workers that are all busy rank more items per second with the
            last model, by a measurement of a second.
        num_workers: threads that will call it.
        batch_items_max: most items of a call.
        live: how those threads run.

    Raises:
        ConfigError: processes for a device other than the CPU.
        WorkerDied: a process could not be forked.
    """
    in_threads = Placed(tuple(models), "threads", {})
    rankers = [model.ranker for model in models]
    own_devices = [ranker.device for ranker in rankers if ranker.device not in _FORKED_DEVICES]
    if executor == "processes" and own_devices:
        raise ConfigError("--executor", executor, f"threads, for the {own_devices[0]} ranker")
    if executor == "threads" or own_devices:
        return in_threads
    forked_models = [
        replace(model, ranker=ranker)
        for model, ranker in zip(models, fork_rankers(rankers, num_workers), strict=True)
    ]
    forked = Placed(tuple(forked_models), "processes", {})
    if executor == "processes":
        return forked
    try:
        num_items, heaviest = min(batch_items_max, _TYPICAL_ITEMS), forked.models[-1]
        queries = [heaviest.random_query(num_items, seed) for seed in range(_NUM_QUERIES)]
        threads, processes = _compare([rankers[-1], heaviest.ranker], queries, num_workers, live)
    except BaseException:
        forked.close()
        raise
    items_per_s = {"threads": threads, "processes": processes}
    if processes > _CLEARLY_MORE * threads:
        return forked._replace(items_per_s=items_per_s)
    forked.close()
    return in_threads._replace(items_per_s=items_per_s)


def _compare(
    rankers: Sequence[Ranker], queries: Sequence[FeatureBatch], num_workers: int, live: LiveConfig
) -> list[float]:
    """Items per second of each, the best of rounds in turns: a host's pauses only slow down."""
    run = partial(_items_per_s, queries=queries, num_workers=num_workers, live=live)
    first = [run(ranker, num_calls=2 * num_workers) for ranker in rankers]  # warms up
    call_items = queries[0].num_items
    num_calls = [
        min(_ROUND_CALLS_MAX, max(4 * num_workers, round(rate / call_items * _ROUND_NS / 1e9)))
        for rate in first
    ]
    rounds = [
        [run(ranker, num_calls=calls) for ranker, calls in zip(rankers, num_calls, strict=True)]
        for _ in range(_ROUNDS)
    ]
    return [max(rates) for rates in zip(*rounds, strict=True)]


def _items_per_s(
    ranker: Ranker,
    *,
    queries: Sequence[FeatureBatch],
    num_workers: int,
    live: LiveConfig,
    num_calls: int,
) -> float:
    """What workers rank that are always busy: in the loop that serves, all queries due at once."""
    num_items = queries[0].num_items
    result = run_live(
        [Query(number, "", 0, None, num_items, 0) for number in range(num_calls)],
        PolicyConfig(policy="static", batch_items_max=num_items, queue_items_max=1 << 40),
        num_workers=num_workers,
        run_batch=lambda batch: [ranker.rank(queries[batch.batch_id % len(queries)])],
        initialise_worker=initialise_worker,
        config=live,
    )
    if result.first_error is not None:
        raise result.first_error
    return num_calls * num_items / result.ended_ns * 1e9


def _to_arrays(batch: FeatureBatch) -> list[Array]:
    """A batch as flat arrays; no weights are an empty one."""
    arrays = [batch.item_to_user_B.numpy()]
    for side in (batch.user, batch.item):
        weights_L = torch.empty(0) if side.weights_L is None else side.weights_L
        arrays += [
            tensor.numpy() for tensor in (side.dense_RN, side.values_L, side.offsets, weights_L)
        ]
    return arrays


def _from_arrays(arrays: Sequence[Array]) -> FeatureBatch:
    """What `_to_arrays` was given, on the arrays' memory."""
    item_to_user_B, *sides = [torch.from_numpy(array) for array in arrays]
    user, item = (
        SideFeatures(
            dense_RN=dense_RN,
            values_L=values_L,
            offsets=offsets,
            weights_L=weights_L if weights_L.shape[0] else None,
        )
        for dense_RN, values_L, offsets, weights_L in (sides[:4], sides[4:])
    )
    return FeatureBatch(user=user, item=item, item_to_user_B=item_to_user_B)


def _rank_arrays(rankers: Sequence[Ranker], arrays: list[Array]) -> list[Array]:
    """What a worker process does."""
    number, *features = arrays
    return [rankers[int(number)].rank(_from_arrays(features)).numpy()]
