"""When requests came is known, however late a busy loop reads them."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing

from tailrank.serving.arrivals import Arrivals, stamp

# How much longer the bytes lie than the clocks may differ by.
SURE_NS = 10_000_000


def came_ns(arrivals: Arrivals, file: int) -> int:
    """The earliest of some looks: a pause of the host in one of them makes it seem later."""
    return min(arrivals.came_ns(file) for _ in range(20))


def test_bytes_that_lie_unread_came_when_they_were_sent() -> None:
    arrivals = Arrivals()
    with socket.create_server(("127.0.0.1", 0)) as server:
        stamp(server)
        client = socket.create_connection(server.getsockname())
        taken, _ = server.accept()
    with closing(client), closing(taken):
        for _ in range(100):
            before_ns = time.monotonic_ns()
            client.sendall(b"asked")
            after_ns = time.monotonic_ns()
            threading.Event().wait(0.04)
            came = came_ns(arrivals, taken.fileno())
            if came < time.monotonic_ns() - SURE_NS:
                break
            # The first on this host to ask for stamps: the system begins with them in its own time.
            assert taken.recv(100) == b"asked"
        # Never too early: nobody is told of a wait that was none.
        # The system stamps to the nanosecond; a clock may be set meanwhile.
        assert before_ns - 1_000_000 <= came <= after_ns + 1_000_000
        assert came < time.monotonic_ns() - SURE_NS
        # To look is not to read, and later bytes come later.
        assert taken.recv(100) == b"asked"
        assert came_ns(arrivals, taken.fileno()) > came + SURE_NS
        client.sendall(b"again")
        assert came_ns(arrivals, taken.fileno()) > came + SURE_NS
        assert taken.recv(100) == b"again"


def test_what_is_no_tcp_came_now() -> None:
    one, other = socket.socketpair()
    with closing(one), closing(other):
        before_ns = time.monotonic_ns()
        assert before_ns <= Arrivals().came_ns(one.fileno()) <= time.monotonic_ns()
