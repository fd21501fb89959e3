"""Connections that would keep the server busy with nothing, or are too many."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
from starlette.responses import PlainTextResponse, Response
from tests.unit.serving.listening import listening

from tailrank.serving import server
from tailrank.serving.answers import CAME_NS


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    """A server that answers without reading a body, with room for two connections."""
    app = PlainTextResponse("here")
    with listening(app, http=server.protocols(), limit_concurrency=2) as url:
        parts = urlsplit(url)
        yield str(parts.hostname), int(parts.port or 0)


def get(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_one_connection_too_many_is_refused_and_the_others_are_not(place) -> None:
    first, second, third = (http.client.HTTPConnection(*place, timeout=30) for _ in range(3))
    with closing(first), closing(second), closing(third):
        assert [get(first), get(second), get(third)] == [200, 200, 503]
        assert [get(first), get(second)] == [200, 200]


def test_headers_without_end_are_cut_off(place) -> None:
    sent = 0
    with socket.create_connection(place, timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        while sent < 64 << 20:
            connection.sendall(b"x" * (1 << 16))
            sent += 1 << 16
    assert sent < 64 << 20


@pytest.mark.parametrize(
    "raw", [b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"\x16\x03\x01"]
)
def test_what_is_no_http_is_refused_with_a_reason_as_everything_is(place, raw: bytes) -> None:
    with socket.create_connection(place, timeout=30) as connection:
        connection.sendall(raw)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.getheader("Connection")) == (400, "close")
        assert json.loads(answer.read())["error"]["reason"]


def test_large_headers_are_read_to_their_end(place) -> None:
    with closing(http.client.HTTPConnection(*place, timeout=30)) as connection:
        for _ in range(3):
            connection.request("GET", "/", headers={f"X-{n}": "x" * 1000 for n in range(50)})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"here")


def test_the_rest_of_a_body_that_was_answered_is_not_waited_for(place, monkeypatch) -> None:
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.05)
    with socket.create_connection(place, timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun")
        said = b""
        while piece := connection.recv(1000):
            said += piece
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"here")


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says how a body was handed to it, and gives it back."""

    async def app(scope, receive, send) -> None:
        pieces = [await receive()]
        while pieces[-1].get("more_body"):
            pieces.append(await receive())
        body = b"".join(piece["body"] for piece in pieces)
        came_ns = scope["state"][CAME_NS]
        assert came_ns <= time.monotonic_ns()
        headers = {"X-Pieces": str(len(pieces)), "X-Came": str(came_ns)}
        await Response(body, headers=headers)(scope, receive, send)

    with listening(app, http=server.protocols()) as url:
        parts = urlsplit(url)
        yield str(parts.hostname), int(parts.port or 0)


def test_a_body_of_declared_length_is_handed_over_whole(echo, monkeypatch) -> None:
    body = bytes(range(256)) * 4096
    with closing(http.client.HTTPConnection(*echo, timeout=30)) as connection:
        for content in (body, b"short", b""):
            connection.request("POST", "/", content)
            answer = connection.getresponse()
            assert answer.read() == content
            assert answer.headers["X-Pieces"] == "1"
        # One without, and one that is too long to be kept.
        connection.request("POST", "/", iter([body, b"end"]))
        assert connection.getresponse().read() == body + b"end"
        monkeypatch.setattr(server, "_WHOLE_BODY_BYTES_MAX", 1 << 16)
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        assert answer.read() == body
        assert int(answer.headers["X-Pieces"]) > 1


def test_when_a_request_came_is_counted_from_its_own_bytes(echo) -> None:
    came = []
    with closing(http.client.HTTPConnection(*echo, timeout=30)) as connection:
        for _ in range(3):
            before_ns = time.monotonic_ns()
            connection.request("POST", "/", b"asked")
            answer = connection.getresponse()
            answer.read()
            came.append((before_ns, int(answer.headers["X-Came"]), time.monotonic_ns()))
    assert all(before - 1_000_000 <= at <= after for before, at, after in came)
