"""`tailrank serve --ray` on a cluster of two nodes, which are processes of this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrank.inference.artifact import save_artifact
from tailrank.models import build_model
from tailrank.models.presets import load_preset

pytest.importorskip(
    "ray", reason="Ray is not installed: `serve --ray` is NOT TESTED (pip install 'ray[serve]')"
)

ASKED = {"user": {"user_id": 3}, "items": {"item_id": list(range(20))}, "top_k": 3}
VERB = "import sys; from tailrank.cli import main; sys.exit(main(sys.argv[1:]))"
NUM_CLIENTS = 6
# Nobody waits so long for an answer of a replica that runs.
STUCK_S = 2.0
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def cluster_address() -> Generator[str, None, None]:
    """A cluster of two nodes with a core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        try:
            cluster.add_node(num_cpus=1)
            yield cluster.address
        finally:
            for node in list(cluster.worker_nodes):
                cluster.remove_node(node)
            cluster.remove_node(cluster.head_node)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model under a name that no other server has."""
    path = tmp_path / f"ncf-{os.getpid()}"
    path.mkdir()
    save_artifact(path, build_model(load_preset("ncf", scale=0.001), 1), training={})
    return path


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", VERB, "serve", "--sla", "p99=60s", "--workers", "1", *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The verb, which is refused."""
    words = ("--port", "0", *words)
    return subprocess.run(
        command(*words), capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


@contextmanager
def server(*words: str) -> Generator[tuple[subprocess.Popen[str], int], None, None]:
    """The verb in a process, and its port, once it serves."""
    typed = command("--port", "0", *words)
    with subprocess.Popen(typed, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = None
            while found is None and (line := process.stdout.readline()):
                found = re.search(r"://127\.0\.0\.1:(\d+) serves .*, replicas: 2, ", line)
            assert found is not None
            yield process, int(found[1])
        finally:
            process.kill()


def replica_pids(model: Path) -> set[int]:
    """The processes of the replicas, by the titles that Ray gives them."""
    title, found = f"ray::ServeReplica:tailrank-{model.name}:".encode(), set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes().startswith(title):
                found.add(int(file.parent.name))
    return found


class Clients:
    """Ask one query after the other, each over a connection of its own, until they are told."""

    def __init__(self, port: int) -> None:
        self._port, self._over = port, threading.Event()
        self.statuses: list[int] = []
        self._asked_at = [0.0] * NUM_CLIENTS
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(NUM_CLIENTS)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def wait_for(self, num_more: int) -> None:
        """So many further answers."""
        until = len(self.statuses) + num_more
        wait_until(lambda: len(self.statuses) >= until)

    def someone_is_stuck(self) -> bool:
        asked_at = min(at for at in self._asked_at if at)
        return time.monotonic() - asked_at > STUCK_S

    def _ask(self, number: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)) as to:
            while not self._over.is_set():
                self._asked_at[number] = time.monotonic()
                self.statuses.append(post(to, ASKED)[0])


def post(to: http.client.HTTPConnection, body: Any) -> tuple[int, Any]:
    to.request("POST", "/v1/rank", json.dumps(body))
    answer = to.getresponse()
    return answer.status, json.loads(answer.read())


def metrics(port: int) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)) as to:
        to.request("GET", "/metrics")
        return to.getresponse().read().decode()


def wait_until(so: Any) -> None:
    until = time.monotonic() + LIMIT_S
    while not so():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.02)


def test_a_replica_killed_under_load_loses_no_query_and_is_replaced(
    cluster_address: str, model: Path
) -> None:
    with server(str(model), "--ray", "--ray-address", cluster_address) as (process, port):
        before = replica_pids(model)
        assert len(before) == 2
        with Clients(port) as clients:
            clients.wait_for(100)
            # One that has stopped has taken queries and answers none, until it is killed.
            victim = min(before)
            os.kill(victim, signal.SIGSTOP)
            wait_until(clients.someone_is_stuck)
            os.kill(victim, signal.SIGKILL)
            clients.wait_for(100)
            wait_until(lambda: len(replica_pids(model) - {victim}) == 2)
            wait_until(lambda: "tailrank_replicas 2.0" in metrics(port))
            clients.wait_for(100)
            told = metrics(port)
        assert set(clients.statuses) == {200}
        again = re.search(r"^tailrank_asked_again_total ([\d.]+)$", told, re.MULTILINE)
        assert again is not None
        assert float(again[1]) >= 1
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)) as to:
            status, answer = post(to, ASKED)
        assert (status, len(answer["items"]), answer["model"]) == (200, 3, model.name)
        refused = run(str(model), "--ray", "--ray-address", cluster_address)
        assert (refused.returncode, f"serves tailrank-{model.name}" in refused.stderr) == (2, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    wait_until(lambda: not replica_pids(model))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["preset:ncf", "--scale", "0.001", "--replicas", "3"],
            "--replicas: got 3; allowed: 1 to ",
        ),
        (["/nowhere"], "--ray: /nowhere: no such folder"),
    ],
)
def test_what_cannot_be_deployed_is_one_line(
    cluster_address: str, words: list[str], message: str
) -> None:
    done = run("--ray", "--ray-address", cluster_address, *words)
    assert done.returncode == 2
    assert [message in line for line in done.stderr.strip().splitlines()] == [True]


def test_a_client_that_is_on_no_node_is_refused() -> None:
    done = run("preset:ncf", "--scale", "0.001", "--ray", "--ray-address", "ray://10.0.0.1:10001")
    assert done.returncode == 2
    assert "--ray-address: got 'ray://10.0.0.1:10001'; allowed: HOST:PORT" in done.stderr
