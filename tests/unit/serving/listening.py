"""Servers on free ports of this machine, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from tailrank.serving.arrivals import stamp
from tailrank.serving.engine import Engine
from tailrank.serving.grpc_server import GrpcServer
from tailrank.serving.rank_request import RequestLimits
from tailrank.serving.server import ServerConfig, hold_grpc_port


@contextmanager
def listening(app: ASGIApp, port: int = 0, **settings: Any) -> Generator[str, None, None]:
    """Its address, while it listens; `settings` are uvicorn's."""
    config = uvicorn.Config(
        app,
        **{"ws": "none", "lifespan": "off", "log_level": "error", "access_log": False, **settings},
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", port), backlog=512) as sock:
        stamp(sock)
        # The socket takes connections from now on, so nobody has to wait for the thread.
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def grpc_listening(
    engine: Engine,
    limits: RequestLimits | None = None,
    token: bytes | None = None,
    **settings: Any,
) -> Generator[int, None, None]:
    """Its port, while it listens; `settings` are those of `ServerConfig`."""
    config = ServerConfig(grpc_port=0, **settings)
    listens, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        await server.start()
        loops.append(asyncio.get_running_loop())
        listens.set()
        await over.wait()
        await server.stop(10)

    loops: list[asyncio.AbstractEventLoop] = []
    with hold_grpc_port(config) as held:
        assert held is not None
        port = held.getsockname()[1]
        server = GrpcServer(engine, limits or RequestLimits(), token, config, held)
        thread = threading.Thread(target=uvloop.run, args=(serve(),))
        thread.start()
        assert listens.wait(30)
        try:
            yield port
        finally:
            loops[0].call_soon_threadsafe(over.set)
            thread.join(30)
