"""One model behind a queue and workers: what every protocol asks.

The workers are those of a live run (`runtime.live`) whose inbox stays open, under the policy that
was tuned. This module must not know any protocol.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from traceback import format_tb

from tailrank.characterization.target import initialise_worker
from tailrank.core.errors import Overloaded, ServingError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, Query
from tailrank.core.sla import SLA
from tailrank.features import FeatureBatch
from tailrank.runtime.inbox import OpenInbox
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.record import QueryRecord
from tailrank.scheduling.policies import POLICIES, PolicyConfig
from tailrank.serving.admission import Admission, OpenWork, Predict
from tailrank.serving.candidates import Candidates
from tailrank.serving.executors import Executor, Placed, place
from tailrank.serving.model import ServedModel
from tailrank.serving.prediction import predictor
from tailrank.serving.ranking import Asked, Ranked, asked_of, outcome_of, rank_batch
from tailrank.serving.stages import Cascade, Filter, check_names
from tailrank.serving.stats import EngineStats

_log = logging.getLogger(__name__)


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

        filters: models that choose candidates for it, one after the other, of queries that `rank`
            is asked; on the same workers.

    Attributes:
        model: what ranks queries that come now.
        stats: what was done so far.
        placed: where the models that it began with compute, since the start.
    """

    def __init__(
        self,
        model: ServedModel,
        config: EngineConfig,
        fleet: Fleet | None = None,
        filters: Sequence[Filter] = (),
    ) -> None:
        self.model, self.config, self.stats = model, config, EngineStats()
        self.filters = tuple(filters)
        check_names(self.models)
        self._filter_numbers = {it.model.name: number for number, it in enumerate(self.filters)}
        self._fleet = fleet
        self._lock = threading.Lock()
        self._someone_left = threading.Condition(self._lock)
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
            self.models,
            self.config.executor,
            num_workers=self.config.num_workers,
            batch_items_max=self.config.policy.batch_items_max,
            live=self.config.live,
        )
        *chosen, self.model = self.placed.models
        self.filters = tuple(
            replace(each, model=model) for each, model in zip(self.filters, chosen, strict=True)
        )
        try:
            self._start()
        except BaseException:
            self.placed.close()
            raise

    def _start(self) -> None:
        self._admission = Admission(
            self._predictor(self.model),
            filters_predict_ns=[self._predictor(each.model) for each in self.filters],
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
        return self._begin(features, self.model, deadline_ns)

    def rank(self, candidates: Candidates, deadline_ns: int | None = None) -> Future[Ranked]:
        """Have candidates ranked by all models in turn; otherwise like `submit`.

        Args:
            candidates: as they came. What a model that comes later refuses fails the future.
            deadline_ns: the time there is for all models together; None: the SLA's limit.

        Raises:
            ConfigError, RequestError: see `Candidates.features`.
            Overloaded, ServingError: as by `submit`.
        """
        if not self.filters:
            return self.submit(candidates.features(self.model), deadline_ns)
        cascade = Cascade(candidates=candidates, filters=list(self.filters), model=self.model)
        return self._begin(cascade.features, cascade.now_asked, deadline_ns, cascade)

    def _begin(
        self,
        features: FeatureBatch,
        model: ServedModel,
        deadline_ns: int | None,
        cascade: Cascade | None = None,
    ) -> Future[Ranked]:
        """Take a query in at the door; see `submit`."""
        *filtered, num_items = [features.num_items] if cascade is None else cascade.sizes()
        limit_ns = self.config.sla.latency_ns if deadline_ns is None else deadline_ns
        with self._lock:
            if self._draining or not self.is_alive:
                raise ServingError("no query is taken: the server is going down")
            try:
                work = self._admission.admit(num_items, limit_ns, filtered)
            except Overloaded as error:
                self.stats.shed[error.reason] += 1
                raise
            now_ns = self._inbox.now_ns()
        due_ns = None if deadline_ns is None else now_ns + deadline_ns
        if cascade is not None:
            cascade.began_ns, cascade.limit_ns = now_ns, now_ns + limit_ns
        asked = Asked(model, features, Future(), work, cascade)
        try:
            self._enter(asked, now_ns, due_ns)
        except ServingError:
            self._leave(work)
            raise
        return asked.future

    def _enter(self, asked: Asked, now_ns: int, due_ns: int | None) -> None:
        """Hand a query, or the next stage of one, to the workers.

        Raises:
            ServingError: they are going down.
        """
        model, num_items = asked.model, asked.features.num_items
        if asked.cascade is not None:
            # The stages to come need their part of the time.
            due_ns = asked.cascade.limit_ns - round(asked.work.later_ns[0])
        with self._lock:
            self._next_id += 1
            query_id = self._next_id
        self._inbox.submit(
            Query(
                query_id=query_id,
                model=model.name,
                scheduled_ns=now_ns,
                deadline_ns=due_ns,
                num_items=num_items,
                # As tables have them: features of a query may be longer than on average.
                num_ids=round(model.ids_per_item * num_items),
                payload=asked,
            )
        )

    def drain(self) -> None:
        """Take no more queries, answer those that have come, and stop the workers."""
        with self._lock:
            self._draining = True
            if self.filters and self.is_alive:
                # A query that is in its first stage comes to the inbox again.
                limit_s = self.config.live.drain_timeout_ns / 1e9
                self._someone_left.wait_for(lambda: not self.num_open, limit_s)
        if self._thread.is_alive():
            self._inbox.close()
            self._thread.join()

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """What scores the candidates that `rank` is asked, one after the other."""
        return (*(each.model for each in self.filters), self.model)

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
        if self._crash is not None and self._inbox.wait_until_open():
            # Nobody waits for a run that had begun. Its text may hold feature values.
            where = "".join(format_tb(self._crash.__traceback__))
            _log.error("the engine has died: %s\n%s", type(self._crash).__name__, where)

    def _predictor(self, model: ServedModel) -> Predict:
        return predictor(
            model, self._fleet, self.config.num_workers, self.config.policy.batch_items_max
        )

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
            filter_number = self._filter_numbers.get(batch.parts[0].query.model)
            self._admission.learn(batch.num_items, took_ns, filter_number)
            for part in batch.parts:
                self._admission.part_done(asked_of(part.query).work, part.num_items)
        return results

    def _on_end(self, record: QueryRecord) -> None:
        """Answer; called on a worker's thread, once for each query."""
        asked = asked_of(record.query)
        outcome = outcome_of(record, asked.model)
        if asked.cascade is not None and isinstance(outcome, Ranked):
            answer = self._next_stage(asked, asked.cascade, outcome)
            if answer is None:
                return
            outcome = answer
        self._leave(asked.work)
        with self._lock:
            self._count(record, outcome)
        # A client that has gone away cancels; the future then takes nothing.
        if not asked.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Ranked):
            asked.future.set_result(outcome)
        else:
            asked.future.set_exception(outcome)

    def _next_stage(
        self, asked: Asked, cascade: Cascade, ranked: Ranked
    ) -> Ranked | Exception | None:
        """Begin a query's next stage, which gives None; else how the query ends."""
        now_ns = self._inbox.now_ns()
        answer = cascade.take(ranked, now_ns)
        if answer is not None:
            return answer
        with self._lock:
            self._admission.stage_done(asked.work)
        try:
            following = asked._replace(model=cascade.now_asked, features=cascade.features)
            self._enter(following, now_ns, None)
        except Exception as error:
            return error
        return None

    def _leave(self, work: OpenWork) -> None:
        with self._lock:
            self._admission.leave(work)
            self._someone_left.notify_all()

    def _count(self, record: QueryRecord, outcome: Ranked | Exception) -> None:
        stats = self.stats
        if isinstance(outcome, Ranked):
            queue_ns, compute_ns, total_ns = outcome.timing
            stats.queries += 1
            stages = outcome.stages
            stats.items += stages[0].num_items if stages else record.query.num_items
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
