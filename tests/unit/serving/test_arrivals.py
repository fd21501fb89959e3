"""When requests came is known, however late a busy loop reads them."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing

from tailrank.serving.arrivals import Arrivals, stamp

# The system counts in ticks of up to 10 ms.
TICK_NS = 10_000_000


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
            came_ns = arrivals.came_ns(taken.fileno())
            if came_ns < time.monotonic_ns() - TICK_NS:
                break
            # The first on this host to ask for stamps: the system begins with them in its own time.
            assert taken.recv(100) == b"asked"
        # Never too early: nobody is told of a wait that was none.
        assert before_ns - 1_000_000 <= came_ns <= after_ns + 2 * TICK_NS
        assert came_ns < time.monotonic_ns() - TICK_NS
        # The system stamps what comes to the nanosecond; a clock may be set meanwhile.
        assert came_ns <= after_ns + 1_000_000
        # To look is not to read, and later bytes come later.
        assert taken.recv(100) == b"asked"
        assert arrivals.came_ns(taken.fileno()) > came_ns + TICK_NS
        client.sendall(b"again")
        assert arrivals.came_ns(taken.fileno()) > came_ns + TICK_NS
        assert taken.recv(100) == b"again"


def test_what_is_no_tcp_came_now() -> None:
    one, other = socket.socketpair()
    with closing(one), closing(other):
        before_ns = time.monotonic_ns()
        assert before_ns <= Arrivals().came_ns(one.fileno()) <= time.monotonic_ns()
