"""A client that sends queries when they are due, whatever became of those before: an open loop.

One thread, kept-alive connections, requests made of pieces that lie ready. Latency counts from the
time for which a query was drawn, so a server that stalls is not let off by a client that waits for
it. This module must not know what is asked, nor how a connection speaks.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import numpy as np
import uvloop

from tailrank.core.errors import RequestError, ServingError
from tailrank.core.query import Query
from tailrank.runtime.record import QueryColumns, QueryOutcome, RunResult
from tailrank.serving.alarm import Alarm
from tailrank.serving.load_run import LoadRun, busy_times
from tailrank.serving.load_target import LoadTarget, Pieces

_CONNECTIONS_READY = 32
# After the last query, or Ctrl-C: for what is still open.
_PATIENCE_S, _INTERRUPTED_S = 10.0, 1.0
_PROGRESS_S = 0.25
_ERROR_SHOWN = 200
RequestFor = Callable[[Query], Pieces]
"""The pieces of the whole request of a query."""


class Connection(Protocol):
    """Something that takes one question at a time, and tells its run what became of it."""

    def ask(self, place: int, request: Pieces) -> None:
        """Send the request of a query."""

    def hang_up(self) -> None:
        """Close it at once; `Run.lost` is called some time after."""


class Connector(Protocol):
    """Makes the connections of a run."""

    async def connect(self) -> None:
        """Make one more, and call `Run.opened`.

        Raises:
            OSError: the server cannot be reached.
        """

    async def close(self) -> None:
        """Let go of what connections have shared."""

    def cpu_ns(self) -> int:
        """Time of processors that all this has taken so far."""


Transport = Callable[["Run"], Connector]


def send_load(
    target: LoadTarget,
    schedule: Sequence[Query],
    request_for: RequestFor,
    *,
    transport: Transport,
    connections_max: int = 512,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> LoadRun:
    """Send a schedule and wait for the answers.

    Args:
        target: the server.
        schedule: queries in order of `scheduled_ns`, from 0.
        request_for: makes the request of a query.
        transport: makes connections.
        connections_max: most connections at once; queries beyond wait for one, while their time
            runs.
        on_progress: told the share of queries sent.

    Raises:
        RequestError: the server cannot be reached.
    """
    loop = uvloop.new_event_loop()
    try:
        run = Run(loop, target, schedule, request_for, transport, connections_max)
        return loop.run_until_complete(run.drive(on_progress))
    finally:
        loop.close()


class Run:
    """One schedule on its way."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        target: LoadTarget,
        schedule: Sequence[Query],
        request_for: RequestFor,
        transport: Transport,
        connections_max: int,
    ) -> None:
        self._loop, self._target, self._schedule = loop, target, schedule
        self._request_for, self._connections_max = request_for, connections_max
        self._connector = transport(self)
        count = len(schedule)
        self._released_ns, self._sent_ns, self._done_ns = ([-1] * count for _ in range(3))
        self._outcome = [QueryOutcome.UNANSWERED.value] * count
        self._next = self._num_open = self._connections_seen = 0
        self._connections: set[Connection] = set()
        # Taken in turns: one that was used last again and again would be one process of several.
        self._idle: deque[Connection] = deque()
        self._waiting: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._start_ns = 0
        self._over = asyncio.Event()
        self._interrupted = False
        self._first_error: Exception | None = None

    async def drive(self, on_progress: Callable[[float], None]) -> LoadRun:
        """Send everything, and collect the answers."""
        self._alarm = Alarm(self._loop, self._release)
        try:
            await self._get_ready()
            with self._undisturbed():
                cpu_ns, self._start_ns = self._connector.cpu_ns(), time.monotonic_ns()
                self._release()
                await self._wait(on_progress)
                cpu_ns, ended_ns = self._connector.cpu_ns() - cpu_ns, self.now_ns()
            return LoadRun(
                self._result(ended_ns),
                cpu_ns / ended_ns,
                self._connections_seen,
                self._interrupted,
            )
        finally:
            self._alarm.close()
            await self._hang_up()

    async def _get_ready(self) -> None:
        """Open the first connections."""
        try:
            for _ in range(min(_CONNECTIONS_READY, self._connections_max, len(self._schedule))):
                await self._connector.connect()
        except OSError as error:
            raise RequestError("--url", f"{self._target.url} cannot be reached: {error}") from None

    @contextmanager
    def _undisturbed(self) -> Generator[None, None, None]:
        """Without pauses for garbage, and with Ctrl-C as the wish to see what there is so far."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            self._loop.add_signal_handler(signal.SIGINT, self._interrupt)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            gc.unfreeze()
            if in_main_thread:
                self._loop.remove_signal_handler(signal.SIGINT)

    async def _wait(self, on_progress: Callable[[float], None]) -> None:
        """Until all is answered, or patience is at its end."""
        while self._next < len(self._schedule) and not self._interrupted:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _PROGRESS_S)
            on_progress(self._next / len(self._schedule))
        if self._num_open:
            patience_s = _INTERRUPTED_S if self._interrupted else _PATIENCE_S
            self._over.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), patience_s)

    def _interrupt(self) -> None:
        self._interrupted = True
        self._alarm.stop()
        self._over.set()

    def now_ns(self) -> int:
        """Time since the start of the schedule."""
        return time.monotonic_ns() - self._start_ns

    def _release(self) -> None:
        """Send what is due, and set the alarm for what is next."""
        count = len(self._schedule)
        while self._next < count and not self._interrupted:
            now_ns, place = self.now_ns(), self._next
            due_ns = self._schedule[place].scheduled_ns
            if due_ns > now_ns:
                self._alarm.set(self._start_ns + due_ns)
                return
            self._next += 1
            self._num_open += 1
            self._released_ns[place] = now_ns
            if self._idle:
                self._send(self._idle.popleft(), place)
            else:
                self._waiting.append(place)
                self._open_another()

    def _send(self, connection: Connection, place: int) -> None:
        self._sent_ns[place] = self.now_ns()
        connection.ask(place, self._request_for(self._schedule[place]))

    def free(self, connection: Connection) -> None:
        """A connection has nothing to do."""
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def end(self, place: int, outcome: QueryOutcome, why: str = "") -> None:
        """A query has its answer, or will not get one."""
        self._done_ns[place] = self.now_ns()
        self._outcome[place] = outcome.value
        if outcome is QueryOutcome.FAILED and self._first_error is None:
            self._first_error = ServingError(why[:_ERROR_SHOWN])
        self._num_open -= 1
        if not self._num_open and (self._interrupted or self._next == len(self._schedule)):
            self._over.set()

    def lost(self, connection: Connection) -> None:
        """A connection was closed."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting:
            self._open_another()

    def _open_another(self) -> None:
        if len(self._connections) + len(self._opening) < self._connections_max:
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._was_opened)

    def _was_opened(self, task: asyncio.Task[None]) -> None:
        """An attempt is over; the connection may have been closed again by now."""
        self._opening.discard(task)
        if len(self._waiting) > len(self._opening):
            self._open_another()

    async def _open(self) -> None:
        try:
            await self._connector.connect()
        except OSError as error:
            if self._waiting:
                self.end(self._waiting.popleft(), QueryOutcome.FAILED, str(error))

    def opened(self, connection: Connection) -> None:
        """A connection is there."""
        self._connections.add(connection)
        self._connections_seen = max(self._connections_seen, len(self._connections))
        self.free(connection)

    async def _hang_up(self) -> None:
        """Close all connections, whatever is open on them."""
        self._waiting.clear()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in self._connections:
            connection.hang_up()
        while self._connections:
            await asyncio.sleep(0)
        await self._connector.close()

    def _result(self, ended_ns: int) -> RunResult:
        """The rows of the queries that were released."""
        count = self._next
        scheduled = np.array([query.scheduled_ns for query in self._schedule[:count]], np.int64)
        released, sent, done = (
            np.array(column[:count], np.int64)
            for column in (self._released_ns, self._sent_ns, self._done_ns)
        )
        outcome = np.array(self._outcome[:count], np.int64)
        open_until = np.where(done >= 0, done, ended_ns)
        return RunResult(
            queries=QueryColumns(
                query_id=np.arange(count),
                num_items=np.array([query.num_items for query in self._schedule[:count]], np.int64),
                num_parts=np.ones(count, np.int64),
                scheduled_ns=scheduled,
                released_ns=released,
                started_ns=sent,
                done_ns=np.where(outcome == QueryOutcome.ANSWERED, done, -1),
                outcome=outcome,
            ),
            batches=busy_times(released, open_until),
            num_workers=1,
            ended_ns=ended_ns,
            open_query_ns=int((open_until - released).sum()),
            wake_lateness_ns=released - scheduled,
            drained=self._num_open == 0 or self._interrupted,
            first_error=self._first_error,
        )
