"""Candidates in processes of their own, driven over pipes: weights, inputs and clocks are inside.

A process has an environment (huge pages for torch's allocator, say), holds every candidate of one
model that wants this environment, and draws weights and inputs from the seed that all of them use.
One process works at a time, pinned to one core, except where two streams are asked for. A forked
twin shares the tables of its process, so that two processes need no second copy.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import torch

from inference_cases import Case, IdsFrom, Prepare, batch_of, tailrank_ranker
from inference_floor import peak_gflops
from tailrank.core.errors import TailrankError
from tailrank.features import SideFeatures
from tailrank.models.dlrm import DLRM

OURS = "tailrank"
Role = Literal["ours", "stock", "tuned"]
# Every process scores on one thread; a second stream is a second thread or process.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
_ENVIRONMENTS: dict[Role, dict[str, str]] = {
    "ours": _ENVIRONMENT,
    "stock": _ENVIRONMENT,
    "tuned": _ENVIRONMENT | {"THP_MEM_ALLOC_ENABLE": "1"},
}
_REPLY_S = 600  # compiling a large model on a busy host takes minutes
# A stream goes round prepared batches of this many items in all: their rows are not cached.
_STREAM_ITEMS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to score.

    Args:
        role: whose process it lives in: `ours`; `stock` for a peer as shipped; `tuned` for one with
            every advantage.
        precision: as `tailrank export` names it.
        module: with `scorer(model, precision, *, tuned, **options)`; `tailrank` for ourselves.
        options: keywords of that function.
        suffix: tells apart two candidates of one module.
    """

    role: Role
    precision: str
    module: str = OURS
    options: tuple[tuple[str, object], ...] = ()
    suffix: str = ""

    @property
    def label(self) -> str:
        """In names of metrics: `compiled_frozen_bf16`."""
        return f"{self.module.rpartition('.')[2]}{self.suffix}_{slug(self.precision)}"


def slug(precision: str) -> str:
    """`rows=int8,dense=bf16` as a name of a metric can hold it."""
    return precision.replace("=", "_").replace(",", "_")


class Worker:
    """The driver's end of a process; any of its methods may be called from one thread.

    Args:
        case: the model.
        role: whose candidates, and which environment.
        candidates: all those of that role.
        core: where it stays, but for streams.
    """

    def __init__(self, case: Case, role: Role, candidates: Sequence[Candidate], core: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._twin, twins = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, twins, case, tuple(candidates), core), daemon=True
        )
        with _environment(_ENVIRONMENTS[role]):
            self._process.start()
        theirs.close()
        twins.close()
        self._has_twin = False

    def call(self, method: str, *arguments: object) -> Any:
        """Run a method of `_Session` there."""
        self.send(method, *arguments)
        return self.receive()

    def fork(self) -> None:
        """Make a twin, once: a process that shares the memory of this one."""
        if not self._has_twin:
            self.call("fork")
            self._has_twin = True

    def send(self, method: str, *arguments: object, twin: bool = False) -> None:
        """Begin a call."""
        (self._twin if twin else self._connection).send((method, arguments))

    def receive(self, *, twin: bool = False) -> Any:
        """What the call that was sent last gave."""
        connection = self._twin if twin else self._connection
        if not connection.poll(_REPLY_S):
            raise TimeoutError(f"no answer in {_REPLY_S} s")
        try:
            value, error = connection.recv()
        except EOFError:
            raise RuntimeError("a process of candidates ended: too little memory?") from None
        if error is not None:
            raise RuntimeError(error)
        return value

    def close(self) -> None:
        """End the process and its twin."""
        for connection in (self._twin, self._connection):
            connection.close()
        self._process.join(10)
        self._process.kill()


@contextmanager
def _environment(values: dict[str, str]):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(
    connection: Connection,
    twin: Connection,
    case: Case,
    candidates: Sequence[Candidate],
    core: int,
) -> None:
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # deprecations inside the peers
    with torch.inference_mode():
        session: _Session | None = None
        while True:
            try:
                method, arguments = connection.recv()
            except EOFError:
                # Not by way of destructors: those of thread pools abort in a twin, where their
                # threads are not.
                os._exit(0)
            try:
                if method == "build":
                    session = _Session(case, candidates)
                    reply = session.missing, session.described
                elif method == "fork":
                    reply = None
                    if os.fork() == 0:
                        connection, twin = twin, connection
                        twin.close()
                        continue
                else:
                    reply = getattr(session, method)(*arguments)
                connection.send((reply, None))
            except Exception:  # the driver raises it where the call was made
                connection.send((None, traceback.format_exc()))


class _Session:
    """What lives in one process: the scorers of a model, and rows for them."""

    def __init__(self, case: Case, candidates: Sequence[Candidate]) -> None:
        self.missing: dict[str, str] = {}
        self.described: dict[str, dict[str, object]] = {}
        self._scorers: dict[str, Prepare] = {}
        self._pools: dict[IdsFrom, SideFeatures] = {}
        self._case = case
        model = case.model()
        with tempfile.TemporaryDirectory() as folder:
            for candidate in candidates:
                try:
                    self._scorers[candidate.label] = self._scorer(candidate, model, folder)
                except (ImportError, OSError, TailrankError) as error:
                    self.missing[candidate.label] = str(error).splitlines()[0]

    def _scorer(self, candidate: Candidate, model: DLRM, folder: str) -> Prepare:
        if candidate.module == OURS:
            ranker = tailrank_ranker(model, candidate.precision, folder)
            self.described[candidate.label] = ranker.describe()
            return lambda batch: lambda: ranker.rank(batch)
        module, tuned = importlib.import_module(candidate.module), candidate.role == "tuned"
        options = dict(candidate.options)
        scorer: Prepare = module.scorer(model, candidate.precision, tuned=tuned, **options)
        return scorer

    def peaks(self) -> dict[str, float]:
        """See `peak_gflops`."""
        return peak_gflops()

    def scores(self, label: str, ids_from: IdsFrom, items: int, batches: int) -> np.ndarray:
        """Scores of the first `batches` batches."""
        pool = self._pool(ids_from)
        calls = (self._scorers[label](batch_of(pool, at, items)) for at in range(batches))
        return np.concatenate([call().float().flatten().numpy() for call in calls])

    def turn(
        self, label: str, ids_from: IdsFrom, items: int, first: int, calls: int
    ) -> tuple[float, float]:
        """A call's CPU microseconds of the process, the median of `calls` after one more.

        And the fraction of the turn's wall time that the process did not have the core.
        """
        prepared = self._prepared(label, ids_from, items, first, calls + 1)
        prepared.pop()()  # brings the weights back, as the call before does in a server
        samples = []
        wall_ns, own_ns = time.monotonic_ns(), time.process_time_ns()
        for call in prepared:
            started_ns = time.process_time_ns()
            call()
            samples.append((time.process_time_ns() - started_ns) / 1e3)
        own_ns, wall_ns = time.process_time_ns() - own_ns, time.monotonic_ns() - wall_ns
        busy_fraction = max(0.0, 1.0 - own_ns / wall_ns)
        return statistics.median(samples), busy_fraction

    def stream(
        self, label: str, items: int, first: int, cores: Sequence[int], seconds: float
    ) -> None:
        """Make streams ready, one thread for each of `cores`; `run` starts them."""
        count = max(2, _STREAM_ITEMS // items)
        self._streams = [
            _Stream(
                self._prepared(label, "uniform", items, first + at * count, count), core, seconds
            )
            for at, core in enumerate(cores)
        ]
        for stream in self._streams:
            stream.start()
        for stream in self._streams:
            stream.ready.wait()
        self._stream_items = items

    def run(self, start_s: float) -> float:
        """Items per second of wall time from all streams together, begun at that time."""
        for stream in self._streams:
            stream.begin(start_s)
        for stream in self._streams:
            stream.join()
        rate = self._stream_items * sum(stream.calls_per_s for stream in self._streams)
        assert not math.isnan(rate), "a stream failed; its error is above"
        return rate

    def _prepared(
        self, label: str, ids_from: IdsFrom, items: int, first: int, count: int
    ) -> list[Callable[[], object]]:
        pool, prepare = self._pool(ids_from), self._scorers[label]
        return [prepare(batch_of(pool, at, items)) for at in range(first, first + count)]

    def _pool(self, ids_from: IdsFrom) -> SideFeatures:
        if ids_from not in self._pools:
            self._pools = {ids_from: self._case.pool(ids_from)}
        return self._pools[ids_from]


class _Stream(threading.Thread):
    """One batch after the other on a core of its own, warmed up before it is `ready`."""

    def __init__(self, calls: Sequence[Callable[[], object]], core: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self.ready = threading.Event()
        self.calls_per_s = math.nan
        self._calls, self._core, self._seconds = calls, core, seconds
        self._start_s, self._begun = 0.0, threading.Event()

    def begin(self, start_s: float) -> None:
        """Let it start at that time."""
        self._start_s = start_s
        self._begun.set()

    def run(self) -> None:
        """Warm up, wait, and call until the time is over, once at least."""
        os.sched_setaffinity(0, {self._core})
        with torch.inference_mode():
            try:
                self._calls[0]()
            finally:
                self.ready.set()
            self._begun.wait()
            time.sleep(max(0.0, self._start_s - time.monotonic()))
            started_s = now_s = time.monotonic()
            num_calls = 0
            while num_calls == 0 or now_s < started_s + self._seconds:
                self._calls[num_calls % len(self._calls)]()
                num_calls += 1
                now_s = time.monotonic()
        self.calls_per_s = num_calls / (now_s - started_s)
