"""Runs an application on a socket until the process is told to stop.

Knows no engine: whoever calls it starts one before, and drains it after.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import socket
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailrank.core.errors import RequestError
from tailrank.serving.answers import CAME_NS
from tailrank.serving.arrivals import Reading, Stamped, stamp

_BACKLOG = 2048
_HEADER_SECONDS = 10.0
# Of headers that have not ended, besides what came with their first bytes.
_HEADER_BYTES_MAX = 1 << 16
# A longer body is handed on piece by piece, so that whoever wants less can say so in time.
_WHOLE_BODY_BYTES_MAX = 16 << 20
_KEEP_ALIVE_SECONDS = 75
# After the signal: for queries that are being ranked, and clients that read slowly.
_GRACE_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where and how a server listens.

    Args:
        host: address or name; loopback unless somebody says otherwise.
        port: 0: any that is free.
        grpc_port: likewise, for gRPC; None: it is not spoken.
        connections_max: open at once; a request on one beyond is answered with 503.
        tls_cert: certificate chain, PEM; None: no TLS.
        tls_key: its key, PEM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    connections_max: int = 1000
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        for flag, port in (("--port", self.port), ("--grpc-port", self.grpc_port)):
            if port is not None and not 0 <= port < 65536:
                raise RequestError(flag, f"got {port}; expected 0 to 65535")
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
    try:
        sock = socket.create_server(
            (config.host, config.port), family=_family(config), backlog=_BACKLOG, reuse_port=False
        )
    except (OSError, UnicodeError) as error:
        reason = f"cannot listen on {config.host}:{config.port}: {error}"
        raise RequestError("--port", reason) from None
    stamp(sock)
    return sock


@contextmanager
def hold_grpc_port(config: ServerConfig) -> Generator[socket.socket | None, None, None]:
    """Take the port for gRPC, which is to be given back to be listened on; None: it has none.

    Raises:
        RequestError: the address cannot be had.
    """
    if config.grpc_port is None:
        yield None
        return
    with socket.socket(_family(config), socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((config.host, config.grpc_port))
        except (OSError, UnicodeError) as error:
            reason = f"cannot listen on {config.host}:{config.grpc_port}: {error}"
            raise RequestError("--grpc-port", reason) from None
        yield sock


def _family(config: ServerConfig) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in config.host else socket.AF_INET


def address(sock: socket.socket, config: ServerConfig) -> str:
    """Where clients find a server that listens there."""
    host, port = sock.getsockname()[:2]
    return f"{config.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def is_private(sock: socket.socket) -> bool:
    """Whether nobody but this machine reaches a server that listens there."""
    return ipaddress.ip_address(sock.getsockname()[0]).is_loopback


class Beside(Protocol):
    """Another server in the same event loop."""

    async def start(self) -> None:
        """Take requests."""

    async def stop(self, grace_seconds: float) -> None:
        """Take no more; those that have come may take so long to end."""


def run_server(
    app: ASGIApp,
    sock: socket.socket,
    config: ServerConfig,
    beside: Beside | None = None,
    on_hangup: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what has come; to be called by the main thread.

    Args:
        app: answers.
        sock: listens.
        config: how.
        beside: begins and ends with it.
        on_hangup: called at each SIGHUP, between requests; returns at once.
    """
    _Server(
        on_hangup,
        uvicorn.Config(
            app,
            http=protocols(),  # type: ignore[arg-type]  # called, whatever its type says
            ws="none",
            lifespan="on",
            log_level="error",  # what clients send that is no HTTP would fill the log
            access_log=False,
            proxy_headers=False,  # nobody reads where clients are
            server_header=False,
            limit_concurrency=config.connections_max,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        ),
        beside,
    ).run(sockets=[sock])


class _Server(uvicorn.Server):
    """Ends quietly: a server that was told to stop and has done so has not failed."""

    def __init__(
        self, on_hangup: Callable[[], None], config: uvicorn.Config, beside: Beside | None
    ) -> None:
        super().__init__(config)
        self._beside, self._on_hangup = beside, on_hangup

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections, here and beside."""
        if self._beside is not None:
            await self._beside.start()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, and let those end that are there, here and beside."""
        ends = [] if self._beside is None else [self._beside.stop(_GRACE_SECONDS)]
        await asyncio.gather(super().shutdown(sockets), *ends)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGTERM and SIGINT as the wish to stop, and do not raise them again."""
        wanted = (signal.SIGTERM, signal.SIGINT)
        loop = asyncio.get_running_loop()
        hangup_before = signal.getsignal(signal.SIGHUP)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            for number, handler in (before | {signal.SIGHUP: hangup_before}).items():
                signal.signal(number, handler)


def protocols() -> Callable[..., Stamped]:
    """Makes the protocols of one loop's connections, as uvicorn asks for them."""
    reading = Reading()
    return lambda **settings: Stamped(_PatientProtocol(**settings), reading)


class _PatientProtocol(HttpToolsProtocol):
    """Closes a connection that takes too long, or too much, over what nobody waits for.

    That is nothing at all, headers, and a body whose request has been answered already.
    """

    came_ns: int | None = None
    """When came what is being read; None: nobody knows."""
    _patience: asyncio.TimerHandle | None = None
    _in_headers = _in_request = False
    _header_bytes = 0
    _body: list[bytes] | None = None  # pieces of one whose length was declared

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

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as requests are refused, and close."""
        body = json.dumps({"error": {"reason": msg}}).encode()
        lines = (
            b"HTTP/1.1 400 Bad Request",
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
        )
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        now_ns = time.monotonic_ns()
        self.scope["state"][CAME_NS] = now_ns if self.came_ns is None else self.came_ns
        self._in_headers = self._in_request = True
        self._header_bytes = 0
        self._wait()

    def on_headers_complete(self) -> None:
        """All headers are there."""
        self._stop_waiting()
        self._in_headers = False
        self._body = [] if self._is_short() else None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        if self._body is None:
            super().on_body(body)
        elif not self.cycle.response_complete:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self._stop_waiting()
        self._in_request = False
        if self._body and not self.cycle.response_complete:
            # All at once: uvicorn's way is to copy each piece twice, and to wake the app for it.
            self.cycle.body = b"".join(self._body)  # type: ignore[assignment]  # read only
        self._body = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It has been answered, perhaps before its body was read."""
        super().on_response_complete()
        if self._in_request and not self.transport.is_closing():
            self._wait()

    def _is_short(self) -> bool:
        """Whether the body is known to be so short that it is kept until it is all there."""
        length = dict(self.headers).get(b"content-length", b"")
        return length.isdigit() and len(length) < 10 and int(length) <= _WHOLE_BODY_BYTES_MAX

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
