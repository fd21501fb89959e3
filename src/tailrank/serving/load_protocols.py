"""What a load test may speak: how requests of a query are made, by the protocol's name.

Each of them asks once first, so that a request that the server does not understand is an error and
no load.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from tailrank.core.errors import RequestError
from tailrank.core.query import Query
from tailrank.serving.load_bodies import BodyPool
from tailrank.serving.load_client import RequestFor, Transport
from tailrank.serving.load_http import HttpConnector
from tailrank.serving.load_queries import Ids, Schema
from tailrank.serving.load_target import LoadTarget, Pieces
from tailrank.serving.load_tensors import TensorPool, binary_body
from tailrank.serving.open_inference import HEADER_LENGTH
from tailrank.serving.openapi import MODEL


class Spoken(NamedTuple):
    """How a server is asked.

    Args:
        request_for: the request of a query, whose payload is a random number.
        transport: what carries it.
    """

    request_for: RequestFor
    transport: Transport


def _json(
    target: LoadTarget, document: Schema, items_max: int, seed: int, ids: Ids | None
) -> Spoken:
    """`POST /v1/rank`."""
    path, pool = "/v1/rank", BodyPool(document, items_max, seed, ids)
    target.try_once(path, pool.body(0, 1))
    return Spoken(
        lambda query: target.request(path, pool.body(_choice(query), query.num_items)),
        partial(HttpConnector, target),
    )


def _binary(
    target: LoadTarget, document: Schema, items_max: int, seed: int, ids: Ids | None
) -> Spoken:
    """The Open Inference Protocol over HTTP, with its binary tensors."""
    path = f"{_model_path(document)}/infer"
    pool = _tensors(target, document, items_max, seed, ids)

    def request(choice: int, num_items: int) -> tuple[Pieces, dict[str, str]]:
        body, header_length = binary_body(pool.tensors(choice, num_items))
        content = {"Content-Type": "application/octet-stream"}
        return body, {**content, HEADER_LENGTH: str(header_length)}

    target.try_once(path, *request(0, 1))
    return Spoken(
        lambda query: target.request(path, *request(_choice(query), query.num_items)),
        partial(HttpConnector, target),
    )


def _grpc(
    target: LoadTarget, document: Schema, items_max: int, seed: int, ids: Ids | None
) -> Spoken:
    """The Open Inference Protocol over gRPC."""
    from tailrank.serving.load_grpc import GrpcConnector, GrpcTarget, infer_request

    spoken_at, model = GrpcTarget.of(target, document), _model(document)
    pool = _tensors(target, document, items_max, seed, ids)
    spoken_at.try_once(infer_request(model, pool.tensors(0, 1)))
    return Spoken(
        lambda query: [infer_request(model, pool.tensors(_choice(query), query.num_items))],
        partial(GrpcConnector, spoken_at),
    )


PROTOCOLS = {"json": _json, "binary": _binary, "grpc": _grpc}


def _tensors(
    target: LoadTarget, document: Schema, items_max: int, seed: int, ids: Ids | None
) -> TensorPool:
    return TensorPool(document, target.read(_model_path(document)), items_max, seed, ids)


def _choice(query: Query) -> int:
    assert isinstance(query.payload, int)
    return query.payload


def _model_path(document: Schema) -> str:
    return f"/v2/models/{quote(_model(document), safe='')}"


def _model(document: Schema) -> str:
    """The model that the Open Inference Protocol asks."""
    try:
        return str(document["info"][MODEL]["name"])
    except (KeyError, TypeError):
        raise RequestError("--url", "its /openapi.json does not name its model") from None
