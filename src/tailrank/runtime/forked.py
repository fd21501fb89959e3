"""Worker processes that threads call as if they were a function: batches travel as flat arrays.

Each of the calling threads (the worker slots of a live run) has a process that computes for it, on
the thread's cores. What was being computed by a process that dies is computed again by another, and
a new one is forked: who calls sees only that it took longer. This module must not know what is
computed.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import pickle
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import cast

from tailrank.core.errors import WorkerDied
from tailrank.runtime.nursery import MESSAGE_BYTES_MAX, Compute, Nursery, NurseryDied
from tailrank.runtime.shared_arrays import Array, SharedArrays

# What ends two processes would end the third, too.
_TRIES_MAX = 2
_RETRY_S = 1.0
# A batch takes milliseconds; the largest that a server takes, on the slowest model, some seconds.
_HANG_S = 60.0


class _Ended(Exception):
    """The process is gone; it may have been for long."""


class _EndedMeanwhile(_Ended):
    """It was asked, and ended before it answered."""


class _Worker:
    """A process that computes for one thread at a time."""

    def __init__(
        self, pid: int, channel: socket.socket, memory: SharedArrays, hang_s: float
    ) -> None:
        self.pid, self._channel, self._memory = pid, channel, memory
        # The system's own timeout: Python's would ask it twice for each answer.
        whole_s, part_s = divmod(hang_s, 1.0)
        limit = struct.pack("@ll", int(whole_s), int(part_s * 1e6))
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.thread_id: int | None = None
        self.is_sound = True

    def follow(self, thread_id: int) -> None:
        """Move to the cores of the calling thread: it waits while its process computes."""
        self.thread_id = thread_id
        with contextlib.suppress(ProcessLookupError):  # the call will find out
            os.sched_setaffinity(self.pid, os.sched_getaffinity(0))

    def call(self, arrays: Sequence[Array]) -> list[Array]:
        """Compute there; raises what was raised there."""
        # Whatever interrupts this, an answer may be under way: the process cannot be asked again.
        self.is_sound = False
        request = marshal.dumps(self._memory.write(arrays))
        try:
            self._channel.send(request)
        except OSError:
            raise _Ended from None
        try:
            answer = self._channel.recv(MESSAGE_BYTES_MAX)
        except BlockingIOError:
            # It is there, as its end of the channel is open: the id is nobody else's.
            os.kill(self.pid, signal.SIGKILL)
            answer = b""
        except OSError:
            answer = b""
        if not answer:
            raise _EndedMeanwhile
        self.is_sound = True
        layout, failure = marshal.loads(answer)
        if failure is not None:
            raise cast(Exception, pickle.loads(failure))
        return [array.copy() for array in self._memory.read(layout)]

    def hang_up(self) -> None:
        """Let the process end after what it is doing, and whoever waits for it know."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of an ended process; nobody may be calling it."""
        self.hang_up()
        self._channel.close()
        self._memory.close()


class ForkedWorkers:
    """Processes that compute what they are called with.

    Make it before the process has threads that compute: it forks.

    Args:
        compute: takes and returns arrays of numbers; all it refers to stays as it is now.
        num_workers: processes, >= 1: as many as threads that call.
        initialise: called once in each, before all else.
        hang_s: a process that computes for longer never ends: it is killed.

    Attributes:
        num_died: processes that ended before they should have.
        num_replaced: processes that were forked in the place of such.

    Raises:
        WorkerDied: a process could not be forked.
        Exception: whatever `initialise` raised.
    """

    def __init__(
        self,
        compute: Compute,
        num_workers: int,
        initialise: Callable[[], None] = lambda: None,
        hang_s: float = _HANG_S,
    ) -> None:
        assert num_workers >= 1, "somebody has to work"
        self.num_died = self.num_replaced = 0
        self._compute, self._num_workers, self._initialise = compute, num_workers, initialise
        self._hang_s = hang_s
        self._changed = threading.Condition()
        self._forking = threading.Lock()
        self._closed = False
        self._retry_s = 0.0
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._num_coming = 0
        self._nursery = Nursery(compute, initialise)
        failure = self._refill()
        if failure is not None:
            self.close()
            raise failure
        self.num_replaced = 0

    @property
    def pids(self) -> list[int]:
        """The processes that work now."""
        with self._changed:
            return sorted(worker.pid for worker in [*self._idle, *self._busy])

    def call(self, arrays: Sequence[Array]) -> list[Array]:
        """Compute in another process, as often as it takes for one to survive it; thread-safe.

        Raises:
            WorkerDied: it ended two processes, nobody is left to compute it, or all is over.
            Exception: whatever `compute` raised.
        """
        num_ended = 0
        while num_ended < _TRIES_MAX:
            worker = self._take()
            try:
                return worker.call(arrays)
            except _Ended as error:
                num_ended += isinstance(error, _EndedMeanwhile)
            finally:
                self._give_back(worker)
        raise WorkerDied(f"{num_ended} worker processes ended while they computed this")

    def close(self) -> None:
        """Send all home and wait until they are gone; a second time does nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.hang_up()
            self._changed.notify_all()
        for worker in idle:
            worker.close()
        with self._forking:
            self._nursery.close()

    def _take(self) -> _Worker:
        """A process for the calling thread, best the one it had before."""
        me = threading.get_ident()
        while True:
            failure = self._refill()
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._idle or self._may_fork())
                if self._closed:
                    raise WorkerDied("the workers have been sent home")
                if self._idle:
                    worker = min(
                        self._idle, key=lambda w: (w.thread_id != me, w.thread_id is not None)
                    )
                    self._idle.remove(worker)
                    self._busy.add(worker)
                    break
                if failure is not None and self._num_there == 0:
                    raise WorkerDied(f"no worker process is left: {failure}") from failure
        if worker.thread_id != me:
            worker.follow(me)
        return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._changed:
            self._busy.discard(worker)
            if worker.is_sound and not self._closed:
                self._idle.append(worker)
            else:
                self.num_died += not self._closed
                worker.close()
            self._changed.notify()
        self._refill()

    @property
    def _num_there(self) -> int:
        return len(self._idle) + len(self._busy) + self._num_coming

    def _may_fork(self) -> bool:
        """Whether one lacks and is to be forked now: at once, or a while after that has failed."""
        if self._closed or self._num_there == self._num_workers:
            return False
        return self._num_there == 0 or time.monotonic() >= self._retry_s

    def _refill(self) -> Exception | None:
        """Fork those that lack; returns what prevents it."""
        while self._may_fork():
            with self._changed:
                if not self._may_fork():  # somebody else has
                    break
                self._num_coming += 1
            worker, failure = None, None
            try:
                worker = self._fork()
            except Exception as error:
                failure = error
            with self._changed:
                self._num_coming -= 1
                if worker is None:
                    self._retry_s = time.monotonic() + _RETRY_S
                elif self._closed:
                    worker.close()
                else:
                    self._idle.append(worker)
                    self.num_replaced += 1
                self._changed.notify_all()
            if failure is not None:
                return failure
        return None

    def _fork(self) -> _Worker:
        with self._forking:
            if self._closed:
                raise WorkerDied("the workers have been sent home")
            try:
                return _Worker(*self._nursery.fork(), self._hang_s)
            except NurseryDied:
                # Threads that compute do so elsewhere by now: none holds a lock of a library.
                self._nursery.close()
                self._nursery = Nursery(self._compute, self._initialise)
                return _Worker(*self._nursery.fork(), self._hang_s)
