"""The Open Inference Protocol over gRPC: an unmodified client, and every bad message."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from starlette.testclient import TestClient
from tests.unit.serving.listening import grpc_listening
from tests.unit.serving.served import PlainRanker, engine_of, served
from tests.unit.serving.test_http import COLUMNS, LIMITS, SCORES, USER
from tests.unit.serving.test_open_inference import ARRAYS, INFER, TYPES, as_json
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tailrank.core.errors import RequestError
from tailrank.serving import grpc_messages
from tailrank.serving.engine import Engine
from tailrank.serving.grpc_messages import SERVICE, ModelInferRequest
from tailrank.serving.http import build_app
from tailrank.serving.rank_request import RequestLimits, parse_rank
from tailrank.serving.server import ServerConfig, hold_grpc_port

REFUSED = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def port(engine: Engine) -> Iterator[int]:
    with grpc_listening(engine, LIMITS) as port:
        yield port


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[triton.InferenceServerClient]:
    with closing(triton.InferenceServerClient(f"127.0.0.1:{port}")) as client:
        yield client


@pytest.fixture(scope="module")
def channel(port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def infer(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
    """A call that takes and gives bytes."""
    return channel.unary_unary(f"/{SERVICE}/ModelInfer")


def inputs(arrays: dict[str, np.ndarray] = ARRAYS) -> list[triton.InferInput]:
    found = []
    for name, array in arrays.items():
        found.append(triton.InferInput(name, list(array.shape), TYPES[array.dtype.str]))
        found[-1].set_data_from_numpy(array)
    return found


CONTENTS = {
    **dict.fromkeys(("INT32", "INT16", "INT8"), "int_contents"),
    "INT64": "int64_contents",
    "UINT16": "uint_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def asked(*, raw: bool = True) -> Any:
    """A message as our own classes write it."""
    message = ModelInferRequest(model_name="plain")
    for name, array in ARRAYS.items():
        datatype = TYPES[array.dtype.str]
        tensor = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            message.raw_input_contents.append(array.tobytes())
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(array.reshape(-1).tolist())
    return message


def test_messages_are_those_of_the_protocol() -> None:
    theirs = service_pb2.DESCRIPTOR.message_types_by_name

    def same(ours: Any, other: Any) -> None:
        for field in ours.fields:
            known = other.fields_by_name[field.name]
            assert (field.number, field.type) == (known.number, known.type), field.full_name
            assert field.is_repeated == known.is_repeated, field.full_name
        for nested in ours.nested_types:
            same(nested, other.nested_types_by_name[nested.name])

    for path in grpc_messages._MESSAGES:
        if "." not in path:
            same(grpc_messages.message(path).DESCRIPTOR, theirs[path])


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("plain")
    assert client.is_model_ready("plain", "0123456789ab")
    assert not client.is_model_ready("plain", "2")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "tailrank"
    found = client.get_model_metadata("plain")
    assert found.versions == ["0123456789ab"]
    told = {one.name: (one.datatype, list(one.shape)) for one in found.inputs}
    assert told["seen.values"] == ("INT64", [-1])
    assert told["sizes"] == ("FP32", [-1, 2])
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*there is plain, version"):
        client.get_model_metadata("other")


def test_scores_are_those_of_http_and_of_the_ranker(client, channel, engine: Engine) -> None:
    found = client.infer("plain", inputs(), request_id="q1", model_version="0123456789ab")
    assert found.get_response().id == "q1"
    assert found.get_response().model_version == "0123456789ab"
    scores = found.as_numpy("score")
    assert scores.dtype == np.float32
    over_http = TestClient(build_app(engine, LIMITS)).post(INFER, json=as_json()).json()
    assert scores.tolist() == np.float32(over_http["outputs"][0]["data"]).tolist()
    body = json.dumps({"user": USER, "items": COLUMNS}).encode()
    candidates = parse_rank(body, [engine.model], LIMITS).candidates
    in_process = engine.model.ranker.rank(candidates.features(engine.model))
    assert scores.tolist() == in_process.tolist()
    assert scores == pytest.approx(SCORES)


def test_typed_contents_are_answered_by_typed_contents(channel: grpc.Channel) -> None:
    answer = infer(channel)(asked(raw=False).SerializeToString())
    found = service_pb2.ModelInferResponse.FromString(answer)
    assert list(found.outputs[0].contents.fp32_contents) == pytest.approx(SCORES)
    assert not found.raw_output_contents


def test_each_task_is_an_output() -> None:
    engine = engine_of(served(PlainRanker(num_tasks=2)))
    engine.start()
    with (
        grpc_listening(engine) as port,
        closing(triton.InferenceServerClient(f"127.0.0.1:{port}")) as client,
    ):
        both = client.infer("plain", inputs())
        one = client.infer("plain", inputs(), outputs=[triton.InferRequestedOutput("second")])
    engine.drain()
    assert both.as_numpy("first") == pytest.approx(SCORES)
    assert one.as_numpy("first") is None
    assert one.as_numpy("second").tolist() == both.as_numpy("second").tolist()


def change(place: str, **values: Any) -> Callable[[Any], None]:
    """Sets fields of the tensor of that name, and its raw bytes."""

    def changed(message: Any) -> None:
        (at,) = (n for n, tensor in enumerate(message.inputs) if tensor.name == place)
        tensor = message.inputs[at]
        for name, value in values.items():
            if name == "raw":
                message.raw_input_contents[at] = value
            elif name == "shape":
                tensor.shape[:] = value
            else:
                setattr(tensor, name, value)

    return changed


def drop(message: Any) -> None:
    del message.inputs[0], message.raw_input_contents[0]


def contents_too(message: Any) -> None:
    message.inputs[0].contents.fp32_contents.append(3.0)


def wrong_output(message: Any) -> None:
    message.outputs.add(name="rank")


def classification(message: Any) -> None:
    message.outputs.add(name="score").parameters["classification"].int64_param = 1


def no_time(message: Any) -> None:
    message.parameters["timeout"].int64_param = 0


def too_many(message: Any) -> None:
    change("movie", shape=[501], datatype="INT8", raw=bytes(501))(message)


NAN = np.array([np.nan], dtype="<f4").tobytes()
BAD: list[tuple[Callable[[Any], Any], str]] = [
    (change("age", shape=[2]), "age: raw_input_contents: got 4; allowed: 8, for 2 of FP32"),
    (change("age", shape=[]), r"age: shape: got \[\]"),
    (change("age", shape=[-1]), "age: shape"),
    (change("age", shape=[2**40, 2**40]), "age: shape"),
    (change("age", datatype="FP8"), "age: datatype: got 'FP8'"),
    (change("age", datatype=""), "age: datatype"),
    (change("age", name="years"), "years: no such input"),
    (change("age", name="movie"), "movie: there twice"),
    (change("age", raw=NAN), "user.age: got nan; allowed: a finite number"),
    (change("age", raw=ARRAYS["age"].tobytes()[:3]), "age: raw_input_contents: got 3"),
    (change("age", datatype="BYTES", raw=b"\x09\x00\x00\x00a"), "age: cut off"),
    (change("age", datatype="BYTES", raw=b"\x01\x00\x00\x00\xff"), "age: a text that is not UTF-8"),
    (change("movie", raw=bytes(4)), "movie: raw_input_contents: got 4; allowed: 6"),
    (change("movie", datatype="INT16", raw=b"\xff" * 6), r"items.movie\[0\]: got -1"),
    (change("tags.lengths", raw=np.array([2, 2, 0]).tobytes()), "tags.lengths: 4 in all"),
    (change("sizes", shape=[2, 3]), r"sizes: shape: got \[2, 3\]"),
    (too_many, "inputs: 501 candidates; expected 1 to 500"),
    (drop, "age: missing; expected age"),
    (
        lambda message: message.raw_input_contents.pop(),
        "raw_input_contents: 6 of them; there are 7",
    ),
    (lambda message: message.raw_input_contents.append(b""), "raw_input_contents: 8 of them"),
    (contents_too, "age: either contents or raw_input_contents"),
    (wrong_output, "outputs: got 'rank'; allowed: score"),
    (classification, "score: no classification"),
    (no_time, "timeout: got 0"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD)
def test_a_bad_message_is_refused_with_the_reason(channel, spoil, reason: str) -> None:
    message = asked()
    spoil(message)
    with pytest.raises(grpc.RpcError) as refused:
        infer(channel)(message.SerializeToString())
    assert refused.value.code() == REFUSED, refused.value.details()
    assert re.search(reason, refused.value.details()), refused.value.details()


TYPED_BAD = [
    ("age", "FP16", "age: FP16 has no typed contents; expected raw_input_contents"),
    ("age", "INT64", "age: int64_contents: 0 elements; its shape says 1"),
    ("movie", "BYTES", "movie: bytes_contents: 0 elements"),
    ("seen.lengths", "INT8", None),
]


@pytest.mark.parametrize(("name", "datatype", "reason"), TYPED_BAD)
def test_typed_contents_have_to_be_of_the_type(channel, name, datatype, reason) -> None:
    message = asked(raw=False)
    change(name, datatype=datatype)(message)
    if reason is None:
        infer(channel)(message.SerializeToString())
        next(one for one in message.inputs if one.name == name).contents.int_contents[0] = 300
        reason = "beyond the range of INT8"
    with pytest.raises(grpc.RpcError) as refused:
        infer(channel)(message.SerializeToString())
    assert refused.value.code() == REFUSED
    assert reason in refused.value.details()


def test_what_is_no_message_or_too_large_or_packed_is_refused(client, channel) -> None:
    for content, code, reason in (
        (b"\xff\xff", REFUSED, "not a message of the protocol"),
        (bytes(LIMITS.body_bytes_max + 1), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
        (b"", grpc.StatusCode.NOT_FOUND, "no model"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            infer(channel)(content)
        assert refused.value.code() == code
        assert reason in refused.value.details()
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.infer("plain", inputs(), compression_algorithm="gzip")
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/RepositoryIndex")(b"")
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_that_does_not_arrive_is_not_waited_for(engine: Engine) -> None:
    over = threading.Event()

    def never() -> Iterator[bytes]:
        over.wait(30)
        yield from ()

    limits = RequestLimits(body_seconds_max=0.05)
    with (
        grpc_listening(engine, limits) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as slow:
            call(never())
        over.set()
        with pytest.raises(grpc.RpcError) as empty:
            call(iter(()))
    assert slow.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert slow.value.details() == "the message did not arrive within 0.05 s"
    assert empty.value.code() == REFUSED


def test_what_would_be_late_is_turned_away_with_a_hint(channel: grpc.Channel) -> None:
    by_parameter = asked()
    by_parameter.parameters["timeout"].int64_param = 1  # microseconds
    with pytest.raises(grpc.RpcError) as refused:
        infer(channel)(by_parameter.SerializeToString())
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "items alone take" in refused.value.details()
    hints = dict(refused.value.trailing_metadata())
    assert hints == {"retry-after": "1", "grpc-retry-pushback-ms": "1"}


def test_the_deadline_of_a_call_is_the_querys() -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker))
    engine.start()
    ranker.go.clear()
    with (
        grpc_listening(engine) as port,
        closing(triton.InferenceServerClient(f"127.0.0.1:{port}")) as client,
    ):
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            client.infer("plain", inputs(), client_timeout=1.0)
        ranker.go.set()
        assert client.infer("plain", inputs()).as_numpy("score") == pytest.approx(SCORES)
    engine.drain()
    assert engine.num_open == 0


def test_a_ranker_that_fails_tells_no_value(caplog) -> None:
    def fail(batch: object) -> None:
        raise ValueError("secret")

    ranker = PlainRanker()
    engine = engine_of(served(ranker))
    engine.start()
    ranker.fails = fail
    with (
        grpc_listening(engine) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        infer(channel)(asked().SerializeToString())
    engine.drain()
    assert refused.value.code() == grpc.StatusCode.INTERNAL
    assert refused.value.details() == "the query could not be ranked"
    assert "secret" not in caplog.text


def test_only_health_is_open_without_the_token(engine: Engine) -> None:
    with (
        grpc_listening(engine, LIMITS, b"sesame") as port,
        closing(triton.InferenceServerClient(f"127.0.0.1:{port}")) as client,
    ):
        assert client.is_server_live()
        assert client.is_server_ready()
        for headers in (None, {"authorization": "Bearer open"}, {"authorization": "sesame"}):
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("plain", inputs(), headers=headers)
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.get_server_metadata(headers=headers)
        found = client.infer("plain", inputs(), headers={"authorization": "Bearer sesame"})
    assert found.as_numpy("score") == pytest.approx(SCORES)


def test_what_has_come_is_answered_and_no_more_is_taken() -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker))
    engine.start()
    ranker.go.clear()
    answers: list[Any] = []
    with grpc_listening(engine) as port:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        client.async_infer("plain", inputs(), lambda result, error: answers.append(result or error))
        while not engine.num_open:
            threading.Event().wait(0.001)
        drain = threading.Thread(target=engine.drain)
        drain.start()
        while engine.is_ready:
            threading.Event().wait(0.001)
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*going down"):
            client.infer("plain", inputs())
        ranker.go.set()
    drain.join(30)
    client.close()
    assert answers[0].as_numpy("score") == pytest.approx(SCORES)


def test_calls_beyond_the_limit_are_refused_and_others_are_not() -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker))
    engine.start()
    ranker.go.clear()
    with (
        grpc_listening(engine, connections_max=2) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        taken = [infer(channel).future(asked().SerializeToString()) for _ in range(2)]
        while engine.num_open < 2:
            threading.Event().wait(0.001)
        with pytest.raises(grpc.RpcError) as refused:
            infer(channel)(asked().SerializeToString())
        ranker.go.set()
        assert all(call.result() for call in taken)
        # A client may have its answer before the server has counted the call down.
        for _ in range(1000):
            with suppress(grpc.RpcError):
                assert infer(channel)(asked().SerializeToString())
                break
        else:
            pytest.fail("no call was taken after those before had ended")
    engine.drain()
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_a_call_waits_for_its_message_is_of_its_time() -> None:
    engine = engine_of(limit="p99=50ms")
    engine.start()

    def slowly() -> Iterator[bytes]:
        threading.Event().wait(0.06)
        yield asked().SerializeToString()

    with (
        grpc_listening(engine) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as late,
    ):
        channel.stream_unary(f"/{SERVICE}/ModelInfer")(slowly())
    engine.drain()
    assert late.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(late.value.trailing_metadata())["retry-after"] == "1"


def test_no_more_calls_wait_for_a_busy_loop_than_could_be_in_time(monkeypatch) -> None:
    engine = engine_of(limit="p99=50ms")
    engine.start()
    busy, go = threading.Event(), threading.Event()
    submit = engine.submit

    def slow_submit(*arguments: Any) -> Any:
        busy.set()
        assert go.wait(30)
        return submit(*arguments)

    monkeypatch.setattr(engine, "submit", slow_submit)
    with (
        grpc_listening(engine) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call, message = infer(channel), asked().SerializeToString()
        calls = [call.future(message)]
        assert busy.wait(30)
        calls += [call.future(message) for _ in range(100)]
        while sum(each.done() for each in calls) < 49:
            threading.Event().wait(0.001)
        go.set()
        codes = [each.code() for each in calls]
        assert channel.unary_unary(f"/{SERVICE}/ServerReady")(b"", timeout=30)
    engine.drain()
    assert 49 <= codes.count(grpc.StatusCode.CANCELLED) < 101
    late = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert set(codes) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.OK, late}


def test_overload_without_deadlines_is_refused_with_a_hint_and_nothing_is_lost() -> None:
    ranker = PlainRanker()
    # Four such queries fill the queue.
    engine = engine_of(served(ranker), queue_items_max=4 * len(COLUMNS["movie"]))
    engine.start()
    message = asked().SerializeToString()
    with grpc_listening(engine) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ranker.go.clear()
        calls = [infer(channel).future(message) for _ in range(30)]
        while sum(call.done() for call in calls) < 26:
            threading.Event().wait(0.001)
        refused = [call for call in calls if call.done()]
        ranker.go.set()
        assert len([call.result(30) for call in calls if call not in refused]) == 4
    engine.drain()
    for call in refused:
        assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(call.trailing_metadata()).keys() >= {"retry-after", "grpc-retry-pushback-ms"}
    assert engine.stats.shed == {"queue_full": 26}


def test_a_port_that_somebody_has_is_refused(port: int) -> None:
    with (
        pytest.raises(RequestError, match=f"--grpc-port: cannot listen on 127.0.0.1:{port}"),
        hold_grpc_port(ServerConfig(grpc_port=port)),
    ):
        pass
    with pytest.raises(RequestError, match="--grpc-port: got 70000"):
        ServerConfig(grpc_port=70_000)


FORKS = """
import asyncio, os
from tailrank.serving.grpc_library import grpc
async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    nursery = os.fork()
    if nursery == 0:
        os.closerange(3, 1024)
        worker = os.fork()
        if worker == 0:
            os._exit(7)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) % 256)
    print(os.waitstatus_to_exitcode(os.waitpid(nursery, 0)[1]))
    await server.stop(0)
asyncio.run(main())
"""


def test_processes_that_are_forked_while_it_serves_live() -> None:
    # gRPC's own handlers of forks would end them: a nursery that died was never replaced.
    words = [sys.executable, "-c", FORKS]
    found = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout == "7\n"


def test_random_messages_are_answered_or_refused(channel, client) -> None:
    rng = np.random.default_rng(7)
    call, good = infer(channel), asked().SerializeToString()
    known = {REFUSED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}
    codes: set[grpc.StatusCode] = set()
    for _ in range(20):
        waiting = [call.future(spoiled(good, rng)) for _ in range(100)]
        for each in waiting:
            codes.add(each.code())
            assert each.code() == grpc.StatusCode.OK or each.details()
    assert codes <= known | {grpc.StatusCode.OK}
    assert {grpc.StatusCode.OK, REFUSED} <= codes
    assert client.infer("plain", inputs()).as_numpy("score") == pytest.approx(SCORES)


def spoiled(good: bytes, rng: np.random.Generator) -> bytes:
    """A good message with some bytes changed, or fields, or its end missing."""
    kind = rng.integers(4)
    if kind == 0:
        message = ModelInferRequest.FromString(good)
        tensor = message.inputs[rng.integers(len(message.inputs))]
        place = rng.integers(3)
        if place == 0:
            tensor.shape[:] = rng.integers(-2, 5, rng.integers(5)).tolist()
        elif place == 1:
            tensor.datatype = str(rng.choice(["INT8", "UINT64", "FP16", "BOOL", "BYTES", "X"]))
        else:
            message.raw_input_contents[rng.integers(7)] = rng.bytes(rng.integers(40))
        return message.SerializeToString()
    broken = bytearray(good)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(broken)))
        if kind == 1:
            broken[at] = int(rng.integers(256))
        elif kind == 2:
            broken[at:at] = rng.bytes(rng.integers(1, 9))
        else:
            del broken[at : at + int(rng.integers(1, 60))]
    return bytes(broken)
