"""One model behind a queue and workers: what every protocol asks.

The workers are those of a live run (`runtime.live`) whose inbox stays open, under the policy that
was tuned. This module must not know any protocol.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tailrank.characterization.target import initialise_worker
from tailrank.core.errors import Overloaded, ServingError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, Query
from tailrank.core.sla import SLA
from tailrank.features import FeatureBatch
from tailrank.runtime.inbox import OpenInbox
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.record import QueryOutcome, QueryRecord
from tailrank.scheduling.policies import POLICIES, PolicyConfig
from tailrank.serving.admission import Admission, OpenWork
from tailrank.serving.executors import Executor, Placed, place
from tailrank.serving.model import ServedModel
from tailrank.serving.ranking import Asked, Ranked, Timing, asked_of, rank_batch
from tailrank.serving.stats import EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How queries are served.

    Args:
        policy: the scheduling policy; its `queue_items_max` bounds the items that are open.
        num_workers: worker threads.
        sla: the limit is every query's deadline that brings none of its own.
        live: how worker threads run. Garbage is collected: a server never ends.
        executor: where they compute: themselves, or in a process each; None: measured at the start.
    """

    policy: PolicyConfig
    num_workers: int
    sla: SLA
    live: LiveConfig = field(default_factory=LiveConfig)
    executor: Executor | None = "threads"


class Engine:
    """Ranks what is submitted, from any thread, until it is drained.

    Args:
        model: what ranks.
        config: how.
        fleet: what a policy that looks ahead predicts with, and the door; None: the door predicts
            with a few calls that are timed at the start.

    Attributes:
        model: what ranks queries that come now.
        stats: what was done so far.
        placed: where the model that it began with computes, since the start.
    """

    def __init__(
        self, model: ServedModel, config: EngineConfig, fleet: Fleet | None = None
    ) -> None:
        self.model, self.config, self.stats = model, config, EngineStats()
        self._fleet = fleet
        self._lock = threading.Lock()
        self._inbox = OpenInbox()
        self._next_id = 0
        self._draining = False
        self._crash: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="tailrank-engine", daemon=True)
        self._admission: Admission
        self.placed: Placed

    def start(self) -> None:
        """Warm up and start the workers; returns when they are ready.

        Worker processes are forked here: the process should have no threads that compute yet.

        Raises:
            ConfigError: the policy wants a fleet and there is none, more workers than cores, or
                processes for a model on another device than the CPU.
            ServingError: the workers could not start.
        """
        self.placed = place(
            self.model,
            self.config.executor,
            num_workers=self.config.num_workers,
            batch_items_max=self.config.policy.batch_items_max,
            live=self.config.live,
        )
        if self.placed.ranker is not self.model.ranker:
            self.model = replace(self.model, ranker=self.placed.ranker)
        try:
            self._start()
        except BaseException:
            self.placed.close()
            raise

    def _start(self) -> None:
        self._admission = Admission(
            self._predictor(),
            batch_items_max=self.config.policy.batch_items_max,
            num_workers=self.config.num_workers,
            items_max=self.config.policy.queue_items_max,
        )
        # What is loaded by now stays: without it, a full collection is short.
        gc.collect()
        gc.freeze()
        self._thread.start()
        if not self._inbox.wait_until_open():
            self._thread.join()
            if self._crash is not None:
                raise self._crash
            raise ServingError("the workers could not start")

    def submit(self, features: FeatureBatch, deadline_ns: int | None = None) -> Future[Ranked]:
        """Have candidates ranked; returns at once.

        Args:
            features: of one user and its candidates, checked.
            deadline_ns: the time there is, from now; None: the SLA's limit.

        Returns:
            A future, which fails with `Overloaded` if a policy gives the query up, with
            `ConfigError` if the ranker refuses its features, and with whatever else a ranker
            raised.

        Raises:
            Overloaded: the answer would come too late, or too much is open.
            ServingError: the engine is draining or has died.
        """
        num_items, model = features.num_items, self.model
        future: Future[Ranked] = Future()
        with self._lock:
            if self._draining or not self.is_alive:
                raise ServingError("no query is taken: the server is going down")
            limit_ns = self.config.sla.latency_ns if deadline_ns is None else deadline_ns
            try:
                work = self._admission.admit(num_items, limit_ns)
            except Overloaded as error:
                self.stats.shed[error.reason] += 1
                raise
            self._next_id += 1
            query_id, now_ns = self._next_id, self._inbox.now_ns()
        query = Query(
            query_id=query_id,
            model=model.name,
            scheduled_ns=now_ns,
            deadline_ns=None if deadline_ns is None else now_ns + deadline_ns,
            num_items=num_items,
            # As tables have them: features of a query may be longer than on average.
            num_ids=round(model.ids_per_item * num_items),
            payload=Asked(model, features, future, work),
        )
        try:
            self._inbox.submit(query)
        except ServingError:
            self._leave(work)
            raise
        return future

    def drain(self) -> None:
        """Take no more queries, answer those that have come, and stop the workers."""
        with self._lock:
            self._draining = True
        if self._thread.is_alive():
            self._inbox.close()
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the workers run."""
        return self._thread.is_alive()

    @property
    def is_ready(self) -> bool:
        """Whether queries are taken."""
        return self.is_alive and not self._draining

    @property
    def num_open(self) -> int:
        """Queries that are waiting or being ranked."""
        return self._admission.num_queries

    @property
    def queue_depth(self) -> int:
        """Queries of which no part has been started."""
        return self._admission.num_waiting

    @property
    def items_open(self) -> int:
        """Items of those."""
        return self._admission.num_items

    def _serve(self) -> None:
        """The engine's thread: the live run, to its end."""
        try:
            run_live(
                self._inbox,
                self.config.policy,
                num_workers=self.config.num_workers,
                run_batch=self._run_batch,
                initialise_worker=initialise_worker,
                on_end=self._on_end,
                config=replace(self.config.live, collect_garbage=True),
                fleet=self._fleet,
            )
        except BaseException as error:  # a thread has nobody to raise to: `start` raises it
            self._crash = error
        finally:
            self._inbox.shut()
            self.placed.close()

    def _predictor(self) -> Callable[[int], float]:
        """Service time of a batch of so many items, on one worker while all are busy."""
        batch_items_max = self.config.policy.batch_items_max
        if self._fleet is not None:
            table = self._fleet.table(self.model.name, 0)
            items_max = int(table.axes["num_items"][-1])
            busy = min(self.config.num_workers, int(table.axes["busy_workers"][-1]))

            def from_table(num_items: int) -> float:
                measured = min(num_items, items_max)
                num_ids = round(self.model.ids_per_item * measured)
                return table.lookup_ns(1, measured, num_ids, busy) * num_items / measured

            return from_table
        one_ns, all_ns = _on_worker(
            lambda: (self.model.time_ns(1), self.model.time_ns(batch_items_max))
        )
        item_ns = max(0.0, (all_ns - one_ns) / max(1, batch_items_max - 1))
        return lambda num_items: one_ns + item_ns * (num_items - 1)

    def _run_batch(self, batch: Batch) -> Sequence[object]:
        """Rank a batch and book its work; called on a worker's thread."""
        with self._lock:
            for part in batch.parts:
                self._admission.part_started(asked_of(part.query).work)
        started = time.perf_counter_ns()
        results = rank_batch(batch)
        took_ns = time.perf_counter_ns() - started
        with self._lock:
            self.stats.batches += 1
            self._admission.learn(batch.num_items, took_ns)
            for part in batch.parts:
                self._admission.part_done(asked_of(part.query).work, part.num_items)
        return results

    def _on_end(self, record: QueryRecord) -> None:
        """Answer; called on a worker's thread, once for each query."""
        asked = asked_of(record.query)
        self._leave(asked.work)
        outcome = self._outcome(record, asked.model)
        with self._lock:
            self._count(record, outcome)
        # A client that has gone away cancels; the future then takes nothing.
        if not asked.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Ranked):
            asked.future.set_result(outcome)
        else:
            asked.future.set_exception(outcome)

    def _leave(self, work: OpenWork) -> None:
        with self._lock:
            self._admission.leave(work)

    def _outcome(self, record: QueryRecord, model: ServedModel) -> Ranked | Exception:
        """What the one who asked is told."""
        if record.outcome is QueryOutcome.REJECTED:
            return Overloaded(str(record.reason), "the policy gave it up: it would be late")
        if record.outcome is not QueryOutcome.ANSWERED:
            return record.error or ServingError("the server went down before it was ranked")
        results = record.results
        scores = []
        for result in results:
            if isinstance(result, Exception):
                return result
            assert isinstance(result, Tensor)
            scores.append(result)
        scheduled_ns = record.query.scheduled_ns
        timing = Timing(
            queue_ns=record.started_ns - scheduled_ns,
            compute_ns=record.done_ns - record.started_ns,
            total_ns=record.done_ns - scheduled_ns,
        )
        return Ranked(scores[0] if len(scores) == 1 else torch.cat(scores), model, timing)

    def _count(self, record: QueryRecord, outcome: Ranked | Exception) -> None:
        stats = self.stats
        if isinstance(outcome, Ranked):
            queue_ns, compute_ns, total_ns = outcome.timing
            stats.queries += 1
            stats.items += record.query.num_items
            stats.splits += record.num_parts > 1
            stats.slo_violations += total_ns > self.config.sla.latency_ns
            stats.queue.observe(queue_ns)
            stats.compute.observe(compute_ns)
            stats.total.observe(total_ns)
        elif isinstance(outcome, Overloaded):
            stats.shed[outcome.reason] += 1
        else:
            stats.failed += 1


def server_policy(config: PolicyConfig, sla: SLA) -> PolicyConfig:
    """The policy as a server needs it: whoever looks at deadlines gives up what will miss them."""
    settings = POLICIES[config.policy].settings
    if "sla" in settings:
        config = replace(config, sla=sla)
    return replace(config, reject_lost=True) if "reject_lost" in settings else config


def _on_worker(measure: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """What `measure` returns on a thread that is set up like a worker's."""
    found: Future[tuple[int, int]] = Future()

    def run() -> None:
        initialise_worker(0)
        try:
            found.set_result(measure())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return found.result()
