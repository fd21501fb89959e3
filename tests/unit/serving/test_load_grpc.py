"""The open loop over gRPC, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from tests.unit.serving.listening import grpc_listening, listening
from tests.unit.serving.served import PlainRanker, engine_of, served

from tailrank.core.errors import RequestError
from tailrank.core.query import Query
from tailrank.runtime.record import QueryOutcome
from tailrank.serving.grpc_library import grpc
from tailrank.serving.grpc_messages import SERVICE
from tailrank.serving.http import build_app
from tailrank.serving.load_client import send_load
from tailrank.serving.load_grpc import GrpcConnector, GrpcTarget
from tailrank.serving.load_target import LoadTarget
from tailrank.serving.load_test import LoadSettings, ServerLoadTest
from tailrank.serving.rank_request import RequestLimits

SETTINGS = LoadSettings(qps=500.0, sizes="fixed:5", seconds=0.1, protocol="grpc")


@contextmanager
def serving(ranker: PlainRanker, **settings: Any) -> Iterator[LoadTarget]:
    engine = engine_of(served(ranker), **settings)
    engine.start()
    try:
        with (
            grpc_listening(engine, RequestLimits(body_bytes_max=4096)) as port,
            listening(build_app(engine, grpc_port=port)) as url,
        ):
            yield LoadTarget.parse(url)
    finally:
        engine.drain()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[PlainRanker, LoadTarget]]:
    ranker = PlainRanker()
    with serving(ranker) as target:
        yield ranker, target


def test_answers_are_counted_run_after_run(server) -> None:
    ranker, target = server
    test = ServerLoadTest(target, SETTINGS)
    ranker.sizes.clear()
    for _ in range(2):
        at, run = test.run(500.0)
        assert (run.result.queries.outcome == QueryOutcome.ANSWERED).all()
        assert run.num_connections >= 32, "opened before, and more where a host lets calls wait"
        assert run.cpu_fraction > 0
        assert (run.result.latency_ns > 0).all()
        assert at.num_rejected == 0
    assert ranker.sizes.count(5) == 100


def test_what_is_turned_away_is_no_failure() -> None:
    with serving(PlainRanker(), limit="p99=1us") as target:
        _, run = ServerLoadTest(target, SETTINGS).run(500.0)
    assert (run.result.queries.outcome == QueryOutcome.REJECTED).all()
    assert run.result.first_error is None


@pytest.mark.parametrize("status", ["CANCELLED", "UNAVAILABLE"])
def test_what_the_library_cancels_is_turned_away(status: str) -> None:
    """It does that to calls that the server has no time to look at; see `grpc_server`."""

    def end(asked: bytes, context: Any) -> None:
        context.abort(grpc.StatusCode[status], "")

    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(end)}
    busy = grpc.server(ThreadPoolExecutor(1))
    busy.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = busy.add_insecure_port("127.0.0.1:0")
    busy.start()
    try:
        faulty = nullcontext() if status == "CANCELLED" else pytest.raises(RequestError)
        with faulty:
            GrpcTarget(f"127.0.0.1:{port}", None, ()).try_once(b"")
    finally:
        busy.stop(None)


def test_what_fails_is_one(server) -> None:
    def fail(batch: object) -> None:
        raise ValueError("5")

    ranker, target = server
    test = ServerLoadTest(target, SETTINGS)
    works, ranker.fails = ranker.fails, fail
    try:
        _, run = test.run(500.0)
    finally:
        ranker.fails = works
    assert (run.result.queries.outcome == QueryOutcome.FAILED).all()
    assert str(run.result.first_error) == "INTERNAL: the query could not be ranked"


def test_what_is_too_large_is_said_before_the_load_and_fails_in_it(server) -> None:
    _, target = server
    spoken_at = GrpcTarget.of(target, target.document())
    with pytest.raises(RequestError, match=r"gRPC at .*RESOURCE_EXHAUSTED.*larger than max"):
        spoken_at.try_once(bytes(5000))
    run = send_load(
        target,
        [Query(0, "m", 0, None, 1, 0, None)],
        lambda query: [bytes(5000)],
        transport=lambda run: GrpcConnector(spoken_at, run),
    )
    assert run.result.queries.outcome.tolist() == [QueryOutcome.FAILED]


def test_what_is_open_in_the_end_is_given_up(server, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, target = server
    monkeypatch.setattr("tailrank.serving.load_client._PATIENCE_S", 0.05)
    test = ServerLoadTest(target, SETTINGS)
    ranker.go.clear()
    try:
        _, run = test.run(500.0)
    finally:
        ranker.go.set()
    assert (run.result.queries.outcome == QueryOutcome.UNANSWERED).all()
    assert not run.result.drained
