"""What the HTTP interface takes and gives: an OpenAPI document, made for the model.

Knows no transport.
"""

from __future__ import annotations

from typing import Any

from tailrank import __version__
from tailrank.data.row_encoder import CategoryColumn, NumberColumns
from tailrank.features import Side
from tailrank.serving.model import ServedModel
from tailrank.serving.rank_request import RequestLimits

_JSON = "application/json"
_SCALARS = [{"type": kind} for kind in ("string", "number", "boolean", "null")]
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


def describe(model: ServedModel, limits: RequestLimits, *, with_token: bool) -> dict[str, Any]:
    """The document.

    Args:
        model: whose features requests hold.
        limits: what a client may ask for.
        with_token: whether clients have to bring one.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"tailrank: {model.name}", "version": __version__},
        "paths": {
            "/v1/rank": {"post": _rank(model, limits)},
            "/health/live": {"get": _health("the workers run")},
            "/health/ready": {"get": _health("queries are taken")},
            "/metrics": {"get": _plain("Prometheus metrics", "text/plain")},
            "/openapi.json": {"get": _plain("this document", _JSON)},
        },
    }
    if with_token:
        bearer = {"type": "http", "scheme": "bearer"}
        document["components"] = {"securitySchemes": {"token": bearer}}
        document["security"] = [{"token": []}]
    return document


def _rank(model: ServedModel, limits: RequestLimits) -> dict[str, Any]:
    row = _row(model, "item")
    columns = {
        name: {"type": "array", "items": schema, "maxItems": limits.items_max}
        for name, schema in row["properties"].items()
    }
    as_rows = {"type": "array", "items": row, "minItems": 1, "maxItems": limits.items_max}
    by_id = model.tables
    needs_user = model.encoder.columns["user"] and "user" not in by_id
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
            "user": _row(model, "user"),
            "items": {"oneOf": [as_rows, {**row, "properties": columns}]},
            "item_ids": {"type": "array", "items": {"type": ["string", "integer"]}},
            **_by_id(model),
            "top_k": {"type": "integer", "minimum": 1},
            "deadline_ms": {"type": "number", "exclusiveMinimum": 0},
        },
    }
    return {
        "summary": "Rank candidate items for a user, best first",
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
        "responses": {
            "200": _response("The items with their scores, best first", _answer()),
            **{
                status: _response(what, _ERROR)
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


def _by_id(model: ServedModel) -> dict[str, Any]:
    """What stands for features that lie in tables."""
    found: dict[str, Any] = {}
    if "user" in model.tables:
        found["user_id"] = {"type": ["string", "integer"], "description": "stands for user"}
    if model.tables:
        found["unknown_ids"] = {"enum": ["error", "default"]}
    return found


def _row(model: ServedModel, side: Side) -> dict[str, Any]:
    """The features of one row."""
    columns = model.encoder.columns[side]
    return {
        "type": "object",
        "required": list(columns),
        "additionalProperties": False,
        "properties": {name: _value(source) for name, source in columns.items()},
    }


def _value(source: CategoryColumn | NumberColumns) -> dict[str, Any]:
    if isinstance(source, CategoryColumn):
        several = {"type": "array", "items": {"anyOf": _SCALARS}}
        return {"anyOf": [*_SCALARS, several], "description": source.allowed}
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
    return {
        "type": "object",
        "required": ["items", "model", "model_version", "timing_ms"],
        "properties": {
            "items": {"type": "array", "items": item},
            "model": {"type": "string"},
            "model_version": {"type": "string"},
            "timing_ms": timing,
        },
    }


def _health(what: str) -> dict[str, Any]:
    schema = {"type": "object", "additionalProperties": {"type": "boolean"}}
    return {
        "summary": f"Whether {what}",
        "responses": {"200": _response("Yes", schema), "503": _response("No", schema)},
    }


def _plain(what: str, media: str) -> dict[str, Any]:
    return {"summary": what, "responses": {"200": {"description": what, "content": {media: {}}}}}


def _response(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {_JSON: {"schema": schema}}}
