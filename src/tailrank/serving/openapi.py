"""What the HTTP interface takes and gives: an OpenAPI document, made for the model.

Knows no transport.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from tailrank import __version__
from tailrank.data.row_encoder import REFUSED, CategoryColumn, NumberColumns
from tailrank.features import Side
from tailrank.serving.model import ServedModel
from tailrank.serving.openapi_v2 import Changes, json_response, v2_paths
from tailrank.serving.rank_request import DEADLINE_MS_MAX, RequestLimits, columns_of

CATEGORIES = "x-categories"
"""Where the document says what a schema cannot: which categories there are, and how many of them a
row holds, so that a load test can ask for such."""
MODEL = "x-model"
"""Where it names the model of the Open Inference Protocol, which `/v2/models/NAME` asks."""
GRPC_PORT = "x-grpc-port"
"""Where it says on which port of the same host gRPC is spoken, if it is."""
_JSON = "application/json"
_SCALARS = [{"type": kind} for kind in ("string", "number", "boolean")]
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["reason"],
            "properties": {
                "reason": {"type": "string"},
                "field": {"type": "string"},
                "code": {"type": "string"},
                "retry_after_ms": {"type": "number"},
            },
        }
    },
}


def describe(
    models: Sequence[ServedModel],
    limits: RequestLimits,
    *,
    with_token: bool,
    grpc_port: int | None = None,
    changes: Changes = "none",
) -> dict[str, Any]:
    """The document.

    Args:
        models: whose features requests hold; the last one scores the answer.
        limits: what a client may ask for.
        with_token: whether clients have to bring one.
        grpc_port: where gRPC is spoken; None: nowhere.
        changes: which models clients may have served.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"tailrank: {models[-1].name}",
            "version": __version__,
            MODEL: {"name": models[-1].name, "version": models[-1].version},
        },
        "paths": {
            "/v1/rank": {"post": _rank(models, limits)},
            "/health/live": {"get": _health("the workers run")},
            "/health/ready": {"get": _health("queries are taken")},
            "/metrics": {"get": _plain("Prometheus metrics", "text/plain")},
            "/v1/stats": {"get": _stats()},
            "/": {"get": _plain("A page that shows /v1/stats every second", "text/html")},
            "/openapi.json": {"get": _plain("this document", _JSON)},
            **v2_paths(models[-1], limits, changes),
        },
    }
    if grpc_port is not None:
        document["info"][GRPC_PORT] = grpc_port
    if with_token:
        bearer = {"type": "http", "scheme": "bearer"}
        document["components"] = {"securitySchemes": {"token": bearer}}
        document["security"] = [{"token": []}]
    return document


def _rank(models: Sequence[ServedModel], limits: RequestLimits) -> dict[str, Any]:
    row = _row(models, "item")
    columns = {
        name: {"type": "array", "items": schema, "maxItems": limits.items_max}
        for name, schema in row["properties"].items()
    }
    as_rows = {"type": "array", "items": row, "minItems": 1, "maxItems": limits.items_max}
    by_id = {side for model in models for side in model.tables}
    needs_user = columns_of(models, "user") and "user" not in by_id
    either = {"anyOf": [{"required": ["items"]}, {"required": ["item_ids"]}]}
    body = {
        "type": "object",
        "required": [
            *(["items"] if "item" not in by_id else []),
            *(["user"] if needs_user else []),
        ],
        **(either if "item" in by_id else {}),
        "additionalProperties": False,
        "properties": {
            "user": _row(models, "user"),
            "items": {"oneOf": [as_rows, {**row, "properties": columns}]},
            "item_ids": {
                "type": ["array", "null"],
                "items": {"type": ["string", "integer"]},
                "minItems": 1,
            },
            **_by_id(by_id),
            "top_k": {"type": ["integer", "null"], "minimum": 1},
            "deadline_ms": {
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
                "maximum": DEADLINE_MS_MAX,
            },
        },
    }
    return {
        "summary": "Rank candidate items for a user, best first",
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
        "responses": {
            "200": json_response("The items with their scores, best first", _answer()),
            **{
                status: json_response(what, _ERROR)
                for status, what in (
                    ("400", "The body is not as described; names the field"),
                    ("408", "The body did not arrive in time"),
                    ("413", f"The body is larger than {limits.body_bytes_max} bytes"),
                    ("429", "The answer would come too late; says when to try again"),
                    ("500", "The query could not be ranked"),
                    ("503", "The server is going down"),
                )
            },
        },
    }


def _by_id(sides: Set[Side]) -> dict[str, Any]:
    """What stands for features that lie in tables."""
    found: dict[str, Any] = {}
    if "user" in sides:
        found["user_id"] = {"type": ["string", "integer"], "description": "stands for user"}
    if sides:
        found["unknown_ids"] = {"enum": ["error", "default"]}
    return found


def _row(models: Sequence[ServedModel], side: Side) -> dict[str, Any]:
    """The features of one row."""
    columns = columns_of(models, side)
    return {
        "type": "object",
        "required": list(columns),
        "additionalProperties": False,
        "properties": {name: _value(source) for name, source in columns.items()},
    }


def _value(source: CategoryColumn | NumberColumns) -> dict[str, Any]:
    if isinstance(source, CategoryColumn):
        one: list[dict[str, Any]] = list(_SCALARS)
        takes_missing = True
        if source.num_values is not None:
            one = [{"type": "integer", "minimum": 0, "maximum": source.num_values - 1}]
            takes_missing = source.is_list or source.ids([None])[0] != REFUSED
        return {
            "anyOf": [
                *one,
                *([{"type": "null"}] if takes_missing else []),
                {"type": "array", "items": {"anyOf": one}},
            ],
            "description": source.allowed,
            CATEGORIES: {
                "whole_numbers_below": source.num_values,
                "examples": list(source.known),
                "mean_length": source.mean_length,
                "is_list": source.is_list,
            },
        }
    if len(source.columns) < source.width:
        size = {"minItems": source.width, "maxItems": source.width}
        return {"type": "array", "items": {"type": "number"}, **size, "description": source.allowed}
    kind = ["number", "boolean", "null"] if source.optional else ["number", "boolean"]
    return {"type": kind, "description": source.allowed}


def _answer() -> dict[str, Any]:
    item = {
        "type": "object",
        "required": ["id", "score"],
        "properties": {
            "id": {"type": ["string", "integer"]},
            "score": {"type": "number"},
            "scores": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    }
    parts = ("queue", "compute", "total")
    timing = {"type": "object", "properties": {name: {"type": "number"} for name in parts}}
    stage = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "model_version": {"type": "string"},
            "items": {"type": "integer"},
            "timing_ms": timing,
        },
    }
    return {
        "type": "object",
        "required": ["items", "model", "model_version", "timing_ms"],
        "properties": {
            "items": {"type": "array", "items": item},
            "model": {"type": "string"},
            "model_version": {"type": "string"},
            "timing_ms": timing,
            "stages": {"type": "array", "items": stage},
        },
    }


def _stats() -> dict[str, Any]:
    number: dict[str, Any] = {"type": "number"}
    integer: dict[str, Any] = {"type": "integer"}
    by_name = {"type": "object", "additionalProperties": number}
    # A percentile and its bounds at 95 % confidence, null where too few queries set none.
    bounded = {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 3, "maxItems": 3}
    percentiles = {"type": "object", "additionalProperties": bounded}
    stage = {
        "type": "object",
        "properties": {
            "stage": {"type": "string"},
            "items_per_s": number,
            "queue_ms": {"type": ["number", "null"]},
            "compute_ms": {"type": ["number", "null"]},
        },
    }
    rates = ("queries", "items", "late", "failed", "batches")
    second = {
        "type": "object",
        "required": ["at"],
        "properties": {
            "at": {"type": "number", "description": "its end, in seconds of Unix time"},
            **dict.fromkeys([f"{name}_per_s" for name in rates], number),
            "shed_per_s": by_name,
            "latency_ms": percentiles,
            "queueing_ms": percentiles,
            **dict.fromkeys(("queries_in_flight", "items_in_flight", "queue_depth"), integer),
            "batch_sizes": {"type": "array", "items": integer, "description": "by batch_bounds"},
            "batch_items": {"type": ["number", "null"]},
            "workers_busy_fraction": number,
            "cores_busy_fraction": by_name,
            "stages": {"type": "array", "items": stage},
        },
    }
    answer = {
        "type": "object",
        "required": ["at", "ready", "sla", "totals", "seconds"],
        "properties": {
            "at": number,
            "ready": {"type": "boolean"},
            "sla": {"type": "object", "properties": {"percentile": number, "limit_ms": number}},
            "totals": {"type": "object"},
            "seconds": {"type": "array", "items": second},
        },
    }
    since = {
        "name": "since",
        "in": "query",
        "description": "only seconds that ended after this one",
        "schema": {"type": "number", "default": 0},
    }
    return {
        "summary": "What runs, its totals, and the last minutes second by second",
        "parameters": [since],
        "responses": {
            "200": json_response("The state of the server", answer),
            "400": json_response("`since` is no number", _ERROR),
        },
    }


def _health(what: str) -> dict[str, Any]:
    schema = {"type": "object", "additionalProperties": {"type": "boolean"}}
    return {
        "summary": f"Whether {what}",
        "responses": {"200": json_response("Yes", schema), "503": json_response("No", schema)},
    }


def _plain(what: str, media: str) -> dict[str, Any]:
    return {"summary": what, "responses": {"200": {"description": what, "content": {media: {}}}}}
