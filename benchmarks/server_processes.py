"""Servers as processes: started, watched and stopped. Linux: reads `/proc`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# The client goes first where both want a core: a late client would measure itself.
NICE = 5
_START_S = 60.0
_STOP_S = 30.0
_VERB = "import sys; from tailrank.cli import main; sys.exit(main(sys.argv[1:]))"
TAILRANK: tuple[str, ...] = ("-c", _VERB, "serve")


class ServerProcess:
    """A server that runs.

    Args:
        process: which.
        port: of loopback, where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process, self._port = process, port

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process that reads requests."""
        resident_pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE")

    def workers(self) -> list[int]:
        """Worker processes: those that the nursery, the only child, has forked and that live."""
        return [
            worker
            for nursery in _children(self._process.pid)
            for worker in _children(nursery)
            if _state(worker) not in ("Z", "X")
        ]

    def wait_until_ready(self) -> None:
        """Wait for its answer on `/health/ready`.

        Raises:
            SystemExit: it ended, or does not answer.
        """
        until = time.monotonic() + _START_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{self._process.args!r} did not start") from None
                time.sleep(0.1)


@contextmanager
def serving(words: Sequence[str]) -> Iterator[ServerProcess]:
    """A server that is ready, until the block ends.

    Args:
        words: what Python is told; a port is added.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *words, "--port", str(port)],
        start_new_session=True,
        preexec_fn=_step_back,
    )
    server = ServerProcess(process, port)
    try:
        server.wait_until_ready()
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _step_back() -> None:
    """Let others go first: those of the same session, and, where sessions share cores, the others.

    Source: sched(7): with the autogroup feature a nice value counts inside a session only.
    """
    os.nice(NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))


def _children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # it has just ended
        return []
    return [int(child) for child in listed.split()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
