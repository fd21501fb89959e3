"""The open loop over a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.unit.serving.listening import listening

from tailrank.core.errors import RequestError
from tailrank.core.query import Query
from tailrank.core.sla import SLA
from tailrank.runtime.record import QueryOutcome
from tailrank.serving.alarm import Alarm
from tailrank.serving.load_client import send_load
from tailrank.serving.load_http import HttpConnector
from tailrank.serving.load_run import LoadRun, busy_times, measurement_of
from tailrank.serving.load_target import LoadTarget


async def answer(request: Request) -> Response:
    """Answers with the status that it is asked for."""
    status = int(await request.body())
    return Response(b"for a reason", status, {"Connection": "close"} if status == 503 else None)


@pytest.fixture(scope="module")
def target() -> Iterator[LoadTarget]:
    app = Starlette(routes=[Route("/ask", answer, methods=["POST"])])
    with listening(app) as url:
        yield LoadTarget.parse(url)


def schedule(*asked: tuple[int, int]) -> list[Query]:
    """Queries of (time in ns, status wanted)."""
    return [Query(i, "m", at, None, 1, 0, status) for i, (at, status) in enumerate(asked)]


def send(target: LoadTarget, queries: list[Query], **settings) -> LoadRun:
    def request_for(query: Query):
        return target.request("/ask", [str(query.payload).encode()])

    transport = partial(HttpConnector, target)
    return send_load(target, queries, request_for, transport=transport, **settings)


def test_outcomes_are_the_servers(target: LoadTarget) -> None:
    run = send(target, schedule((0, 200), (1000, 429), (2000, 500), (10**7, 200)))
    rows = run.result.queries
    assert rows.outcome.tolist() == [
        QueryOutcome.ANSWERED,
        QueryOutcome.REJECTED,
        QueryOutcome.FAILED,
        QueryOutcome.ANSWERED,
    ]
    assert str(run.result.first_error) == "500: for a reason"
    assert (rows.released_ns >= rows.scheduled_ns).all()
    assert np.isinf(run.result.latency_ns).tolist() == [False, True, True, False]
    assert run.result.drained


def test_a_query_that_waits_for_a_connection_pays_for_it(target: LoadTarget) -> None:
    run = send(target, schedule(*[(0, 200)] * 20), connections_max=1)
    rows = run.result.queries
    assert run.num_connections == 1
    assert (rows.outcome == QueryOutcome.ANSWERED).all()
    assert (rows.started_ns[1:] >= rows.done_ns[:-1]).all(), "one after another"
    # They were all due at once: the last one has waited for all others.
    assert (np.diff(run.result.latency_ns) > 0).all()
    assert len(run.result.batches.done_ns) == 1, "the server never had nothing to do"


def test_a_connection_that_the_server_closes_is_replaced(target: LoadTarget) -> None:
    asked = [(0, 503), (0, 503), (0, 200), (0, 200)]
    run = send(target, schedule(*asked), connections_max=1)
    assert run.result.queries.outcome.tolist() == [2, 2, 0, 0]


def test_many_connections_are_opened_where_queries_would_wait(target: LoadTarget) -> None:
    run = send(target, schedule(*[(0, 200)] * 100), connections_max=60)
    assert 32 <= run.num_connections <= 60
    assert (run.result.queries.outcome == QueryOutcome.ANSWERED).all()


def test_a_server_that_hangs_up_without_an_answer_has_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def hang_up() -> None:
            for _ in range(2):
                connection, _ = sock.accept()
                with connection:
                    connection.recv(1000)

        thread = threading.Thread(target=hang_up)
        thread.start()
        target = LoadTarget.parse(f"http://127.0.0.1:{sock.getsockname()[1]}")
        run = send(target, schedule((0, 200), (0, 200)))
        thread.join(10)
    assert run.result.queries.outcome.tolist() == [QueryOutcome.FAILED] * 2
    assert "connection was closed" in str(run.result.first_error)


def test_what_speaks_no_http_has_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def babble() -> None:
            connection, _ = sock.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail\r\n\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=babble)
        thread.start()
        target = LoadTarget.parse(f"http://127.0.0.1:{sock.getsockname()[1]}")
        run = send(target, schedule((0, 200)), connections_max=1)
        thread.join(10)
    assert "no HTTP" in str(run.result.first_error)


def test_ctrl_c_keeps_what_was_measured(target: LoadTarget) -> None:
    run = send(
        target,
        schedule((0, 200), (0, 200), (3600 * 10**9, 200)),
        on_progress=lambda fraction: os.kill(os.getpid(), signal.SIGINT),
    )
    assert run.interrupted
    assert run.result.queries.outcome.tolist() == [QueryOutcome.ANSWERED] * 2
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL


def test_nobody_there_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(RequestError, match=r"--url: http://127.0.0.1:\d+ cannot be reached"):
        send(LoadTarget.parse(url), schedule((0, 200)))


def test_a_client_that_was_the_limit_makes_the_run_invalid(target: LoadTarget) -> None:
    run = replace(send(target, schedule((0, 200))), cpu_fraction=0.95)
    for sla in (SLA.parse("p99=1s"), None):
        reasons = measurement_of(run, 10.0, sla).validity.reasons
        assert any(reason.startswith("client_busy: the client took 95%") for reason in reasons)
    idle = measurement_of(replace(run, cpu_fraction=0.5), 10.0, None)
    assert not any(reason.startswith("client_busy") for reason in idle.validity.reasons)


def test_a_client_that_sends_late_makes_the_run_invalid(target: LoadTarget) -> None:
    run = send(target, schedule((0, 200)))
    late = replace(run.result, wake_lateness_ns=np.full(1, 5_000_000))
    reasons = measurement_of(replace(run, result=late), 10.0, SLA.parse("p99=20ms")).validity
    assert any("released 5.00 ms late" in reason for reason in reasons.reasons)


def test_busy_times_are_the_union_of_all() -> None:
    found = busy_times(np.array([0, 1, 5, 9]), np.array([4, 2, 7, 20]))
    assert found.started_ns.tolist() == [0, 5, 9]
    assert found.done_ns.tolist() == [4, 7, 20]
    assert len(busy_times(np.zeros(0, int), np.zeros(0, int)).slot) == 0


def test_an_alarm_never_goes_off_early() -> None:
    loop = uvloop.new_event_loop()
    rang: list[int] = []

    async def wait() -> None:
        over = asyncio.Event()

        def ring() -> None:
            rang.append(time_ns())
            over.set()

        alarm = Alarm(loop, ring)
        due.append(time_ns() + 2_500_000)
        alarm.set(due[0])
        await over.wait()
        alarm.close()

    from time import monotonic_ns as time_ns

    due: list[int] = []
    loop.run_until_complete(wait())
    loop.close()
    assert rang[0] >= due[0]


@pytest.mark.parametrize("host", ["[::1]:8000", "127.0.0.1:8000", "example.org"])
def test_requests_name_the_host_as_it_was_typed(host: str) -> None:
    headers, _ = LoadTarget.parse(f"http://{host}").request("/ask", [b"1"])
    assert f"\r\nHost: {host}\r\n".encode() in bytes(headers)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://a/path",
        "http://u@a",
        "http://:p@a",
    ],
)
def test_a_bad_address_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match="expected http://HOST:PORT"):
        LoadTarget.parse(url)
