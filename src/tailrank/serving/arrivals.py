"""When a request came, of which a busy loop reads nothing for a while.

A server that is asked for more than it can read would otherwise take each query for a new one, and
turn none away. The system stamps what it receives, to the nanosecond, if it is asked to. Behind TLS
nothing is known: what comes there has been read before it is deciphered, and counts from then on.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import time
from contextlib import suppress
from typing import Any

# Source: Linux, include/uapi/asm-generic/socket.h: `SO_TIMESTAMPNS_OLD`, which is also the type of
# what is told.
_TIMESTAMP = 35
_LOOK = socket.MSG_PEEK | socket.MSG_DONTWAIT
_READ_BYTES = 1 << 18
_S = 1_000_000_000


class _Told(ctypes.Structure):
    """`struct cmsghdr` with a `struct timespec`."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("level", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("seconds", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class _Piece(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("pieces", ctypes.POINTER(_Piece)),
        ("num_pieces", ctypes.c_size_t),
        ("told", ctypes.POINTER(_Told)),
        ("told_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


def stamp(listener: socket.socket) -> None:
    """Have what comes to a listening socket's connections stamped, from their first bytes on.

    Where the system does not do that, all that comes counts as having come when it is read.
    """
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)


class Arrivals:
    """Tells when what has not been read from connections has come."""

    def __init__(self) -> None:
        # With the interpreter lock: to give it up would take longer than the call.
        self._recvmsg = ctypes.PyDLL(None).recvmsg
        self._told, self._byte = _Told(), ctypes.create_string_buffer(1)
        piece = _Piece(ctypes.addressof(self._byte), 1)
        self._message = _Message(
            pieces=ctypes.pointer(piece), num_pieces=1, told=ctypes.pointer(self._told)
        )

    def came_ns(self, file: int) -> int:
        """When what lies unread in a connection came, by `time.monotonic_ns`.

        Args:
            file: the descriptor of its socket. Where nothing lies, or the system has not stamped
                it, it is now; of pieces that the system has joined, when the last one came.
        """
        message, told = self._message, self._told
        message.told_size, told.kind = ctypes.sizeof(_Told), 0
        got = self._recvmsg(file, ctypes.byref(message), _LOOK)
        # In this order: a pause between the two makes what came seem younger, never older.
        wall_ns, now_ns = time.time_ns(), time.monotonic_ns()
        if got <= 0 or told.kind != _TIMESTAMP or message.told_size < ctypes.sizeof(_Told):
            return now_ns
        stamped_ns: int = told.seconds * _S + told.ns
        return now_ns - max(0, wall_ns - stamped_ns)


class Stamped(asyncio.BufferedProtocol):
    """Looks when bytes came before they are read, and then hands them on.

    Args:
        inner: takes all that happens, as `asyncio.Protocol` has it; its `came_ns` is set before
            its `data_received` is called.
        reading: shared by the connections of one loop.
    """

    def __init__(self, inner: Any, reading: Reading) -> None:
        self._inner, self._reading = inner, reading
        self._file = -1
        # Nothing is added to these.
        self.connection_lost = inner.connection_lost  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._file = transport.get_extra_info("socket").fileno()
        self._inner.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to: something has come.

        A view, of which asyncio's TLS may take parts; of a bytearray these would be copies.
        """
        reading = self._reading
        self._inner.came_ns = reading.arrivals.came_ns(self._file)
        return reading.view

    def buffer_updated(self, nbytes: int) -> None:
        """It has been read."""
        self._inner.data_received(bytes(self._reading.view[:nbytes]))


class Reading:
    """What the connections of one loop share: what is read is handed on before the next is."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self.view = memoryview(bytearray(_READ_BYTES))
