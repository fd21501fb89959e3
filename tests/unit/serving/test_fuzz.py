"""What `benchmarks/fuzz_server.py` does for minutes, for a moment: no request is our fault."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.unit.serving.listening import listening
from tests.unit.serving.served import engine_of, served

from tailrank.serving import server
from tailrank.serving.http import build_app
from tailrank.serving.open_inference import describe_model
from tailrank.serving.openapi import describe
from tailrank.serving.rank_request import RequestLimits

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
LIMITS = RequestLimits(body_bytes_max=100_000, items_max=500)
NUM_REQUESTS = 1000


def test_whatever_is_sent_is_answered_or_refused_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from fuzz_requests import Fuzzer
    from fuzz_server import exchange

    engine = engine_of()
    engine.start()
    document = json.loads(json.dumps(describe([served()], LIMITS, with_token=False)))
    counts: Counter[str] = Counter()
    faults: list[str] = []

    def ask(place: tuple[str, int], seed: int) -> None:
        fuzzer, connection = Fuzzer(document, describe_model(served()), seed), None
        for _ in range(NUM_REQUESTS // 2):
            connection = connection or socket.create_connection(place, timeout=30)
            outcome, fault, goes_on = exchange(connection, fuzzer.draw())
            counts[outcome] += 1
            faults.extend([] if fault is None else [fault])
            if not goes_on:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    with listening(build_app(engine, LIMITS), http=server._PatientProtocol) as url:
        parts = urlsplit(url)
        place = str(parts.hostname), int(parts.port or 0)
        threads = [threading.Thread(target=ask, args=(place, seed)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert engine.is_ready
    engine.drain()
    assert not faults
    assert counts.total() == NUM_REQUESTS
    # Neither nothing but nonsense nor nothing that is wrong.
    assert min(counts["2xx"], counts["4xx"]) > 10
