"""What a server does with requests that are wrong in seeded ways, for minutes.

A `tailrank serve` of its own is asked over several connections at once; gRPC's messages are bent,
too. Every request that is sound HTTP has to be answered, every answer has to be good, or a 4xx with
a reason; whatever is a 5xx or brings no answer is a fault, of which the first are shown. Then a
good query has to be answered as in the beginning, and memory to be what it was.

    python benchmarks/fuzz_server.py [--quick] [--json PATH] [--requests N] [--seconds S]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from fuzz_requests import Fuzzed, Fuzzer
from tailrank.core.measurement import Validity
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.serving.load_target import LoadTarget
from tailrank.serving.open_inference import HEADER_LENGTH

# Lists, both sides, and small tables: what is asked about is the way to the model.
PRESET, SCALE = "din", 0.001
CONNECTIONS = 4
SEED = 0
_TIMEOUT_S = 30.0
# Until all that is made once has been made.
_WARM_REQUESTS = 2000
_SHOWN_FAULTS = 10
_GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_GRPC_ALLOWED = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--requests", type=int, help="at least so many; default: 100,000")
    parser.add_argument("--seconds", type=float, help="at least so long; default: 600")
    arguments = parser.parse_args()
    num_requests = arguments.requests or (4000 if arguments.quick else 100_000)
    seconds = arguments.seconds or (5.0 if arguments.quick else 600.0)
    with served() as (pid, url, grpc_port):
        run = FuzzRun(url, grpc_port, pid)
        metrics = run.measure(num_requests, seconds)
    reasons = run.faults[:_SHOWN_FAULTS]
    result = Result(
        command="fuzz_server",
        config={
            "preset": PRESET,
            "scale": SCALE,
            "connections": CONNECTIONS,
            "quick": arguments.quick,
        },
        seed=SEED,
        metrics=metrics,
        validity=Validity(tuple(reasons)),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))
    sys.exit(bool(run.faults))


class FuzzRun:
    """Asks a server, and judges its answers.

    Args:
        url: where it is.
        grpc_port: where it speaks gRPC.
        pid: its process.

    Attributes:
        faults: what should not have been, in words.
    """

    def __init__(self, url: str, grpc_port: int, pid: int) -> None:
        self._target, self._grpc_port, self._pid = LoadTarget.parse(url), grpc_port, pid
        self._document = self._target.document()
        self._metadata = self._target.read(f"/v2/models/{PRESET}")
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._num_done = 0
        self._rss_before: int | None = None
        self._rss_half: int | None = None
        self.faults: list[str] = []

    def measure(self, num_requests: int, seconds: float) -> dict[str, float]:
        """All metrics."""
        good_before = self._ask_well()
        half_s = time.monotonic() + seconds / 2
        end_s = half_s + seconds / 2

        def goes_on() -> bool:
            if self._rss_half is None and time.monotonic() >= half_s:
                self._rss_half = rss_bytes(self._pid)
            return self._num_done < num_requests or time.monotonic() < end_s

        asking = [*[self._ask_http] * CONNECTIONS, self._ask_grpc]
        with ThreadPoolExecutor(len(asking)) as threads:
            for asked in [
                threads.submit(ask, self._fuzzer(seed), goes_on)
                for seed, ask in enumerate(asking, SEED)
            ]:
                asked.result()
        if self._ask_well() != good_before:
            self.faults.append("a good query was answered otherwise than in the beginning")
        rss = rss_bytes(self._pid)
        assert self._rss_before is not None, "more requests than warm it up"
        assert self._rss_half is not None, "nobody stops before the time is up"
        return {
            "fuzzed_requests": self._num_done,
            "faults": len(self.faults),
            "rss_growth_mb": (rss - self._rss_before) / 1e6,
            "rss_growth_mb_second_half": (rss - self._rss_half) / 1e6,
            "rss_mb": rss / 1e6,
            **{f"answers.{name}": count for name, count in sorted(self._counts.items())},
        }

    def _book(self, outcome: str, fault: str | None) -> None:
        with self._lock:
            self._num_done += 1
            self._counts[outcome] += 1
            if fault is not None:
                self.faults.append(fault)
            if self._num_done == _WARM_REQUESTS:
                self._rss_before = rss_bytes(self._pid)

    def _ask_http(self, fuzzer: Fuzzer, goes_on: Any) -> None:
        connection: socket.socket | None = None
        while goes_on():
            fuzzed = fuzzer.draw()
            connection = connection or self._connect()
            outcome, fault, is_open = exchange(connection, fuzzed)
            self._book(outcome, fault)
            if not is_open:
                connection.close()
                connection = None

    def _ask_grpc(self, fuzzer: Fuzzer, goes_on: Any) -> None:
        from tritonclient.grpc import service_pb2

        with grpc.insecure_channel(f"127.0.0.1:{self._grpc_port}") as channel:
            ask = channel.unary_unary(_GRPC_METHOD)
            while goes_on():
                body, header_length = fuzzer.infer_body()
                head = json.loads(body[:header_length])
                message = service_pb2.ModelInferRequest(model_name=PRESET)
                place = header_length
                for tensor in head["inputs"]:
                    size = tensor["parameters"]["binary_data_size"]
                    message.inputs.add(
                        name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]
                    )
                    message.raw_input_contents.append(body[place : place + size])
                    place += size
                code, fault = "OK", None
                try:
                    ask(fuzzer.bend_bytes(message.SerializeToString()), timeout=_TIMEOUT_S)
                except grpc.RpcError as error:
                    code = error.code().name
                    if code not in _GRPC_ALLOWED or not error.details():
                        fault = f"gRPC: {code}: {error.details()}"
                self._book(f"grpc.{code.lower()}", fault)

    def _fuzzer(self, seed: int) -> Fuzzer:
        return Fuzzer(self._document, self._metadata, seed)

    def _connect(self) -> socket.socket:
        return socket.create_connection((self._target.host, self._target.port), _TIMEOUT_S)

    def _ask_well(self) -> bytes:
        """The answer to a good query, without its times."""
        body, header_length = self._fuzzer(SEED).infer_body()
        headers = {HEADER_LENGTH: str(header_length)}
        pieces = self._target.request(f"/v2/models/{PRESET}/infer", [body], headers)
        with self._connect() as connection:
            connection.sendall(b"".join(pieces))
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200, answer.read()
            return answer.read()


def exchange(connection: socket.socket, fuzzed: Fuzzed) -> tuple[str, str | None, bool]:
    """Send a request and read its answer.

    Returns:
        What became of it, what was wrong with that, and whether the connection goes on.
    """
    shown = f"{fuzzed.kind}: {fuzzed.raw[:300]!r}"
    try:
        connection.sendall(fuzzed.raw)
        if not fuzzed.is_whole:
            connection.shutdown(socket.SHUT_WR)  # or it would be waited for
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    except TimeoutError:
        return "none", f"no answer within {_TIMEOUT_S:g} s to {shown}", False
    except (OSError, http.client.HTTPException) as error:
        lacks = f"no answer ({type(error).__name__}) to {shown}" if fuzzed.is_whole else None
        return "none", lacks, False
    is_open = fuzzed.is_whole and not answer.will_close
    status = answer.status
    if status >= 500:
        return "5xx", f"{status} {body[:200]!r} to {shown}", is_open
    if status >= 400:
        with suppress(ValueError, TypeError, KeyError):
            error = json.loads(body)["error"]
            if error if isinstance(error, str) else error["reason"]:
                return "4xx", None, is_open
        has_body = not fuzzed.raw.startswith(b"HEAD")
        return "4xx", f"{status} without a reason to {shown}" if has_body else None, is_open
    return f"{status // 100}xx", None, is_open


def rss_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


@contextmanager
def served() -> Generator[tuple[int, str, int], None, None]:
    """A server in a process of its own: its pid, its address and its port of gRPC."""
    words = ["serve", f"preset:{PRESET}", "--scale", str(SCALE), "--sla", "p99=10s"]
    words += ["--port", "0", "--grpc-port", "0", "--executor", "threads"]
    run = "import sys; from tailrank.cli import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", run, *words],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        try:
            for _ in itertools.count():
                said.seek(0)
                found = re.search(r"(http://\S+) serves .*gRPC: port (\d+)", said.read())
                if found:
                    break
                assert process.poll() is None, "it never served"
                time.sleep(0.05)
            yield process.pid, found[1], int(found[2])
            assert process.poll() is None, "the server has died"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    main()
