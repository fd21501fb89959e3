"""Requests that are wrong in seeded ways: bodies that were good, bent, and HTTP that is none.

A body is bent where its structure says it can be (a value for one of another kind, a key or element
gone, doubled or new), or in its bytes; HTTP is put together of parts that servers have fallen over.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tailrank.serving.load_bodies import BodyPool
from tailrank.serving.load_tensors import TensorPool, binary_body
from tailrank.serving.open_inference import HEADER_LENGTH
from tailrank.serving.tensor_data import DTYPES

ITEMS_MAX = 40
_LONG = "x" * 5000
_STRANGE: tuple[Callable[[], Any], ...] = (
    *(lambda value=value: value for value in (None, True, False, 0, -1, 1.5, "", "0", "a", _LONG)),
    *(lambda value=value: value for value in (2**31, 2**63, 2**64, 10**40, -(10**18), 1e308)),
    *(lambda value=value: value for value in (3.4e38, 5e-324, "\0", "\ud800", "é", "NaN", "1e9")),
    *(lambda value=value: value for value in (float("nan"), float("inf"), [[]], [None], {"a": {}})),
    list,
    dict,
    lambda: [0] * 3000,
    lambda: json.loads("[" * 400 + "]" * 400),
    lambda: {str(n): n for n in range(300)},
)
_LINES = (
    b"GET / HTTP/1.1",
    b"POST /v1/rank HTTP/1.1",
    b"PUT /v1/rank HTTP/1.1",
    b"DELETE /v2/health/live HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT x:1 HTTP/1.1",
    b"GET /v2/models/%00/ready HTTP/1.1",
    b"GET /v2/models/..%2f..%2fetc/ready HTTP/1.1",
    b"GET //////../../etc/passwd HTTP/1.1",
    b"GET /v2/models/\xff\xfe HTTP/1.1",
    b"GET /%zz HTTP/1.1",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1",
    b"GET http://[::1/ HTTP/1.1",
    b"GET http://other:99999/ HTTP/1.1",
    b"GET /metrics HTTP/9.9",
    b"GET /metrics HTTP/1.0",
    b"GET /metrics",
    b"get /metrics HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01",
    b"\0\0\0\0",
    b"",
    b"GET /v1/stats?since=-9999999999999999999999 HTTP/1.1",
    b"GET /v1/stats?since=nan&since=%ff HTTP/1.1",
    b"POST /v2/repository/models/%2e%2e/load HTTP/1.1",
    b"POST /v2/repository/index HTTP/1.1",
    b"POST /v2/models/x/versions/\t/infer HTTP/1.1",
)
_HEADERS = (
    b"Host: x",
    b"Host: a\r\nHost: b",
    b"Content-Length: -1",
    b"Content-Length: 3\r\nContent-Length: 4",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: 0x10",
    b"Content-Length: 20000000",
    b"Content-Length:",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Expect: 100-continue",
    b"Expect: nothing",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: close",
    b"Content-Encoding: gzip",
    b"Inference-Header-Content-Length: -3",
    b"Inference-Header-Content-Length: \xb2",
    b"Authorization: Bearer \xff",
    b"Range: bytes=0-,-1",
    b"no colon at all",
    b": empty",
    b" folded: x",
    b"X: \0",
    b"X: " + b"y" * 20_000,
    b"\r\n".join(b"H%d: v" % n for n in range(200)),
)
_BODIES = (
    b"",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\n",
    b"-1\r\n\r\n",
    b"5;x=\0\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n",
    b"{}",
    b"\xff" * 100,
    b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
)


class Fuzzed(NamedTuple):
    """Something to send.

    Args:
        kind: what was bent.
        raw: a request as bytes, with its headers.
        is_whole: it is sound HTTP, so that an answer has to come.
    """

    kind: str
    raw: bytes
    is_whole: bool


class Fuzzer:
    """Draws requests, for ever.

    Args:
        document: the server's /openapi.json.
        metadata: its model's, as the Open Inference Protocol gives it.
        seed: same seed, same requests.
    """

    KINDS = ("json", "tensors", "binary", "bytes", "http")

    def __init__(self, document: Mapping[str, Any], metadata: Mapping[str, Any], seed: int) -> None:
        self._random = random.Random(seed)
        self._bodies = BodyPool(document, ITEMS_MAX, seed)
        self._pool = TensorPool(document, metadata, ITEMS_MAX, seed)
        self._infer = f"/v2/models/{metadata['name']}/infer"

    def draw(self) -> Fuzzed:
        """The next one."""
        kind = self._random.choice(self.KINDS)
        if kind == "http":
            return self._http()
        path, body, headers = getattr(self, f"_{kind}")()
        lines = [f"POST {path} HTTP/1.1", "Host: fuzz", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return Fuzzed(kind, "\r\n".join([*lines, "", ""]).encode() + body, is_whole=True)

    def infer_body(self) -> tuple[bytes, int]:
        """A good body of binary tensors, and the bytes of its JSON."""
        tensors = self._pool.tensors(self._place(), self._num_items())
        pieces, header_length = binary_body(tensors)
        return b"".join(pieces), header_length

    def bend_bytes(self, body: bytes) -> bytes:
        """Some bytes of it other ones, gone, or there twice."""
        draw, bent = self._random, bytearray(body)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(bent) + 1)
            match draw.randrange(4):
                case 0:
                    bent[place : place + 1] = bytes([draw.randrange(256)])
                case 1:
                    del bent[place : place + draw.choice((1, 8, 1000))]
                case 2:
                    bent[place:place] = bent[place : place + draw.choice((1, 8, 1000))]
                case _:
                    bent[place:place] = draw.randbytes(draw.choice((1, 4, 64)))
        return bytes(bent)

    def _json(self) -> tuple[str, bytes, dict[str, str]]:
        body = json.loads(self._rank_body())
        body |= {
            key: value
            for key, value in (("top_k", 3), ("deadline_ms", 1000), ("item_ids", [1, 2]))
            if self._random.random() < 0.3
        }
        return "/v1/rank", self._written(self._bend(body)), {}

    def _tensors(self) -> tuple[str, bytes, dict[str, str]]:
        """JSON tensors, bent."""
        inputs = [
            {"name": name, "datatype": datatype, "shape": shape, "data": _elements(datatype, raw)}
            for name, datatype, shape, raw in self._pool.tensors(self._place(), self._num_items())
        ]
        return self._infer, self._written(self._bend({"id": "1", "inputs": inputs})), {}

    def _binary(self) -> tuple[str, bytes, dict[str, str]]:
        body, header_length = self.infer_body()
        head, data = body[:header_length], body[header_length:]
        if self._random.random() < 0.7:
            head = self._written(self._bend(json.loads(head)))
        else:
            data = self.bend_bytes(data)
        length = len(head) + self._random.choice((0, 0, 0, 0, 1, -1, 10**6, -(10**6)))
        return self._infer, head + data, {HEADER_LENGTH: str(length)}

    def _bytes(self) -> tuple[str, bytes, dict[str, str]]:
        if self._random.random() < 0.5:
            return "/v1/rank", self.bend_bytes(self._rank_body()), {}
        body, header_length = self.infer_body()
        return self._infer, self.bend_bytes(body), {HEADER_LENGTH: str(header_length)}

    def _http(self) -> Fuzzed:
        draw = self._random
        headers = draw.sample(_HEADERS, draw.randint(0, 4))
        raw = b"\r\n".join([draw.choice(_LINES), *headers, b"", draw.choice(_BODIES)])
        if draw.random() < 0.3:
            raw = self.bend_bytes(raw)
        if draw.random() < 0.1:
            raw = raw[: draw.randrange(len(raw) + 1)]
        return Fuzzed("http", raw, is_whole=False)

    def _rank_body(self) -> bytes:
        return b"".join(self._bodies.body(self._place(), self._num_items()))

    def _place(self) -> int:
        return self._random.randrange(2**31)

    def _num_items(self) -> int:
        return self._random.randint(1, ITEMS_MAX)

    def _bend(self, body: Any) -> Any:
        """The body with one to three changes somewhere in it."""
        for _ in range(self._random.randint(1, 3)):
            body = self._bend_once(body)
        return body

    def _bend_once(self, value: Any) -> Any:
        draw = self._random
        if isinstance(value, dict) and value and draw.random() < 0.9:
            key = draw.choice(list(value))
            match draw.randrange(6):
                case 0:
                    return {name: one for name, one in value.items() if name != key}
                case 1:
                    return value | {draw.choice(("", "x", key + "s", _LONG)): self._strange()}
                case _:
                    return value | {key: self._bend_once(value[key])}
        if isinstance(value, list) and value and draw.random() < 0.8:
            place = draw.randrange(len(value))
            match draw.randrange(6):
                case 0:
                    return value[:place] + value[place + 1 :]
                case 1:
                    return value[:place] + value[place:] * 2
                case _:
                    return [*value[:place], self._bend_once(value[place]), *value[place + 1 :]]
        return self._strange()

    def _strange(self) -> Any:
        return self._random.choice(_STRANGE)()

    def _written(self, body: Any) -> bytes:
        """As JSON, or nearly: not every reader takes NaN and lone surrogates."""
        text = json.dumps(body, ensure_ascii=self._random.random() < 0.5)
        return text.encode(errors="surrogatepass")


def _elements(datatype: str, raw: memoryview) -> list[Any]:
    """The elements of a tensor of numbers."""
    elements: list[Any] = np.frombuffer(raw, DTYPES[datatype]).tolist()
    return elements
