"""`tailrank serve` as a user types it: over a real socket, until it is told to stop."""

from __future__ import annotations

import gc
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tritonclient.grpc as tritongrpc
import tritonclient.http as tritonhttp
from tests.fleets import line_table
from tritonclient.utils import InferenceServerException

from tailrank.characterization.target import TargetConfig
from tailrank.cli import main
from tailrank.core.sla import SLA
from tailrank.inference.artifact import save_artifact
from tailrank.inference.precision import Precision
from tailrank.models import build_model
from tailrank.models.presets import load_preset
from tailrank.reporting.result import Result, write_result
from tailrank.scheduling.policies import PolicyConfig
from tailrank.serving import model as model_module
from tailrank.serving import server as server_module
from tailrank.serving import swap as swap_module
from tailrank.serving.model import open_model

QUERY = {"item_id": [1, 2, 3]}
FREE = ["--port", "0"]
ANY = ["serve", "preset:ncf", "--scale", "0.001", "--sla", "p99=60s"]
NCF = [*ANY, "--executor", "threads"]


class Visit(threading.Thread):
    """Waits for the line that says where the server is, does something there, and stops it."""

    def __init__(self, do: Callable[[str, int], Any], capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(daemon=True)
        self._do, self._capsys = do, capsys
        self.result: Any = None
        self.said = ""
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            while (found := re.search(r"://([^:]+):(\d+) serves", self.said)) is None:
                assert not self.ended.wait(0.01), "it never served"
                self.said += self._capsys.readouterr().out
            self.result = self._do(found[1], int(found[2]))
        except BaseException as error:
            self.result = error
        while not self.ended.wait(0.02):  # again, should it not have listened yet
            os.kill(os.getpid(), signal.SIGTERM)


def visit(words: list[str], do: Callable[[str, int], Any], capsys) -> tuple[Any, str]:
    visitor = Visit(do, capsys)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # should the server end by itself
    visitor.start()
    try:
        assert main(words) == 0
    finally:
        visitor.ended.set()
        visitor.join(30)
        signal.signal(signal.SIGTERM, before)
    if isinstance(visitor.result, BaseException):
        raise visitor.result
    return visitor.result, visitor.said + capsys.readouterr().out


def post(connection: http.client.HTTPConnection, body: Any, **headers: str) -> tuple[int, Any]:
    connection.request("POST", "/v1/rank", json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_it_answers_and_drains_when_told_to_stop(capsys) -> None:
    def ask(host: str, port: int) -> tuple:
        with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
            first = post(connection, {"user": {"user_id": 3}, "items": QUERY, "top_k": 2})
            again = post(connection, {"user": {"user_id": 9999}, "items": QUERY})
            connection.request("GET", "/metrics")
            return first, again, connection.getresponse().read().decode()

    ((status, answer), (refused, error), metrics), said = visit([*NCF, *FREE], ask, capsys)
    assert (status, len(answer["items"])) == (200, 2)
    assert answer["model_version"] in said
    assert refused == 400
    assert error["error"]["field"] == "user.user_id"
    assert "tailrank_queries_total 1.0" in metrics
    assert re.search(r"127\.0\.0\.1:\d+ serves ncf, version \w{12}, p99=60000ms: static", said)
    assert "stopped: 1 queries answered, 0 turned away" in said


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_models_take_over_by_signal_and_by_request(
    tmp_path: Path, capsys, monkeypatch, executor: str
) -> None:
    folder, models = tmp_path / "now", []
    for name, seed in (("first", 1), ("second", 2), ("other", 3)):
        config = load_preset("dlrm-rmc1" if name == "other" else "ncf", scale=0.001)
        model = build_model(config, seed)
        (tmp_path / name).mkdir()
        save_artifact(tmp_path / name, model, training={})
    (tmp_path / "gateless").mkdir()
    save_artifact(tmp_path / "gateless", model, training={}, precision=Precision(rows="int8"))
    folder.symlink_to("first")
    opened = swap_module.open_model

    def watch(*given: Any) -> Any:
        found = opened(*given)
        models.append(weakref.ref(found.ranker))
        return found

    for module in (model_module, swap_module):
        monkeypatch.setattr(module, "open_model", watch)

    def ask(host: str, port: int) -> tuple:
        with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:

            def load(body: str = "", **headers: str) -> tuple[int, Any]:
                connection.request("POST", "/v2/repository/models/now/load", body, headers)
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())

            def rank() -> tuple[str, list[float]]:
                status, answer = post(connection, {"user": {"user_id": 3}, "items": QUERY})
                assert status == 200
                return answer["model_version"], [item["score"] for item in answer["items"]]

            seen = [rank()]
            folder.unlink()
            folder.symlink_to("second")
            os.kill(os.getpid(), signal.SIGHUP)
            while seen[-1] == seen[0]:
                seen[1:] = [rank()]
            while load()[0] == 409:
                pass
            assert rank() == seen[1]
            assert load('{"parameters": {"path": "first"}}')[0] == 200
            assert rank() == seen[0]
            refused = [load(json.dumps({"parameters": {"path": path}})) for path in BAD_PATHS]
            refused += [load("[]"), load("{"), load('{"config": 1}'), load(Origin="http://x")]
            assert rank() == seen[0]
        with closing(tritonhttp.InferenceServerClient(f"{host}:{port}")) as client:
            client.load_model("now")
            (index,) = client.get_model_repository_index()
            assert (index["name"], index["version"], index["state"]) == ("now", seen[1][0], "READY")
            with pytest.raises(InferenceServerException, match="no model then; there is now"):
                client.load_model("then")
        gc.collect()
        return seen, refused, [ranker() is not None for ranker in models]

    words = ["serve", str(folder), "--sla", "p99=60s", *FREE, "--model-dir", str(tmp_path)]
    (seen, refused, alive), said = visit([*words, "--executor", executor], ask, capsys)
    assert seen[0] != seen[1]
    assert [status for status, _ in refused] == [400] * (len(BAD_PATHS) + 3) + [403]
    for (_, answer), reason in zip(refused, BAD_PATHS.values(), strict=False):
        assert re.search(reason, answer["error"]), answer
    # Nothing is left of the models before, the very first one too.
    assert alive == [False] * (len(alive) - 1) + [True]
    assert said.count("now serves now, version ") == 4


BAD_PATHS = {
    "nowhere": "nowhere: no such folder",
    "other": "now: of the user features that serve, it lacks 'user_id'",
    "gateless": "in rows=int8.* without a quality gate",
    "..": "path: leads out of the folder",
    ".": "path: leads out of the folder",
    "../now": "path: leads out of the folder",
    "/etc": "path: leads out of the folder",
    "a\0b": "path: got",
    "": "path: got",
}


def test_models_are_changed_by_nobody_from_elsewhere_without_a_token(capsys) -> None:
    def ask(host: str, port: int) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("POST", "/v2/repository/models/ncf/load")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    (status, answer), _ = visit([*NCF, *FREE, "--host", "0.0.0.0"], ask, capsys)
    assert status == 403
    assert answer["error"].startswith("only with a token")


def children(pids: set[int]) -> set[int]:
    """Processes whose parent is one of these."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            pid, _, rest = stat.read_text().partition(" (")
            if int(rest.rpartition(")")[2].split()[1]) in pids:
                found.add(int(pid))
    return found


def test_a_killed_worker_process_costs_nobody_an_answer(capsys) -> None:
    before = children({os.getpid()})
    forked: set[int] = set()

    def ask(host: str, port: int) -> list[int]:
        nurseries = children({os.getpid()}) - before
        statuses = []
        with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
            for _ in range(3):
                workers = children(nurseries)
                forked.update(nurseries, workers)
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                # On a busy host they live on for a while, and a query that ends two is given up.
                while workers & children(nurseries):
                    pass
                asked = {"user": {"user_id": 3}, "items": QUERY}
                statuses.append(post(connection, asked)[0])
        assert len(forked) > 3
        return statuses

    statuses, said = visit([*ANY, *FREE, "--executor", "processes"], ask, capsys)
    assert statuses == [200, 200, 200]
    assert re.search(r"workers: \d+ processes\n", said)
    assert "3 queries answered" in said
    assert not forked & (children({os.getpid()}) | children(forked))


def test_an_unmodified_client_of_the_open_inference_protocol(capsys) -> None:
    def ask(host: str, port: int) -> tuple:
        with closing(tritonhttp.InferenceServerClient(f"{host}:{port}")) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("ncf")
            assert not client.is_model_ready("other")
            described = client.get_model_metadata("ncf")
            tensors = {"user_id": np.array([3]), "item_id": np.arange(25)}
            scores = []
            for binary in (True, False):
                inputs = []
                for name, array in tensors.items():
                    inputs.append(tritonhttp.InferInput(name, list(array.shape), "INT64"))
                    inputs[-1].set_data_from_numpy(array, binary_data=binary)
                outputs = [tritonhttp.InferRequestedOutput("score", binary_data=binary)]
                found = client.infer("ncf", inputs, outputs=outputs, request_id="7")
                assert found.get_response()["id"] == "7"
                scores.append(found.as_numpy("score").tolist())
            inputs[-1].set_data_from_numpy(np.arange(25) + 10**9)
            with pytest.raises(
                InferenceServerException, match=r"items.item_id\[0\]: got 1000000000"
            ):
                client.infer("ncf", inputs)
        with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
            items = {"item_id": list(range(25))}
            ranked = post(connection, {"user": {"user_id": 3}, "items": items})[1]["items"]
        return described, scores, ranked

    (described, (binary, plain), ranked), _ = visit([*NCF, *FREE], ask, capsys)
    assert [one["name"] for one in described["inputs"]] == ["user_id", "item_id"]
    assert binary == plain
    assert {item["id"]: item["score"] for item in ranked} == pytest.approx(dict(enumerate(plain)))


def secured(folder: Path) -> list[str]:
    """Flags for a certificate of this machine and the token `open-sesame`."""
    cert, key, token = folder / "cert.pem", folder / "key.pem", folder / "token"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    words = [*make.split(), "-keyout", str(key), "-out", str(cert), *names]
    subprocess.run(words, check=True, capture_output=True)
    token.write_text("open-sesame\n")
    return ["--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(token)]


def test_grpc_beside_http_with_tls_and_a_token(tmp_path: Path, capsys) -> None:
    tls = secured(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        grpc_port = sock.getsockname()[1]

    def ask(host: str, port: int) -> tuple:
        trusted = ssl.create_default_context(cafile=tls[1])
        opened = http.client.HTTPSConnection(host, port, timeout=30, context=trusted)
        asked = {"user": {"user_id": 3}, "items": {"item_id": list(range(25))}}
        with closing(opened) as connection:
            _, answer = post(connection, asked, Authorization="Bearer open-sesame")
        address = f"{host}:{grpc_port}"
        opened = tritongrpc.InferenceServerClient(address, ssl=True, root_certificates=tls[1])
        inputs = []
        for name, array in {"user_id": np.array([3]), "item_id": np.arange(25)}.items():
            inputs.append(tritongrpc.InferInput(name, list(array.shape), "INT64"))
            inputs[-1].set_data_from_numpy(array)
        with closing(opened) as client:
            assert client.is_server_ready()
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("ncf", inputs)
            token = {"authorization": "Bearer open-sesame"}
            found = client.infer("ncf", inputs, headers=token).as_numpy("score")
        return {item["id"]: item["score"] for item in answer["items"]}, found.tolist()

    words = [*NCF, *FREE, *tls, "--grpc-port", str(grpc_port)]
    (by_http, by_grpc), said = visit(words, ask, capsys)
    assert by_http == dict(enumerate(by_grpc))
    assert f"gRPC: port {grpc_port}" in said
    assert "stopped: 2 queries answered" in said


def test_with_tls_and_a_token(tmp_path: Path, capsys) -> None:
    tls = secured(tmp_path)

    def ask(host: str, port: int) -> tuple:
        trusted = ssl.create_default_context(cafile=tls[1])
        opened = http.client.HTTPSConnection(host, port, timeout=30, context=trusted)
        asked = {"user": {"user_id": 3}, "items": QUERY}
        with closing(opened) as connection:
            closed = post(connection, asked)
            return closed, post(connection, asked, Authorization="Bearer open-sesame")

    (closed, opened), said = visit([*NCF, *FREE, *tls], ask, capsys)
    assert closed[0] == 401
    assert opened[0] == 200
    assert "https://127.0.0.1" in said


def test_a_client_that_does_not_finish_its_headers_is_sent_away(capsys, monkeypatch) -> None:
    monkeypatch.setattr(server_module, "_HEADER_SECONDS", 0.05)

    def dawdle(host: str, port: int) -> list[bytes]:
        ends = []
        for begun in (b"", b"POST /v1/rank HTTP/1.1\r\nHost: "):
            with socket.create_connection((host, port), timeout=30) as connection:
                connection.sendall(begun)
                ends.append(connection.recv(1000))
        return ends

    ends, _ = visit([*NCF, *FREE], dawdle, capsys)
    assert ends == [b"", b""]


def test_a_tuned_model_is_served_as_it_was_tuned(tmp_path: Path, capsys) -> None:
    target = TargetConfig(target="preset:ncf", scale=0.001)
    policy = PolicyConfig(policy="slack", batch_items_max=77, sla=SLA.parse("p95=40s"))
    config = {
        "target": target,
        "operating_point": {"sla": SLA.parse("p95=40s")},
        "tuned": policy,
    }
    metrics = {"tuned.num_workers": 1, "tuned.simulated_capacity_qps": 100.0}
    write_result(tmp_path / "result.json", Result(command="tune", config=config, metrics=metrics))
    served = open_model(target, lambda text: None)
    table = line_table(1e5, 1e3)
    axes = {**table.axes, "ids_per_item": (served.ids_per_item,)}
    replace(table, device=served.profile_label, axes=axes).save(tmp_path / "profile.json")

    def ask(host: str, port: int) -> tuple:
        with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
            connection.request("GET", "/openapi.json")
            described = json.loads(connection.getresponse().read())
            content = described["paths"]["/v1/rank"]["post"]["requestBody"]["content"]
            schema = content["application/json"]["schema"]["properties"]
            user = {name: value(one) for name, one in schema["user"]["properties"].items()}
            row = schema["items"]["oneOf"][0]["items"]["properties"]
            items = [{name: value(one) for name, one in row.items()}] * 20
            return post(connection, {"user": user, "items": items, "deadline_ms": 60_000})

    (status, answer), said = visit(["serve", "--from", str(tmp_path), *FREE], ask, capsys)
    assert (status, len(answer["items"])) == (200, 20)
    assert answer["model_version"] == served.version
    assert "p95=40000ms: slack, batches of up to 77 items, workers: 1 " in said
    # Nobody said where they compute.
    assert re.search(r"1 (threads|processes) \(\d+\.\d\d times the items/s of ", said)


def value(described: dict[str, Any]) -> Any:
    """Something that a feature takes."""
    if described.get("type") == "array":
        return [0.5] * described["minItems"]
    return 0.5 if "number" in described.get("type", ()) else [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve", "preset:ncf"], "--sla: missing"),
        (["serve", "--sla", "p99=5ms"], "TARGET: missing"),
        (["serve", "preset:ncf", "--sla", "fast"], "--sla: got 'fast'"),
        (["serve", "preset:nfc", "--sla", "p99=5ms"], "did you mean 'ncf'"),
        ([*NCF, "--model-dir", "/nowhere"], "--model-dir: /nowhere: no such folder"),
        (["serve", "/nowhere", "--sla", "p99=5ms"], "/nowhere"),
        ([*NCF, "--port", "70000"], "--port: got 70000"),
        ([*NCF, "--host", "300.1.1.1"], "cannot listen on 300.1.1.1"),
        ([*NCF, "--policy", "best"], "policy: got 'best'"),
        ([*NCF, "--policy", "slack"], "--profile: missing"),
        ([*NCF, "--delay", "1ms"], "--delay: got 1000000"),
        ([*NCF, "--workers", "9999"], "--workers: got 9999"),
        ([*ANY, "--executor", "fibres"], "--executor: got 'fibres'"),
        ([*NCF, "--token-file", "/nowhere"], "--token-file: /nowhere"),
        ([*NCF, "--tls-cert", "/nowhere"], "--tls-cert and --tls-key go together"),
        ([*NCF, "--tls-cert", "/no", "--tls-key", "/no"], "cannot be used with this key"),
        ([*NCF, "--from", "/nowhere"], "/nowhere: no such folder"),
        ([*NCF, "--max-items", "0"], "items_max: got 0"),
        ([*NCF, "--profile", "/nowhere"], "/nowhere: no such file"),
        ([*NCF, "--replicas", "2"], "--replicas: goes with --ray"),
        ([*NCF, "--ray-address", "auto"], "--ray-address: goes with --ray"),
        ([*ANY, "--ray", "--executor", "processes"], "--executor: workers of replicas are threads"),
        ([*NCF, "--ray", "--grpc-port", "0"], "--grpc-port: replicas are asked over HTTP"),
        ([*NCF, "--ray", "--model-dir", "."], "--model-dir: replicas read models when they start"),
    ],
)
def test_bad_input_is_one_line(capsys, words: list[str], message: str) -> None:
    assert main([*words, "--quiet"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_without_the_extra_ray_is_one_line(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("ray_library", "ray_serving"):
        monkeypatch.delitem(sys.modules, f"tailrank.serving.{name}", raising=False)
    assert main([*NCF, "--ray", *FREE, "--quiet"]) == 2
    error = capsys.readouterr().err.strip()
    assert error == "tailrank: error: --ray needs the package ray; pip install 'tailrank[ray]'"


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([*NCF, "--port", port, "--quiet"]) == 2
    assert f"--port: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_two_stages_take_ids_and_share_the_workers(tmp_path: Path, capsys) -> None:
    # What both models read.
    users = {"user_id": [0, 1], "profile": [[3], [4]], "behaviours": [[5, 6], [7]]}
    items = {"item_id": [n % 20 for n in range(100)], "candidate": [[n % 50] for n in range(100)]}
    ids = [f"i{n}" for n in range(100)]
    for name, columns in (
        ("users", {"id": ["a", "b"], **users, "context": [[1], [2]]}),
        ("items", {"id": ids, **items, "ad": [[n] for n in range(100)]}),
    ):
        pl.DataFrame(columns).write_parquet(tmp_path / f"{name}.parquet")
    words = ["serve", "--scale", "0.001", "--sla", "p99=60s", "--executor", "threads", *FREE]
    words += ["--stage", "preset:ncf:keep=7", "--stage", "preset:din"]
    for side in ("user", "item"):
        words += [f"--{side}-features", str(tmp_path / f"{side}s.parquet")]

    def ask(host: str, port: int) -> tuple:
        with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
            first = post(connection, {"user_id": "b", "item_ids": ids, "top_k": 5})
            return first, post(connection, {"user_id": "c", "item_ids": ids})

    ((status, answer), (refused, error)), said = visit(words, ask, capsys)
    assert (status, refused) == (200, 400)
    assert len(answer["items"]) == 5
    assert [(one["model"], one["items"]) for one in answer["stages"]] == [("ncf", 100), ("din", 7)]
    assert error["error"]["field"] == "user_id"
    assert "serves ncf (keeps 7) and din, version" in said
    assert main([*words, "--policy", "slack"]) == 2
    assert main([*words, "--profile", "p.json"]) == 2
    assert main([*words[:1], "preset:ncf", *words[1:]]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert [line.split(":")[2].strip() for line in shown] == ["--policy", "--profile", "TARGET"]
