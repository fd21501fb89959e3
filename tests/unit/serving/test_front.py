"""The front of replicas: what it forwards, asks again, refuses and counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.serving.served import PlainRanker, engine_of, served

from tailrank.core.errors import ServingError
from tailrank.serving import front as front_module
from tailrank.serving.forwarding import Forwarded, Replied, replied
from tailrank.serving.front import ReplicaLost, build_front, merged
from tailrank.serving.http import build_app
from tailrank.serving.rank_request import RequestLimits

USER = {"age": 30.0, "seen": [1, 2]}
ITEMS = {"movie": [[3], [4]], "tags": [[1], []], "sizes": [[1.0, 2.0], [3.0, 4.0]]}
ASKED = {"user": USER, "items": ITEMS}


class Near:
    """Replicas that are applications of this process; what is asked of one can go wrong."""

    def __init__(self, apps: Mapping[str, Any]) -> None:
        self._apps = dict(apps)
        self.before: Callable[[Forwarded], Exception | None] = lambda asked: None
        self.asked: list[Forwarded] = []

    async def ask(self, asked: Forwarded) -> Replied:
        self.asked.append(asked)
        error = self.before(asked)
        if error is not None:
            raise error
        return await replied(next(iter(self._apps.values())), asked)

    async def ask_all(self, asked: Forwarded) -> Mapping[str, Replied]:
        if not self._apps:
            raise ServingError("no replica answers")
        return {name: await replied(app, asked) for name, app in self._apps.items()}


@pytest.fixture
def near() -> Generator[Near, None, None]:
    engine = engine_of(served(PlainRanker()))
    engine.start()
    try:
        yield Near({"first": build_app(engine), "second": build_app(engine)})
    finally:
        engine.drain()


def fails(*errors: Exception) -> Callable[[Forwarded], Exception | None]:
    """What goes wrong with the first requests."""
    left = list(errors)
    return lambda asked: left.pop(0) if left else None


def test_all_routes_answer_as_those_of_a_replica(near: Near) -> None:
    (app, _) = near._apps.values()
    with TestClient(app) as direct, TestClient(build_front(near)) as front:
        for method, path, body in (
            ("POST", "/v1/rank", ASKED),
            ("POST", "/v1/rank", {"user": USER}),
            ("GET", "/v1/rank", None),
            ("GET", "/openapi.json", None),
            ("GET", "/health/ready", None),
            ("GET", "/v2/models/plain", None),
            ("GET", "/v2/models/none", None),
            ("GET", "/v2/health/live?a=%20b", None),
            ("GET", "/nowhere/%C3%A9", None),
        ):
            wanted, found = (
                direct.request(method, path, json=body),
                front.request(method, path, json=body),
            )
            told, seen = wanted.json(), found.json()
            for answer in (told, seen):
                answer.pop("timing_ms", None)
            assert (found.status_code, seen) == (wanted.status_code, told), path
            assert found.headers["content-type"] == wanted.headers["content-type"]


def test_a_query_whose_replica_dies_is_asked_again_as_if_it_had_just_come(near: Near) -> None:
    near.before = fails(ReplicaLost(has_died=True))
    with TestClient(build_front(near)) as client:
        answer = client.post("/v1/rank", json=ASKED)
        scraped = client.get("/metrics").text
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == 2
    first, second = near.asked
    assert first.body == second.body
    assert second.waited_ns == 0 <= first.waited_ns
    assert "tailrank_asked_again_total 1.0" in scraped


def test_a_query_that_ends_two_replicas_ends_no_third(near: Near) -> None:
    near.before = fails(*[ReplicaLost(has_died=True)] * 3)
    with TestClient(build_front(near)) as client:
        answer = client.post("/v1/rank", json=ASKED)
    assert (answer.status_code, len(near.asked)) == (503, 2)
    assert answer.json() == {"error": {"reason": "a replica died"}}


def test_replicas_that_cannot_be_reached_are_asked_until_they_can(near: Near, monkeypatch) -> None:
    monkeypatch.setattr(front_module, "_PAUSE_S", 0.0)
    near.before = fails(*[ReplicaLost(has_died=False)] * 5)
    with TestClient(build_front(near)) as client:
        assert client.post("/v1/rank", json=ASKED).status_code == 200
    assert len(near.asked) == 6


def test_where_no_replica_is_left_patience_ends(near: Near, monkeypatch) -> None:
    monkeypatch.setattr(front_module, "_PATIENCE_S", 0.01)

    async def never(asked: Forwarded) -> Replied:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(near, "ask", never)
    with TestClient(build_front(near)) as client:
        answer = client.post("/v1/rank", json=ASKED)
        inferred = client.post("/v2/models/plain/infer", json={})
    assert (answer.status_code, inferred.status_code) == (503, 503)
    assert answer.json() == {"error": {"reason": "no replica answers"}}
    assert inferred.json() == {"error": "no replica answers"}  # as the protocol has errors


def test_what_a_client_may_not_is_refused_before_anything_is_sent(near: Near) -> None:
    app = build_front(near, RequestLimits(body_bytes_max=100), b"sesame")
    with TestClient(app) as client:
        assert client.post("/v1/rank", json=ASKED).status_code == 401
        client.headers["authorization"] = "Bearer sesame"
        assert client.post("/v1/rank", json=ASKED).status_code == 413
        assert client.get("/").status_code == client.get("/v1/stats").status_code == 404
        assert near.asked == []
        assert client.get("/health/live").status_code == 200


def test_metrics_are_those_of_all_replicas_each_under_its_name(near: Near) -> None:
    with TestClient(build_front(near)) as client:
        client.post("/v1/rank", json=ASKED)
        lines = client.get("/metrics").text.splitlines()
    assert 'tailrank_queries_total{replica="first"} 1.0' in lines
    assert 'tailrank_queries_total{replica="second"} 1.0' in lines
    assert "tailrank_replicas 2.0" in lines
    kinds = [line for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    assert "# TYPE tailrank_query_total_seconds histogram" in kinds
    assert '{le="+Inf",replica="first"} 1.0' in "".join(lines)


def test_metrics_of_no_replica_are_a_503() -> None:
    with TestClient(build_front(Near({}))) as client:
        assert client.get("/metrics").status_code == 503
    assert b"tailrank_replicas 0.0" in merged({}, 0)


def test_the_door_knows_how_long_a_forwarded_query_has_waited(near: Near) -> None:
    (app, _) = near._apps.values()
    body = json.dumps({**ASKED, "deadline_ms": 50_000}).encode()
    ask = Forwarded("POST", "/v1/rank", b"", [], body, waited_ns=0)
    assert asyncio.run(replied(app, ask)).status == 200
    late = asyncio.run(replied(app, ask._replace(waited_ns=60_000_000_000)))
    assert late.status == 429
