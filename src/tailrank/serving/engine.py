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
from dataclasses import replace
from traceback import format_tb

from tailrank.characterization.target import initialise_worker
from tailrank.core.errors import Overloaded, ServingError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, Query
from tailrank.features import FeatureBatch
from tailrank.runtime.inbox import OpenInbox
from tailrank.runtime.live import run_live
from tailrank.runtime.record import QueryRecord
from tailrank.serving.admission import Admission, OpenWork
from tailrank.serving.candidates import Candidates
from tailrank.serving.engine_config import EngineConfig
from tailrank.serving.executors import Placed
from tailrank.serving.lineup import Lineup
from tailrank.serving.model import ServedModel
from tailrank.serving.ranking import Asked, Ranked, asked_of, outcome_of, rank_batch, settle
from tailrank.serving.stages import Cascade, Filter
from tailrank.serving.stats import EngineStats

_log = logging.getLogger(__name__)


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
        lineup: the models that rank queries which come now.
        stats: what was done so far.
    """

    def __init__(
        self,
        model: ServedModel,
        config: EngineConfig,
        fleet: Fleet | None = None,
        filters: Sequence[Filter] = (),
    ) -> None:
        self.config, self.stats, self._fleet = config, EngineStats(), fleet
        models = [*(each.model for each in filters), model]
        self.lineup = Lineup(models, [each.keep for each in filters], fleet)
        self._filter_numbers = {it.model.name: number for number, it in enumerate(filters)}
        self._lock = threading.Lock()
        self._someone_left = threading.Condition(self._lock)
        self._inbox = OpenInbox()
        self._next_id = self._num_entering = 0
        self._draining = False
        self._crash: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="tailrank-engine", daemon=True)
        self._admission: Admission

    def start(self) -> None:
        """Warm up and start the workers; returns when they are ready.

        Worker processes are forked here: the process should have no threads that compute yet.

        Raises:
            ConfigError: the policy wants a fleet and there is none, more workers than cores, or
                processes for a model on another device than the CPU.
            ServingError: the workers could not start.
        """
        self.lineup.place(self.config, self.config.executor)
        try:
            self._start()
        except BaseException:
            self.lineup.close()
            raise

    def _start(self) -> None:
        *filters_predict_ns, predict_ns = self.lineup.predict_ns
        self._admission = Admission(
            predict_ns,
            filters_predict_ns=filters_predict_ns,
            batch_items_max=self.config.policy.batch_items_max,
            num_workers=self.config.num_workers,
            items_max=self.config.policy.queue_items_max,
            sla=self.config.sla,
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

    def submit(
        self, asked: FeatureBatch | Candidates, deadline_ns: int | None = None, waited_ns: int = 0
    ) -> Future[Ranked]:
        """Have candidates ranked by the last model; returns at once.

        Args:
            asked: one user and its candidates, as they came; or their features, checked.
            deadline_ns: the time there is, from when it came; None: the SLA's limit.
            waited_ns: how long ago it came.

        Returns:
            A future, which fails with `Overloaded` if a policy gives the query up, with
            `ConfigError` if the ranker refuses its features, and with whatever else a ranker
            raised.

        Raises:
            ConfigError, RequestError: see `Candidates.found`.
            Overloaded: the answer would come too late, or too much is open.
            ServingError: the engine is draining or has died.
        """
        return self._take(asked, deadline_ns, waited_ns, in_stages=False)

    def rank(
        self, candidates: Candidates, deadline_ns: int | None = None, waited_ns: int = 0
    ) -> Future[Ranked]:
        """Have candidates ranked by all models in turn; otherwise like `submit`.

        Args:
            candidates: as they came. What a model that comes later refuses fails the future.
            deadline_ns: the time there is for all models together; None: the SLA's limit.
            waited_ns: how long ago they came.
        """
        return self._take(candidates, deadline_ns, waited_ns, in_stages=True)

    def _take(
        self,
        asked: FeatureBatch | Candidates,
        deadline_ns: int | None,
        waited_ns: int,
        *,
        in_stages: bool,
    ) -> Future[Ranked]:
        """Take a query in at the door; see `submit`."""
        limit_ns = self.config.sla.latency_ns if deadline_ns is None else deadline_ns
        with self._lock:
            if self._draining or not self.is_alive:
                raise ServingError("no query is taken: the server is going down")
            # From here to its end the query belongs to these models, whatever takes their place.
            lineup = self.lineup
            model, cascade, sizes = lineup.model, None, [asked.num_items]
            if in_stages and lineup.filters and not isinstance(asked, FeatureBatch):
                filters = list(lineup.filters)
                cascade = Cascade(candidates=asked, filters=filters, model=lineup.model)
                model, sizes = cascade.now_asked, [*cascade.sizes()]
            try:
                work = self._admission.admit(sizes[-1], limit_ns, sizes[:-1], waited_ns)
            except Overloaded as error:
                self.stats.shed[error.reason] += 1
                raise
            lineup.num_users += 1
            self._num_entering += 1
            now_ns = self._inbox.now_ns()
            came_ns = now_ns - waited_ns
        try:
            features = asked if isinstance(asked, FeatureBatch) else asked.found(model)
            if cascade is not None:
                cascade.began_ns, cascade.limit_ns = came_ns, came_ns + limit_ns
            expected_ns = now_ns + round(work.expected_ns)
            query = Asked(model, features, Future(), work, lineup, expected_ns, cascade)
            self._enter(query, came_ns, None if deadline_ns is None else came_ns + deadline_ns)
        except BaseException:
            self._leave(lineup, work)
            raise
        finally:
            with self._lock:
                self._num_entering -= 1
                self._someone_left.notify_all()
        return query.future

    def _enter(self, asked: Asked, came_ns: int, due_ns: int | None) -> None:
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
                scheduled_ns=came_ns,
                deadline_ns=due_ns,
                num_items=num_items,
                # As tables have them: features of a query may be longer than on average.
                num_ids=round(model.ids_per_item * num_items),
                payload=asked,
            )
        )

    def told(self, ranked: Ranked) -> None:
        """Learn from an answer that is about to be sent how long answers take."""
        with self._lock:
            self._admission.learn_answer(self._inbox.now_ns() - ranked.expected_ns)

    def drain(self) -> None:
        """Take no more queries, answer those that have come, and stop the workers."""
        with self._lock:
            self._draining = True
            if self.is_alive:
                limit_s = self.config.live.drain_timeout_ns / 1e9
                self._someone_left.wait_for(lambda: not self._num_entering, limit_s)
                if self.lineup.filters:
                    # A query that is in its first stage comes to the inbox again.
                    self._someone_left.wait_for(lambda: not self.num_open, limit_s)
        if self._thread.is_alive():
            self._inbox.close()
            self._thread.join()

    def serve_with(self, lineup: Lineup) -> Lineup:
        """Let other models rank the queries that come from now on; returns those before them.

        Args:
            lineup: placed; it takes the same queries.

        Raises:
            ServingError: the engine is draining or has died.
        """
        *filters_predict_ns, predict_ns = lineup.predict_ns
        with self._lock:
            if self._draining or not self.is_alive:
                raise ServingError("no model is taken: the server is going down")
            before = self.lineup
            self.stats.serve_no_more(before.placed)
            self.lineup = lineup
            self._admission.change_models(predict_ns, filters_predict_ns)
        return before

    def wait_until_unused(self, lineup: Lineup) -> bool:
        """Wait for the last query of models that serve no more; False: it takes too long."""
        limit_s = self.config.live.drain_timeout_ns / 1e9
        with self._lock:
            return self._someone_left.wait_for(lambda: not lineup.num_users, limit_s)

    @property
    def model(self) -> ServedModel:
        """What scores the answer to a query that comes now."""
        return self.lineup.model

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """What scores the candidates that `rank` is asked, one after the other."""
        return self.lineup.models

    @property
    def placed(self) -> Placed:
        """Where they compute."""
        return self.lineup.placed

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
            self.lineup.close()
        if self._crash is not None and self._inbox.wait_until_open():
            # Nobody waits for a run that had begun. Its text may hold feature values.
            where = "".join(format_tb(self._crash.__traceback__))
            _log.error("the engine has died: %s\n%s", type(self._crash).__name__, where)

    def _run_batch(self, batch: Batch) -> Sequence[object]:
        """Rank a batch and book its work; called on a worker's thread."""
        with self._lock:
            for part in batch.parts:
                self._admission.part_started(asked_of(part.query).work)
        started = time.perf_counter_ns()
        results = rank_batch(batch)
        took_ns = time.perf_counter_ns() - started
        with self._lock:
            self.stats.batch_done(batch.num_items, took_ns)
            first = batch.parts[0].query
            if asked_of(first).lineup is self.lineup:
                filter_number = self._filter_numbers.get(first.model)
                self._admission.learn(batch.num_items, took_ns, filter_number)
            for part in batch.parts:
                self._admission.part_done(asked_of(part.query).work, part.num_items)
        return results

    def _on_end(self, record: QueryRecord) -> None:
        """Answer; called on a worker's thread, once for each query."""
        asked = asked_of(record.query)
        outcome: Ranked | Exception | None = ServingError("the engine has died")
        try:
            found: Ranked | Exception | None = outcome_of(record, asked.model)
            if asked.cascade is not None and isinstance(found, Ranked):
                found = self._next_stage(asked, asked.cascade, found)
            if isinstance(found, Ranked):
                found = found._replace(expected_ns=asked.expected_ns)
            if found is not None:
                with self._lock:
                    self._count(record, found)
            outcome = found
        finally:
            if outcome is not None:
                self._leave(asked.lineup, asked.work)
                settle(asked.future, outcome)

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

    def _leave(self, lineup: Lineup, work: OpenWork) -> None:
        with self._lock:
            lineup.num_users -= 1
            self._admission.leave(work)
            self._someone_left.notify_all()

    def _count(self, record: QueryRecord, outcome: Ranked | Exception) -> None:
        stats = self.stats
        if isinstance(outcome, Ranked):
            stages, timing = outcome.stages, outcome.timing
            num_items = stages[0].num_items if stages else record.query.num_items
            is_late = timing.total_ns > self.config.sla.latency_ns
            stats.answered(num_items, timing, stages, is_late=is_late)
            stats.splits += record.num_parts > 1
        elif isinstance(outcome, Overloaded):
            stats.shed[outcome.reason] += 1
        else:
            stats.failed += 1
