"""A process of one thread that forks workers: cheaply, at any time, from memory as it was.

Whoever starts it is copied as it is then, tables and all; pages that nobody writes stay shared. A
worker that has died is replaced by another fork, in milliseconds, while the starting process has
long had threads, beside which forking is not safe. Workers and nursery end when their sockets do:
at `close`, and when the process that started them ends in whatever way.

This module must not know what is computed.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import pickle
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from tailrank.core.errors import ServingError, WorkerDied
from tailrank.runtime.shared_arrays import Array, Layout, SharedArrays

Compute = Callable[[list[Array]], Sequence[Array]]
"""What a worker does with the arrays it is called with."""

# Below what a socket of sequenced packets takes with Linux' smallest buffers.
MESSAGE_BYTES_MAX = 1 << 16
_ERROR_BYTES_MAX = 1 << 15
# A worker that has not begun by then never will.
_BEGIN_TIMEOUT_S = 30.0
# After this, workers that are still in a batch when all is over are killed.
_END_GRACE_S = 2.0


class NurseryDied(WorkerDied):
    """The nursery has ended; its workers live on."""


class Nursery:
    """Starts the process; best while this one has a single thread.

    Args:
        compute: what workers do; it and all it refers to are as they are now, for ever.
        initialise: called once in each worker, before all else.
    """

    def __init__(self, compute: Compute, initialise: Callable[[], None]) -> None:
        self._control, theirs = _socket_pair()
        self.pid = _fork()
        if self.pid == 0:
            _forever(partial(_nurse, theirs, compute, initialise))
        theirs.close()

    def fork(self) -> tuple[int, socket.socket, SharedArrays]:
        """Fork a worker that is ready to be called.

        Returns:
            Its process id, the socket it listens on, and the memory that it shares.

        Raises:
            NurseryDied: there is nobody to fork it.
            WorkerDied: it could not be forked or ended at once.
            Exception: whatever `initialise` raised in it.
        """
        channel, theirs = _socket_pair()
        memory = SharedArrays()
        try:
            with theirs:
                try:
                    socket.send_fds(self._control, [b"fork"], [theirs.fileno(), memory.fd])
                except OSError as error:
                    raise NurseryDied(str(error)) from None
            channel.settimeout(_BEGIN_TIMEOUT_S)
            try:
                hello = channel.recv(MESSAGE_BYTES_MAX)
            except OSError:
                hello = b""
            if not hello:
                raise WorkerDied("a worker process could not be forked")
            pid, failure = marshal.loads(hello)
            if failure is not None:
                raise pickle.loads(failure)
            channel.settimeout(None)
        except BaseException:
            channel.close()
            memory.close()
            raise
        return pid, channel, memory

    def close(self) -> None:
        """End the nursery when its workers have ended, and wait for that; kills those that hang.

        A second time does nothing.
        """
        # Another nursery may have been forked with a copy of the socket, which `close` would leave.
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _nurse(control: socket.socket, compute: Compute, initialise: Callable[[], None]) -> None:
    """The nursery's life."""
    _leave_family(control)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 16, 2)
        if not message:
            break
        with contextlib.suppress(OSError):  # no process to be had: the asker sees the socket end
            if _fork() == 0:
                control.close()
                channel, memory = socket.socket(fileno=fds[0]), SharedArrays(fds[1])
                _forever(partial(_work, channel, memory, compute, initialise))
        for fd in fds:
            os.close(fd)
    end_s = time.monotonic() + _END_GRACE_S
    with contextlib.suppress(ChildProcessError):  # nobody is left
        while time.monotonic() < end_s:
            os.waitpid(-1, os.WNOHANG)
            # Children whose ends are not reported (SIGCHLD is ignored) can only be looked for.
            time.sleep(0.002)
        os.killpg(0, signal.SIGKILL)


def _leave_family(control: socket.socket) -> None:
    """Keep nothing of the process that was copied but its memory."""
    os.setpgid(0, 0)
    # Ctrl-C and a supervisor's SIGTERM go to all: it is for the server to drain, with workers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries who dies
    # A copy of a listening socket would keep its port, one of a worker's socket the worker.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != control.fileno():
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))
    # What was copied is never collected: finalisers would close descriptors of the same numbers,
    # and marking the objects would copy their pages.
    gc.freeze()


def _work(
    channel: socket.socket,
    memory: SharedArrays,
    compute: Compute,
    initialise: Callable[[], None],
) -> None:
    """A worker's life: one call after the other, until nobody is there to call."""
    try:
        initialise()
    except Exception as error:
        channel.send(marshal.dumps((0, _flat_error(error))))
        return
    channel.send(marshal.dumps((os.getpid(), None)))
    while message := channel.recv(MESSAGE_BYTES_MAX):
        layout, end = marshal.loads(message)
        answer: tuple[Layout, bytes | None]
        try:
            # Behind what was asked: results may be views of it.
            answer = memory.write(compute(memory.read(layout)), first_byte=end)[0], None
        except Exception as error:
            answer = (), _flat_error(error)
        channel.send(marshal.dumps(answer))


def _flat_error(error: Exception) -> bytes:
    """The error for another process; one that cannot travel becomes its text."""
    try:
        flat = pickle.dumps(error)
        if len(flat) <= _ERROR_BYTES_MAX and type(pickle.loads(flat)) is type(error):
            return flat
    except Exception:
        pass  # what a class does when it is pickled is its own
    return pickle.dumps(ServingError(f"{type(error).__name__}: {str(error)[:1000]}"))


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep messages whole and say when the other one is gone."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns where threads exist: numerical libraries keep idle ones, which is safe.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _forever(live: Callable[[], None]) -> NoReturn:
    """Spend this process's life so: it never returns into the code that was copied."""
    try:
        live()
    except ConnectionError:
        pass  # whoever asked is gone
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)
