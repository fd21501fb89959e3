"""The Open Inference Protocol: JSON and binary tensors, jagged features, and every bad body."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.unit.serving.served import PlainRanker, engine_of, served
from tests.unit.serving.test_http import LIMITS, SCORES

from tailrank.serving.http import build_app
from tailrank.serving.open_inference import HEADER_LENGTH

INFER = "/v2/models/plain/infer"
ARRAYS: dict[str, np.ndarray] = {
    "age": np.array([3.0], dtype="<f4"),
    "seen.values": np.array([1, 2], dtype="<i8"),
    "seen.lengths": np.array([2], dtype="<i4"),
    "movie": np.array([[1], [5], [3]], dtype="<u2"),
    "tags.values": np.array([1, 2, 4], dtype="<i8"),
    "tags.lengths": np.array([2, 0, 1], dtype="<i8"),
    "sizes": np.array([[1.0, 0.5], [2, 3], [0, 0]], dtype="<f8"),
}
TYPES = {"<f4": "FP32", "<f8": "FP64", "<i8": "INT64", "<i4": "INT32", "<u2": "UINT16"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    engine = engine_of()
    engine.start()
    yield TestClient(build_app(engine, LIMITS), raise_server_exceptions=False)
    engine.drain()


def tensor(name: str, array: np.ndarray, **changes: Any) -> dict[str, Any]:
    datatype = TYPES[array.dtype.str]
    found = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    return found | ({"data": array.tolist()} if "parameters" not in changes else {}) | changes


def as_json(**changes: Any) -> dict[str, Any]:
    """A body, with tensors changed by name (dots are `__`); None leaves one out."""
    inputs = {name: tensor(name, array) for name, array in ARRAYS.items()}
    for name, change in changes.items():
        name = name.replace("__", ".")
        inputs[name] = None if change is None else inputs.get(name, {"name": name}) | change
    return {"inputs": [one for one in inputs.values() if one is not None]}


def binary(arrays: dict[str, np.ndarray], **header: Any) -> tuple[bytes, dict[str, str]]:
    inputs = [
        tensor(name, array, parameters={"binary_data_size": array.nbytes})
        for name, array in arrays.items()
    ]
    head = json.dumps({"inputs": inputs, **header}).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    return head + data, {HEADER_LENGTH: str(len(head))}


def test_health_and_metadata(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/plain/ready"):
        assert client.get(path).status_code == 200
    found = client.get("/v2/models/plain/versions/0123456789ab").json()
    assert found["versions"] == ["0123456789ab"]
    inputs = {one["name"]: (one["datatype"], one["shape"]) for one in found["inputs"]}
    assert inputs["age"] == ("FP32", [1])
    assert inputs["seen.values"] == ("INT64", [-1])
    assert inputs["seen.lengths"] == ("INT64", [1])
    assert inputs["movie"] == ("INT64", [-1])
    assert inputs["sizes"] == ("FP32", [-1, 2])
    assert found["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1]}]
    for path in ("/v2/models/other", "/v2/models/plain/versions/2/ready"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "there is plain, version 0123456789ab" in answer.json()["error"]


def test_json_tensors_are_scored_in_their_order(client: TestClient) -> None:
    answer = client.post(INFER, json=as_json() | {"id": "q1"})
    found = answer.json()
    assert answer.status_code == 200, found
    assert (found["id"], found["model_name"]) == ("q1", "plain")
    (output,) = found["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [3])
    assert output["data"] == pytest.approx(SCORES)


@pytest.mark.parametrize(
    "wanted",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "score", "parameters": {"binary_data": True}}]},
    ],
)
def test_binary_tensors_there_and_back(client: TestClient, wanted: dict) -> None:
    content, headers = binary(ARRAYS, **wanted)
    answer = client.post(INFER, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    split = int(answer.headers[HEADER_LENGTH])
    head = json.loads(answer.content[:split])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(answer.content[split:], "<f4") == pytest.approx(SCORES)


def test_texts_come_in_both_forms() -> None:
    # Ids as texts are refused by this model: it says so, and what it read shows.
    engine = engine_of()
    engine.start()
    client = TestClient(build_app(engine))
    data = b"".join(struct.pack("<I", len(text)) + text for text in (b"a", "ü".encode(), b""))
    changed = {"datatype": "BYTES", "shape": [3]}
    for movie, extra in (
        ({**changed, "data": ["a", "ü", ""]}, b""),
        ({**changed, "parameters": {"binary_data_size": len(data)}}, data),
    ):
        head = as_json(movie=None)
        head["inputs"].append({"name": "movie", **movie})
        packed = json.dumps(head).encode()
        answer = client.post(
            INFER, content=packed + extra, headers={HEADER_LENGTH: str(len(packed))}
        )
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("items.movie[0]: got 'a'; allowed: whole numbers")
    engine.drain()


def test_a_timeout_is_a_deadline(client: TestClient) -> None:
    assert client.post(INFER, json=as_json() | {"parameters": {"timeout": 10**8}}).is_success
    late = client.post(INFER, json=as_json() | {"parameters": {"timeout": 1}})
    assert (late.status_code, late.headers.get("Retry-After")) == (429, "1")


def test_each_task_is_an_output() -> None:
    engine = engine_of(served(PlainRanker(num_tasks=2)))
    engine.start()
    client = TestClient(build_app(engine))
    outputs = client.post(INFER, json=as_json()).json()["outputs"]
    assert [output["name"] for output in outputs] == ["first", "second"]
    assert outputs[1]["data"] == pytest.approx([1 - score for score in SCORES])
    one = client.post(INFER, json=as_json() | {"outputs": [{"name": "second"}]}).json()["outputs"]
    assert one == outputs[1:]
    engine.drain()


BAD: list[tuple[Any, str]] = [
    ([], "a list `inputs`"),
    ({"inputs": 3}, "a list `inputs`"),
    ({"inputs": [3]}, "inputs: expected objects with a name"),
    ({"inputs": []}, "age: missing; expected age: a finite number"),
    (as_json(tags__values=None), r"tags: missing; expected tags\.values and tags\.lengths"),
    (as_json(tags__lengths=None), "tags: missing"),
    (as_json(colour=tensor("colour", ARRAYS["age"])), "colour: no such input"),
    ({"inputs": as_json()["inputs"] * 2}, "age: there twice"),
    (as_json(age={"datatype": "FP8"}), "age: datatype: got 'FP8'"),
    (as_json(age={"datatype": []}), "age: datatype: got "),
    (as_json(age={"shape": [2]}), "age: data: 1 elements; its shape says 2"),
    (as_json(age={"shape": [-1]}), "age: shape"),
    (as_json(age={"shape": "1"}), "age: shape"),
    (as_json(age={"shape": []}), "age: shape"),
    (as_json(age={"shape": [10**9, 10**9]}), "age: shape"),
    (as_json(age={"data": ["a"]}), "age: data: got 'a'; allowed: elements of FP32"),
    (as_json(age={"data": [None]}), "age: data"),
    (as_json(age={"data": [1e300]}), "user.age: got inf"),
    (as_json(age={"data": [[[[1.0]]]]}), "age: data"),
    (as_json(age={"data": 1.0}), "age: data"),
    (as_json(age={"data": [1.0, 2.0], "shape": [2]}), "age: rows: got 2; allowed: 1"),
    (as_json(age={"parameters": 3}), "age: parameters"),
    (as_json(age={"parameters": {"binary_data_size": 4}}), "age: binary_data_size"),
    (as_json(movie={"data": [1, 2, -3], "datatype": "INT8"}), r"items.movie\[2\]: got -3"),
    (as_json(movie={"data": [1, 2, 300], "datatype": "UINT8"}), "beyond the range of UINT8"),
    (as_json(movie={"data": [1, 2, 1000], "datatype": "INT16"}), r"items.movie\[2\]: got 1000"),
    (as_json(movie={"data": [1.0, 2.0, 3.0], "datatype": "FP32"}), r"items.movie\[0\]: got 1.0"),
    (as_json(movie={"data": [True] * 3, "datatype": "BOOL"}), r"items.movie\[0\]: got True"),
    (as_json(movie={"data": [1, 2], "shape": [2]}), "rows: got 3; allowed: 2"),
    (as_json(movie={"data": [1, 2, 3], "shape": [1, 3]}), "movie: shape"),
    (as_json(tags__lengths={"data": [2, 2, 0]}), "tags.lengths: 4 in all; tags.values holds 3"),
    (as_json(tags__lengths={"data": [2, -1, 2]}), "tags.lengths: expected whole numbers from 0"),
    (as_json(tags__values={"data": [1, 2, 50]}), r"items.tags\[2\]: got \[50\]"),
    (as_json(sizes={"data": [1.0] * 9, "shape": [3, 3]}), "sizes: shape"),
    (as_json() | {"outputs": [{"name": "rank"}]}, "outputs: got 'rank'; allowed: score"),
    (as_json() | {"outputs": 3}, "outputs"),
    (as_json() | {"outputs": [{"name": "score", "parameters": {"classification": 1}}]}, "score"),
    (as_json() | {"id": 3}, "id: got 3; allowed: a text"),
    (as_json() | {"parameters": {"timeout": 0}}, "timeout"),
]


@pytest.mark.parametrize(("asked", "reason"), BAD)
def test_a_bad_body_is_a_400_with_the_reason_as_one_text(
    client: TestClient, asked: Any, reason: str
) -> None:
    answer = client.post(INFER, content=json.dumps(asked))
    assert answer.status_code == 400
    assert re.search(reason, answer.json()["error"]), answer.json()


def test_bad_binary_data_is_a_400(client: TestClient) -> None:
    content, headers = binary(ARRAYS)
    for body, length in (
        (content[:-1], headers[HEADER_LENGTH]),
        (content + b"1", headers[HEADER_LENGTH]),
        (content, "x"),
        (content, str(len(content) + 1)),
        (content, "9" * 5000),
        (content, str(int(headers[HEADER_LENGTH]) - 1)),
    ):
        answer = client.post(INFER, content=body, headers={HEADER_LENGTH: length})
        assert answer.status_code == 400, (answer.text, length)
        assert isinstance(answer.json()["error"], str)
    packed = client.post(INFER, content=content, headers={**headers, "Content-Encoding": "gzip"})
    assert packed.status_code == 400
    assert client.post("/v2/models/nobody/infer", json=as_json()).status_code == 404


NUMBERS = st.integers(-3, 60) | st.floats(width=32) | st.sampled_from(["a", None, True, [1]])
CHANGE = st.fixed_dictionaries(
    {},
    optional={
        "shape": st.lists(st.integers(-1, 5), max_size=4),
        "datatype": st.sampled_from(["INT64", "UINT8", "FP16", "FP64", "BOOL", "BYTES", "X"]),
        "data": st.lists(NUMBERS, max_size=6),
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 30)}),
    },
)


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(st.sampled_from([name.replace(".", "__") for name in ARRAYS]), CHANGE),
    st.binary(max_size=40),
)
def test_whatever_comes_is_answered_or_refused(
    client: TestClient, changes: dict[str, Any], data: bytes
) -> None:
    head = json.dumps(as_json(**changes)).encode()
    answer = client.post(INFER, content=head + data, headers={HEADER_LENGTH: str(len(head))})
    assert answer.status_code in (200, 400, 429)
    if answer.status_code != 200:
        assert answer.json()["error"]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 400), st.integers(0, 255), st.integers(-3, 3))
def test_a_flipped_byte_is_answered_or_refused(
    client: TestClient, place: int, byte: int, shift: int
) -> None:
    content, headers = binary(ARRAYS)
    broken = bytearray(content)
    broken[place % len(broken)] = byte
    length = str(int(headers[HEADER_LENGTH]) + shift)
    answer = client.post(INFER, content=bytes(broken), headers={HEADER_LENGTH: length})
    assert answer.status_code in (200, 400, 429)
