"""The HTTP interface: right answers, a reason for every refusal, nothing that makes it fail."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.unit.serving.served import PlainRanker, engine_of, served

from tailrank.serving.engine import Engine
from tailrank.serving.http import build_app
from tailrank.serving.rank_request import RequestLimits

LIMITS = RequestLimits(body_bytes_max=100_000, items_max=500)
USER = {"age": 3.0, "seen": [1, 2]}
COLUMNS = {
    "movie": [1, 5, 3],
    "tags": [[1, 2], [], 4],
    "sizes": [[1.0, 0.5], [2, 3], [0.0, 0.0]],
}
# (movie + tags + sizes + age + seen) / 1e4
SCORES = [0.00115, 0.0016, 0.0013]


@pytest.fixture(scope="module")
def client(engine: Engine) -> TestClient:
    return TestClient(build_app(engine, LIMITS), raise_server_exceptions=False)


def body(**changes: Any) -> dict[str, Any]:
    return {"user": USER, "items": COLUMNS} | changes


def rows() -> list[dict[str, Any]]:
    return [
        dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)
    ]


@pytest.mark.parametrize("items", [COLUMNS, rows()], ids=["columns", "rows"])
def test_items_come_back_best_first_with_the_time_they_took(client: TestClient, items) -> None:
    answer = client.post("/v1/rank", json=body(items=items, item_ids=["a", 7, "c"]))
    assert answer.status_code == 200
    found = answer.json()
    assert [item["id"] for item in found["items"]] == [7, "c", "a"]
    assert [item["score"] for item in found["items"]] == pytest.approx(sorted(SCORES)[::-1])
    assert (found["model"], found["model_version"]) == ("plain", "0123456789ab")
    timing = found["timing_ms"]
    assert timing["queue"] + timing["compute"] == pytest.approx(timing["total"])


def test_places_are_the_ids_where_none_are_given_and_top_k_cuts(client: TestClient) -> None:
    found = client.post("/v1/rank", json=body(top_k=2)).json()["items"]
    assert [item["id"] for item in found] == [1, 2]
    assert len(client.post("/v1/rank", json=body(top_k=99)).json()["items"]) == 3


def test_equal_scores_keep_the_order_of_the_request(client: TestClient) -> None:
    items = {"movie": [4] * 50, "tags": [[1]] * 50, "sizes": [[0, 0]] * 50}
    found = client.post("/v1/rank", json=body(items=items)).json()["items"]
    assert [item["id"] for item in found] == list(range(50))


def test_each_task_has_a_score() -> None:
    engine = engine_of(served(PlainRanker(num_tasks=2)))
    engine.start()
    answer = TestClient(build_app(engine)).post("/v1/rank", json=body(top_k=1)).json()
    engine.drain()
    (item,) = answer["items"]
    assert item["scores"] == pytest.approx({"first": 0.0016, "second": 1 - 0.0016})
    assert item["score"] == item["scores"]["first"]


MALFORMED: list[tuple[Any, str, str]] = [
    ([1], "body", "an object"),
    (body(users=1), "users", "unknown; expected user, items, .*did you mean 'user'"),
    (body(user=3), "user", "got 3; allowed: an object"),
    ({"items": COLUMNS}, "user.age", "missing; expected a finite number"),
    ({"user": USER}, "items", "missing"),
    (body(user={**USER, "height": 3}), "user.height", "unknown; expected age, seen"),
    (body(user={**USER, "age": "old"}), "user.age", "got 'old'; allowed: a finite number"),
    (body(user={**USER, "age": None}), "user.age", "missing; expected a finite number"),
    (body(user={**USER, "age": 1e300}), "user.age", "got 1e.300"),
    (body(user={**USER, "seen": [1, 1000]}), "user.seen", "got .1, 1000.; .* 0 to 999"),
    (body(user={**USER, "seen": [1.5]}), "user.seen", "whole numbers"),
    (body(user={**USER, "seen": {"a": 1}}), "user.seen", "whole numbers"),
    (body(items=5), "items", "a list of objects, or an object of columns"),
    (body(items=[]), "items", "no candidate; expected 1 to 500"),
    (body(items={**COLUMNS, "movie": []}), "items.tags", "3 values; items.movie has 0"),
    (body(items={name: [] for name in COLUMNS}), "items", "no candidate"),
    (body(items={**COLUMNS, "movie": [1, 2]}), "items.tags", "3 values; items.movie has 2"),
    (body(items={**COLUMNS, "movie": 1}), "items.movie", "a list, with a value for each"),
    (body(items={**COLUMNS, "colour": [1, 2, 3]}), "items.colour", "unknown"),
    (body(items={"movie": [1]}), "items.tags", "missing; expected whole numbers 0 to 49"),
    (body(items={**COLUMNS, "movie": [1, -1, 2]}), r"items.movie\[1\]", "got -1"),
    (body(items={**COLUMNS, "movie": [1, 2, 10**30]}), r"items.movie\[2\]", r"got 1e\+30"),
    (body(items={**COLUMNS, "tags": [1, 2, [3, 50]]}), r"items.tags\[2\]", "0 to 49"),
    (body(items={**COLUMNS, "sizes": [[1, 2], [1], [1, 2]]}), r"items.sizes\[1\]", "list of 2"),
    (body(items={**COLUMNS, "sizes": [[1, 2], [1, "a"], [1, 2]]}), r"items.sizes\[1\]", "list"),
    (body(items=[rows()[0], 7]), r"items\[1\]", "an object of features"),
    (body(items=[rows()[0], {"movie": 1}]), r"items\[1\]\.tags", "missing"),
    (body(items=[rows()[0] | {"x": 1}]), r"items\[0\].x", "unknown"),
    (body(items=rows() * 200), "items", "600 candidates; expected 1 to 500"),
    (body(item_ids="abc"), "item_ids", "a list of texts"),
    (body(item_ids=["a"]), "item_ids", "1 ids; there are 3 candidates"),
    (body(item_ids=["a", "b", None]), r"item_ids\[2\]", "a text or a whole number"),
    (body(top_k=0), "top_k", "a whole number from 1"),
    (body(top_k=1.5), "top_k", "a whole number from 1"),
    (body(top_k=True), "top_k", "a whole number from 1"),
    (body(deadline_ms=0), "deadline_ms", "a number above 0"),
    (body(deadline_ms="soon"), "deadline_ms", "a number above 0"),
]


@pytest.mark.parametrize(("asked", "field", "reason"), MALFORMED)
def test_a_bad_body_is_a_400_that_names_field_and_reason(
    client: TestClient, asked: Any, field: str, reason: str
) -> None:
    answer = client.post("/v1/rank", content=json.dumps(asked))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert re.fullmatch(field, error["field"])
    assert re.search(reason, error["reason"])
    assert len(error["reason"]) < 300


def test_values_nested_without_end_are_a_400(client: TestClient) -> None:
    deep = b"[" * 1000 + b"]" * 1000
    for name, shape in (("user", b"%b"), ("user.seen", b'{"age":1,"seen":%b}')):
        items = json.dumps(COLUMNS).encode()
        content = b'{"items":%b,"user":%b}' % (items, shape % deep)
        answer = client.post("/v1/rank", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]["field"] == name
        assert "nested too deeply" in answer.json()["error"]["reason"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"user": NaN}', b"[" * 5000])
def test_what_is_no_json_is_a_400(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/rank", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "body"


def test_a_body_above_the_limit_is_a_413_whether_or_not_it_says_so(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    for content in (b" " * 100_001, pieces()):
        answer = client.post("/v1/rank", content=content)
        assert answer.status_code == 413
        assert "100000 bytes" in answer.json()["error"]["reason"]


def test_a_body_that_does_not_arrive_is_a_408(engine: Engine) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    app = build_app(engine, RequestLimits(body_seconds_max=0.01))
    scope = {"type": "http", "method": "POST", "path": "/v1/rank", "headers": []}
    asyncio.run(app(scope | {"query_string": b"", "root_path": ""}, receive, send))
    assert sent[0]["status"] == 408
    assert b"within 0.01 s" in sent[1]["body"]


def test_a_client_that_leaves_in_its_body_is_no_error_of_the_server(engine: Engine) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    for path in ("/v1/rank", "/v2/models/plain/infer"):
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        asyncio.run(
            build_app(engine)(scope | {"query_string": b"", "root_path": ""}, receive, send)
        )


def test_what_would_be_late_or_too_much_is_a_429_that_says_when_to_come_again() -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker), queue_items_max=5, num_workers=1)
    engine.start()
    client = TestClient(build_app(engine))
    late = client.post("/v1/rank", json=body(deadline_ms=0.000001))
    assert (late.status_code, late.headers["Retry-After"]) == (429, "1")
    assert late.json()["error"]["code"] == "too_late"
    ranker.go.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/v1/rank", json=body())
        while not engine.num_open:
            pass
        full = client.post("/v1/rank", json=body())
        ranker.go.set()
        assert first.result(30).status_code == 200
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    engine.drain()
    assert client.post("/v1/rank", json=body()).status_code == 503
    assert client.get("/health/live").status_code == 503


def test_a_ranker_that_fails_is_a_500_without_a_word_of_the_features(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker))
    engine.start()

    def fails(batch) -> None:
        raise ValueError("secret 31337")

    ranker.fails = fails
    client = TestClient(build_app(engine), raise_server_exceptions=False)
    answer = client.post("/v1/rank", json=body())
    assert answer.status_code == 500
    assert "31337" not in answer.text + caplog.text
    assert "ValueError" in caplog.text
    ranker.fails = lambda batch: None
    assert client.post("/v1/rank", json=body()).status_code == 200
    engine.drain()


def test_health_and_unknown_paths(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json() == {"ready": True}
    for answer, status in ((client.get("/v1/rank"), 405), (client.get("/nothing"), 404)):
        assert answer.status_code == status
        assert answer.json()["error"]["reason"]


def test_a_token_opens_everything_and_probes_need_none(engine: Engine) -> None:
    client = TestClient(build_app(engine, LIMITS, token=b"s3cret"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
        answer = client.post("/v1/rank", json=body(), headers=headers)
        assert answer.status_code == 401
        assert "Bearer" in answer.json()["error"]["reason"]
    assert client.get("/metrics").status_code == 401
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    good = {"Authorization": "Bearer s3cret"}
    assert client.post("/v1/rank", json=body(), headers=good).status_code == 200
    assert client.get("/openapi.json", headers=good).json()["security"] == [{"token": []}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["user", "items", "movie", "tags", "sizes", "age", "x"]), inner
        )
    ),
    max_leaves=12,
)
NEAR = st.fixed_dictionaries(
    {},
    optional={
        "user": st.fixed_dictionaries({"age": JSON, "seen": JSON}) | st.just(USER),
        "items": st.just(COLUMNS)
        | st.fixed_dictionaries({"movie": JSON, "tags": JSON, "sizes": JSON})
        | st.lists(st.fixed_dictionaries({"movie": JSON, "tags": JSON, "sizes": JSON}), max_size=3)
        | st.lists(st.just(rows()[0]) | JSON, max_size=3),
        "item_ids": JSON | st.just(["a", "b", "c"]),
        "top_k": JSON | st.integers(1, 5),
        "deadline_ms": JSON | st.floats(1.0, 1e5),
    },
)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=40) | JSON.map(json.dumps) | NEAR.map(json.dumps))
def test_whatever_comes_is_answered_or_refused_with_a_reason(
    client: TestClient, content: bytes | str
) -> None:
    answer = client.post("/v1/rank", content=content)
    assert answer.status_code in (200, 400, 429)
    if answer.status_code != 200:
        assert answer.json()["error"]["reason"]
