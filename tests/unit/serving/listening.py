"""A server on a free port of this machine, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def listening(app: ASGIApp, **settings: Any) -> Generator[str, None, None]:
    """Its address, while it listens; `settings` are uvicorn's."""
    config = uvicorn.Config(
        app, ws="none", lifespan="off", log_level="error", access_log=False, **settings
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as sock:
        # The socket takes connections from now on, so nobody has to wait for the thread.
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
