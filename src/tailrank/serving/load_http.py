"""Connections of a load test that speak HTTP/1.1."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import httptools

from tailrank.runtime.record import QueryOutcome
from tailrank.serving.load_client import Run
from tailrank.serving.load_target import LoadTarget, Pieces

_OUTCOMES = {200: QueryOutcome.ANSWERED, 429: QueryOutcome.REJECTED}


class HttpConnector:
    """Makes them.

    Args:
        target: the server.
        run: that they are for.
    """

    def __init__(self, target: LoadTarget, run: Run) -> None:
        self._target, self._run = target, run

    async def connect(self) -> None:
        """Make one more."""
        target, loop = self._target, asyncio.get_running_loop()
        await loop.create_connection(
            lambda: _HttpConnection(self._run), target.host, target.port, ssl=target.tls
        )

    async def close(self) -> None:
        """They share nothing."""

    def cpu_ns(self) -> int:
        """Of the one thread that does it all."""
        return time.thread_time_ns()


class _HttpConnection(asyncio.Protocol):
    """One connection: one question at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._place = -1
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._run.opened(self)

    def ask(self, place: int, request: Pieces) -> None:
        """Send the request of a query."""
        self._place, self._body = place, b""
        self._transport.write(b"".join(request))

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(QueryOutcome.FAILED, f"no HTTP: {error}")
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        """Part of an answer's body; only what went wrong is kept."""
        if self._parser.get_status_code() not in _OUTCOMES:
            self._body += body

    def on_message_complete(self) -> None:
        """A whole answer."""
        status = self._parser.get_status_code()
        text = self._body.decode(errors="replace")
        self._end(_OUTCOMES.get(status, QueryOutcome.FAILED), f"{status}: {text}")
        if self._parser.should_keep_alive():
            self._run.free(self)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end(QueryOutcome.FAILED, f"the connection was closed: {exc or 'without an answer'}")
        self._run.lost(self)

    def hang_up(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def _end(self, outcome: QueryOutcome, why: str) -> None:
        place, self._place = self._place, -1
        if place >= 0:
            self._run.end(place, outcome, why)
