"""Other models take over while queries come: loaded beside those that serve, tried, then let in.

Whatever is wrong with them is found before: the models that serve go on. Knows no protocol.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import torch

from tailrank.characterization.target import PRESET_PREFIX, TargetConfig
from tailrank.core.errors import RequestError, ServingError, SwapUnderWay, TailrankError
from tailrank.core.fleet import Fleet
from tailrank.inference.cpu import CpuRanker
from tailrank.inference.table_file import ByteProgress
from tailrank.scheduling.policies import POLICIES
from tailrank.serving.buffers import give_freed_memory_back
from tailrank.serving.engine import Engine
from tailrank.serving.lineup import Lineup
from tailrank.serving.model import (
    FeatureFile,
    ServedModel,
    check_gate,
    check_takes_over,
    open_model,
    with_tables,
)

_log = logging.getLogger(__name__)

# A table of service times is good for a model that takes as long, within what calls on a busy host
# differ by.
_SAME_TIMES = 1.25
_TIMED_CALLS = 9
# At the end: for a load that is under way to see that nobody waits for it.
_END_SECONDS = 5.0

OpenModels = Callable[[Mapping[str, Path | None], ByteProgress], Sequence[ServedModel]]
"""Loads models by the names that they serve under: from a folder, or (None) from where the server
was started with; told of progress, which raises where nobody wants them any more."""


def reopener(
    served: Mapping[str, TargetConfig],
    files: Sequence[FeatureFile],
    announce: Callable[[str], None],
) -> OpenModels:
    """How models are loaded that take over from those that a server was started with.

    Args:
        served: what it was started with, by the names that they serve under.
        files: features of known users and items, which are read anew with each model.
        announce: told the memory needed, and what takes a while.
    """

    def reopen(paths: Mapping[str, Path | None], progress: ByteProgress) -> list[ServedModel]:
        opened = {}
        for name, path in paths.items():
            target = served[name] if path is None else TargetConfig(target=str(path))
            if not target.target.startswith(PRESET_PREFIX):
                check_gate(Path(target.target))
            opened[target.target] = open_model(target, announce, progress)
        # A stage that is read alone need not have features of both sides.
        columns = [model.encoder.columns for model in opened.values()]
        known = [file for file in files if any(sides[file.side] for sides in columns)]
        return with_tables(opened, known, announce)

    return reopen


class Swaps:
    """Changes the models of an engine, one change at a time.

    Args:
        engine: has been started.
        open_models: loads them.
        say: told of each change.
        warn: told why one was refused.
    """

    def __init__(
        self,
        engine: Engine,
        open_models: OpenModels,
        say: Callable[[str], None] = lambda line: None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._engine, self._open = engine, open_models
        self._say, self._warn = say, warn
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._latest: Future[Lineup] | None = None

    def begin(self, paths: Mapping[str, Path | None] | None = None) -> Future[Lineup]:
        """Load models in a thread and let them take over; returns at once.

        Args:
            paths: by the names of models that serve, where to load others from, see `OpenModels`;
                None: all of them, from where the server was started with.

        Returns:
            A future: the models, when those before them have answered their last query and are
            gone. It fails with the reason why the models before go on.

        Raises:
            RequestError: no model of such a name serves.
            SwapUnderWay: another change has not ended.
            ServingError: the engine is draining or has died.
        """
        names = [model.name for model in self._engine.models]
        paths = dict.fromkeys(names) if paths is None else paths
        for name in paths:
            if name not in names:
                raise RequestError("model", f"no {name[:60]!r}; there is {', '.join(names)}")
        found: Future[Lineup] = Future()
        found.set_running_or_notify_cancel()  # who stops waiting does not stop it
        with self._lock:
            # Not whether the thread lives: who waits is told of the end before it is over.
            if self._latest is not None and not self._latest.done():
                raise SwapUnderWay(
                    "models are being changed already: try again when that has ended"
                )
            self._check_ready()
            self._latest = found
            self._thread = threading.Thread(
                target=self._run, args=(paths, found), name="tailrank-swap", daemon=True
            )
            self._thread.start()
        return found

    def begin_quietly(self) -> None:
        """`begin` for all models, where nobody waits for the answer: what is wrong is warned of."""
        try:
            self.begin()
        except TailrankError as error:
            self._warn(f"nothing was changed: {error}")

    def close(self) -> None:
        """Wait a while for what is under way, after the engine was told to drain."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(_END_SECONDS)

    def _check_ready(self) -> None:
        if not self._engine.is_ready:
            raise ServingError("no model is taken: the server is going down")

    def _run(self, paths: Mapping[str, Path | None], found: Future[Lineup]) -> None:
        """The thread's life."""
        torch.set_num_threads(1)  # the other cores have queries to rank
        try:
            lineup = self._swap(paths)
        except BaseException as error:
            if not isinstance(error, TailrankError):
                # What else a file or a fork may raise; its text says nothing to a client.
                _log.exception("models could not be changed")
                error = ServingError(f"the model could not be taken ({type(error).__name__})")
            self._warn(f"the models are as they were: {error}")
            found.set_exception(error)
            return
        give_freed_memory_back()  # the models before are gone by now
        serving = ", ".join(f"{model.name}, version {model.version}" for model in lineup.models)
        self._say(f"now serves {serving}")
        found.set_result(lineup)

    def _swap(self, paths: Mapping[str, Path | None]) -> Lineup:
        engine, old = self._engine, self._engine.lineup

        def progress(done: int, total: int) -> None:
            self._check_ready()

        loaded = dict(zip(paths, self._open(paths, progress), strict=True))
        new = old.with_models([loaded.get(model.name, model) for model in old.opened])
        for model, served in zip(new.opened, old.opened, strict=True):
            check_takes_over(model, served)
        new.fleet = self._fleet_for(new, old)
        with ExitStack() as forks:
            kept = {id(model.ranker) for model in new.opened}
            for model in old.opened:
                # Processes of the new models would keep the tables of the old ones for ever.
                if isinstance(model.ranker, CpuRanker) and id(model.ranker) not in kept:
                    forks.enter_context(model.ranker.arena.left_out_of_forks())
            new.place(engine.config, old.placed.executor)
        try:
            engine.serve_with(new)
        except BaseException:
            new.close()
            raise
        if not engine.wait_until_unused(old):
            _log.error("queries of the models before have not ended: they are given up")
        old.close()
        return new

    def _fleet_for(self, new: Lineup, old: Lineup) -> Fleet | None:
        """The service times that are known, if they are those of a new model as well.

        Raises:
            RequestError: they are not, and the policy predicts by them.
        """
        if old.fleet is None:
            return None
        config = self._engine.config.policy
        new.slowness = old.slowness * _slowness(new.model, old.model, config.batch_items_max)
        same_ids = abs(new.model.ids_per_item - old.model.ids_per_item) < 0.25
        if same_ids and 1 / _SAME_TIMES <= new.slowness <= _SAME_TIMES:
            return old.fleet
        if POLICIES[config.policy].needs_sla:
            raise RequestError(
                new.model.name,
                f"takes {new.slowness:.2f} times as long as the profile that `{config.policy}` "
                "predicts by says; profile it, and start a server with that",
            )
        return None


def _slowness(new: ServedModel, old: ServedModel, num_items: int) -> float:
    """How many times as long a model takes as another: the shortest calls of each, in turns."""
    best = {new: float("inf"), old: float("inf")}
    queries = {model: model.random_query(num_items, seed=0) for model in best}
    for _ in range(_TIMED_CALLS):
        for model, query in queries.items():
            started = time.perf_counter_ns()
            model.ranker.rank(query)
            best[model] = min(best[model], time.perf_counter_ns() - started)
    return best[new] / best[old]
