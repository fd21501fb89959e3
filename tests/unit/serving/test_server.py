"""Connections that would keep the server busy with nothing, or are too many."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
from starlette.responses import PlainTextResponse
from tests.unit.serving.listening import listening

from tailrank.serving import server


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    """A server that answers without reading a body, with room for two connections."""
    app = PlainTextResponse("here")
    with listening(app, http=server._PatientProtocol, limit_concurrency=2) as url:
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
