"""A request as a value: taken by one process, answered by the application of another.

Knows no engine and no cluster.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp, Message

from tailrank.serving.answers import CAME_NS, waited_ns

Headers = Sequence[tuple[bytes, bytes]]


class Forwarded(NamedTuple):
    """A request, whole.

    Args:
        method: of HTTP.
        path: decoded.
        query: what follows the `?`.
        headers: names are lower case.
        body: all of it.
        waited_ns: how long ago it came; clocks of two machines know nothing of each other.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    waited_ns: int


class Replied(NamedTuple):
    """What it is answered with."""

    status: int
    headers: Headers
    body: bytes


def forwarded(request: Request, body: bytes) -> Forwarded:
    """A request whose body was read, to be sent elsewhere now."""
    scope = request.scope
    return Forwarded(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"],
        headers=list(scope["headers"]),
        body=body,
        waited_ns=waited_ns(request),
    )


async def replied(app: ASGIApp, asked: Forwarded) -> Replied:
    """What an application of this process answers.

    Args:
        app: answers each request by one response, and needs no lifespan for it.
        asked: the request.
    """
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": asked.query,
        "root_path": "",
        "headers": asked.headers,
        "client": None,
        "server": None,
        "state": {CAME_NS: time.monotonic_ns() - asked.waited_ns},
    }
    status, headers, pieces = 500, [], []

    async def receive() -> Message:
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        else:
            pieces.append(message.get("body", b""))

    await app(scope, receive, send)
    return Replied(status, headers, b"".join(pieces))
