"""What `/v2/…`, the Open Inference Protocol, takes and gives, as an OpenAPI document has it.

Knows no transport.
"""

from __future__ import annotations

from typing import Any, Literal

from tailrank.serving.model import ServedModel
from tailrank.serving.open_inference import HEADER_LENGTH
from tailrank.serving.rank_request import RequestLimits
from tailrank.serving.tensor_data import BYTES, DTYPES, SHAPE_MAX
from tailrank.serving.tensors import inputs_of, outputs_of

_JSON, _BINARY = "application/json", "application/octet-stream"
_TEXT: dict[str, Any] = {"type": "string"}
_YES: dict[str, Any] = {"type": "boolean"}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
_MODEL = "/v2/models/{name}"
Schema = dict[str, Any]
Changes = Literal["none", "by name", "any in a folder"]
"""Which models clients may have served: none, the same read again, or any in a folder of models."""


def v2_paths(model: ServedModel, limits: RequestLimits, changes: Changes) -> Schema:
    """The paths.

    Args:
        model: that is asked.
        limits: what a client may ask for.
        changes: which models clients may have served.
    """
    name, version = _place("name", model.name), _place("version", model.version)
    paths: Schema = {
        "/v2": {"get": _get("What runs", _object(name=_TEXT, version=_TEXT, extensions=_list()))},
        "/v2/health/live": {"get": _health("Whether the workers run", "live")},
        "/v2/health/ready": {"get": _health("Whether queries are taken", "ready")},
    }
    for path, places in ((_MODEL, [name]), (f"{_MODEL}/versions/{{version}}", [name, version])):
        unknown = {"404": json_response("It is not served", _ERROR)}
        ready = _health("Whether it is served, and queries are taken", "ready")
        ready["responses"] |= unknown
        ready["responses"]["200"] = json_response("It is", _object(name=_TEXT, ready=_YES))
        ready["responses"]["503"] = json_response("Not now", _object(name=_TEXT, ready=_YES))
        metadata = _get("The tensors of a model", _metadata())
        metadata["responses"] |= unknown
        paths[path] = {"parameters": places, "get": metadata}
        paths[f"{path}/ready"] = {"parameters": places, "get": ready}
        infer = _infer(model, limits)
        infer["responses"] |= unknown
        paths[f"{path}/infer"] = {"parameters": places, "post": infer}
    if changes != "none":
        paths["/v2/repository/index"] = {"post": _index()}
        paths["/v2/repository/models/{name}/load"] = {
            "parameters": [name],
            "post": _load(limits, changes),
        }
    return paths


def json_response(what: str, schema: Schema) -> Schema:
    """A response whose body is JSON."""
    return {"description": what, "content": {_JSON: {"schema": schema}}}


def _infer(model: ServedModel, limits: RequestLimits) -> Schema:
    """`infer`: scores, over JSON or with binary tensors behind it."""
    tensors = [info.name for info in inputs_of(model)]
    scores = [info.name for info in outputs_of(model)]
    shape = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "minItems": 1,
        "maxItems": SHAPE_MAX,
    }
    datatypes = {"type": "string", "enum": [*DTYPES, BYTES]}
    data = {"type": "array", "description": "as many as the shape has, flat or nested"}
    wanted = _object(name={"enum": scores}, parameters=_object(binary_data=_YES))
    wanted["required"] = ["name"]
    tensor = _object(name={"enum": tensors}, datatype=datatypes, shape=shape, data=data)
    body = _object(
        inputs={"type": "array", "items": tensor},
        outputs={"type": "array", "items": wanted},
        id={"type": ["string", "null"]},
        parameters=_object(
            timeout={"type": ["integer", "null"], "minimum": 1, "description": "microseconds"},
            unknown_ids={"enum": ["error", "default", None]},
            binary_data_output=_YES,
        ),
    )
    body["required"] = ["inputs"]
    body["properties"]["parameters"]["required"] = []
    wanted["properties"]["parameters"]["required"] = []
    answer = _object(
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        outputs={
            "type": "array",
            "items": _object(
                name={"enum": scores}, datatype={"const": "FP32"}, shape=shape, data=_numbers()
            ),
        },
    )
    answer["required"].remove("id")
    binary = {
        "description": (
            "JSON of as many bytes as the header says, in which a tensor has the parameter "
            "binary_data_size in place of data; then these tensors, little-endian, texts each "
            "behind their length in four bytes"
        ),
        "schema": {"type": "string", "format": "binary"},
    }
    length = {"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 0}}
    good = json_response("The scores, in the order of the items", answer)
    good["content"][_BINARY] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Score candidate items, in their order",
        "parameters": [length | {"description": "bytes of the JSON, if tensors follow it"}],
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": body}, _BINARY: binary},
        },
        "responses": {
            "200": good,
            **_faults(
                ("400", "The body is not as described; names the tensor"),
                ("408", "The body did not arrive in time"),
                ("413", f"The body is larger than {limits.body_bytes_max} bytes"),
                ("429", "The answer would come too late; Retry-After says when to try again"),
                ("500", "The query could not be ranked"),
                ("503", "The server is going down"),
            ),
        },
    }


def _index() -> Schema:
    row = _object(name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)
    what = "What is served"
    return {
        "summary": what,
        "responses": {"200": json_response(what, {"type": "array", "items": row})},
    }


def _load(limits: RequestLimits, changes: Changes) -> Schema:
    path = {"type": ["string", "null"], "minLength": 1}
    parameters = _object(**({"path": path} if changes == "any in a folder" else {}))
    body = _object(parameters=parameters)
    for each in (parameters, body):
        each |= {"required": [], "additionalProperties": False}
    return {
        "summary": "Serve a model as it is now, or another one, between two queries",
        "requestBody": {"content": {_JSON: {"schema": body}}},
        "responses": {
            "200": json_response("It serves", _object(name=_TEXT, version=_TEXT)),
            **_faults(
                ("400", "It cannot serve in place of the one before; says why"),
                ("403", "Only with a token, or on this machine"),
                ("404", "No model of that name is served"),
                ("408", "The body did not arrive in time"),
                ("409", "Another one is being loaded"),
                ("413", f"The body is larger than {limits.body_bytes_max} bytes"),
                ("500", "It could not be loaded"),
                ("503", "The server is going down"),
            ),
        },
    }


def _metadata() -> Schema:
    shape = {"type": "array", "items": {"type": "integer"}}
    tensor = _object(name=_TEXT, datatype=_TEXT, shape=shape)
    tensors = {"type": "array", "items": tensor}
    return _object(name=_TEXT, versions=_list(), platform=_TEXT, inputs=tensors, outputs=tensors)


def _get(what: str, schema: Schema) -> Schema:
    return {"summary": what, "responses": {"200": json_response(what, schema)}}


def _health(what: str, key: str) -> Schema:
    schema = _object(**{key: _YES})
    return {
        "summary": what,
        "responses": {"200": json_response("Yes", schema), "503": json_response("No", schema)},
    }


def _faults(*told: tuple[str, str]) -> Schema:
    return {status: json_response(what, _ERROR) for status, what in told}


def _place(name: str, value: str) -> Schema:
    """A part of a path, and the one value that is not a 404."""
    return {"name": name, "in": "path", "required": True, "schema": {"enum": [value]}}


def _object(**properties: Schema) -> Schema:
    """An object that has these."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list() -> Schema:
    return {"type": "array", "items": _TEXT}


def _numbers() -> Schema:
    return {"type": "array", "items": {"type": "number"}}
