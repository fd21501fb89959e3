"""Runs an application on a socket until the process is told to stop.

Knows no engine: whoever calls it starts one before, and drains it after.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailrank.core.errors import RequestError

_BACKLOG = 2048
_HEADER_SECONDS = 10.0
# Of headers that have not ended, besides what came with their first bytes.
_HEADER_BYTES_MAX = 1 << 16
_KEEP_ALIVE_SECONDS = 75
# After the signal: for queries that are being ranked, and clients that read slowly.
_GRACE_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where and how a server listens.

    Args:
        host: address or name; loopback unless somebody says otherwise.
        port: 0: any that is free.
        connections_max: open at once; a request on one beyond is answered with 503.
        tls_cert: certificate chain, PEM; None: no TLS.
        tls_key: its key, PEM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    connections_max: int = 1000
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise RequestError("--port", f"got {self.port}; expected 0 to 65535")
        if self.connections_max < 1:
            raise RequestError("--max-connections", "expected 1 or more")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RequestError("--tls-cert", "--tls-cert and --tls-key go together")

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "http" if self.tls_cert is None else "https"


def listen(config: ServerConfig) -> socket.socket:
    """Take the port, and see that certificate and key are good, before anything is loaded.

    Raises:
        RequestError: the address cannot be had, or TLS' files cannot be used.
    """
    if config.tls_cert is not None and config.tls_key is not None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(config.tls_cert, config.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise RequestError("--tls-cert", f"cannot be used with this key: {error}") from None
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server(
            (config.host, config.port), family=family, backlog=_BACKLOG, reuse_port=False
        )
    except (OSError, UnicodeError) as error:
        reason = f"cannot listen on {config.host}:{config.port}: {error}"
        raise RequestError("--port", reason) from None


def address(sock: socket.socket, config: ServerConfig) -> str:
    """Where clients find a server that listens there."""
    host, port = sock.getsockname()[:2]
    return f"{config.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def run_server(app: ASGIApp, sock: socket.socket, config: ServerConfig) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what has come; to be called by the main thread."""
    _Server(
        uvicorn.Config(
            app,
            http=_PatientProtocol,
            ws="none",
            lifespan="off",
            log_level="error",  # what clients send that is no HTTP would fill the log
            access_log=False,
            server_header=False,
            limit_concurrency=config.connections_max,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )
    ).run(sockets=[sock])


class _Server(uvicorn.Server):
    """Ends quietly: a server that was told to stop and has done so has not failed."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGTERM and SIGINT as the wish to stop, and do not raise them again."""
        wanted = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _PatientProtocol(HttpToolsProtocol):
    """Closes a connection that takes too long, or too much, over what nobody waits for.

    That is nothing at all, headers, and a body whose request has been answered already.
    """

    _patience: asyncio.TimerHandle | None = None
    _in_headers = _in_request = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        limit = self.config.limit_concurrency
        beyond = limit is not None and len(self.connections) > limit
        # uvicorn counts at each request, and would refuse those who came before as well.
        self.limit_concurrency = 0 if beyond else None
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        in_headers = self._in_headers
        super().data_received(data)
        if in_headers and self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > _HEADER_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        self._in_headers = self._in_request = True
        self._header_bytes = 0
        self._wait()

    def on_headers_complete(self) -> None:
        """All headers are there."""
        self._stop_waiting()
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self._stop_waiting()
        self._in_request = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It has been answered, perhaps before its body was read."""
        super().on_response_complete()
        if self._in_request and not self.transport.is_closing():
            self._wait()

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
