"""The Open Inference Protocol v2 over HTTP, with its binary tensor extension.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
extension_binary_data.md: a body is JSON, or JSON (as many bytes as the header
`Inference-Header-Content-Length` says) and after it the data of the binary tensors, little-endian,
in the order of the JSON; texts each behind their length in four bytes.

A parameter `timeout` (microseconds, as Triton has it) is the query's deadline; `unknown_ids` says
what becomes of ids that no feature table knows, as in `/v1/rank`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson

from tailrank.core.errors import ConfigError, RequestError
from tailrank.serving.model import ServedModel
from tailrank.serving.rank_request import RequestLimits, wants_default
from tailrank.serving.tensor_data import (
    BYTES,
    DTYPES,
    SHAPE_MAX,
    Array,
    check_datatype,
    check_shape,
    from_list,
    from_raw,
)
from tailrank.serving.tensors import TensorInfo, inputs_of, outputs_of

HEADER_LENGTH = "Inference-Header-Content-Length"
_KINDS: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}


class InferRequest(NamedTuple):
    """A request that was understood.

    Args:
        request_id: to be repeated; None: there was none.
        tensors: by name.
        outputs: wanted, each with whether in binary.
        deadline_ns: the time that there is; None: the server's.
        unknown_default: whether ids that no table knows have the default row.
    """

    request_id: str | None
    tensors: dict[str, Array]
    outputs: dict[str, bool]
    deadline_ns: int | None
    unknown_default: bool = False


def parse_infer(
    body: bytes, header_length: str | None, model: ServedModel, limits: RequestLimits
) -> InferRequest:
    """Read a body.

    Args:
        body: JSON, and binary data behind it.
        header_length: the header of that name: bytes of the JSON; None: all.
        model: that is asked.
        limits: what a client may ask for.

    Raises:
        RequestError, ConfigError: it is not in the form; names the place.
    """
    split = len(body)
    if header_length is not None:
        # As text first: Python reads no number of thousands of digits.
        fits = header_length.isdecimal() and len(header_length) <= len(str(split))
        if not fits or int(header_length) > split:
            raise ConfigError(HEADER_LENGTH, header_length, f"0 to {split}, the body's bytes")
        split = int(header_length)
    try:
        asked = orjson.loads(body[:split])
    except ValueError as error:
        raise RequestError("body", f"not JSON: {error}") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("inputs"), list):
        raise RequestError("body", "expected an object with a list `inputs`")
    request_id = asked.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ConfigError("id", request_id, "a text")
    parameters = _parameters("body", asked)
    tensors: dict[str, Array] = {}
    data = memoryview(body)[split:]
    for tensor in asked["inputs"]:
        name = _name("inputs", tensor)
        if name in tensors:
            raise RequestError(name, "there twice among the inputs")
        tensors[name], data = _tensor(name, tensor, data, limits)
    if len(data):
        raise RequestError("body", f"{len(data)} bytes more than its binary tensors hold")
    return InferRequest(
        request_id,
        tensors,
        wanted_outputs(asked, parameters, model),
        timeout_ns(parameters),
        wants_default(parameters.get("unknown_ids")),
    )


def infer_answer(
    request: InferRequest, model: ServedModel, scores: dict[str, Array]
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and its headers."""
    outputs, data = [], []
    for name, binary in request.outputs.items():
        array = scores[name].astype("<f4", copy=False)
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        if binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            data.append(array.tobytes())
        else:
            output["data"] = array.tolist()
        outputs.append(output)
    answer = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if request.request_id is not None:
        answer["id"] = request.request_id
    header = orjson.dumps(answer)
    if not data:
        return header, {"Content-Type": "application/json"}
    lengths = {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
    return b"".join([header, *data]), lengths


def unknown_model(model: ServedModel, name: str, version: str | None) -> str | None:
    """What to say where another model or version is asked for than the one that is served."""
    if name == model.name and version in (None, model.version):
        return None
    wanted = name if version is None else f"{name}, version {version}"
    return f"no model {wanted[:60]}; there is {model.name}, version {model.version}"


def describe_model(model: ServedModel) -> dict[str, Any]:
    """The metadata of a model."""

    def listed(tensors: list[TensorInfo]) -> list[dict[str, Any]]:
        return [{**tensor._asdict(), "shape": list(tensor.shape)} for tensor in tensors]

    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "tailrank",
        "inputs": listed(inputs_of(model)),
        "outputs": listed(outputs_of(model)),
    }


def _name(place: str, tensor: object) -> str:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise RequestError(place, "expected objects with a name")
    return name


def _parameters(place: str, record: dict[str, Any]) -> dict[str, Any]:
    parameters = record.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ConfigError(f"{place}: parameters", parameters, "an object")
    return parameters


def _tensor(
    name: str, tensor: dict[str, Any], data: memoryview, limits: RequestLimits
) -> tuple[Array, memoryview]:
    """A tensor, and the binary data behind it."""
    datatype = check_datatype(name, tensor.get("datatype"))
    # An element takes a byte or more of the body, whatever its form.
    check_shape(name, tensor.get("shape", ()), limits.body_bytes_max)
    shape = tensor["shape"]
    size = _parameters(name, tensor).get("binary_data_size")
    if size is None:
        return _from_json(name, tensor.get("data"), datatype, shape), data
    if type(size) is not int or not 0 <= size <= len(data):
        raise ConfigError(f"{name}: binary_data_size", size, f"0 to {len(data)}, what is there")
    if "data" in tensor:
        raise RequestError(name, "either data or binary_data_size")
    return from_raw(name, datatype, shape, data[:size], "binary_data_size"), data[size:]


def _from_json(name: str, data: object, datatype: str, shape: list[int]) -> Array:
    """Data as JSON: a list, flat or nested as the shape says."""
    if not isinstance(data, list):
        raise ConfigError(f"{name}: data", data, "a list, or binary_data_size among the parameters")
    flat = list(_leaves(data))
    kinds = (str,) if datatype == BYTES else _KINDS[np.dtype(DTYPES[datatype]).kind]
    if len(flat) == math.prod(shape):  # else that is what is wrong
        for value in flat:
            if type(value) not in kinds:
                raise ConfigError(f"{name}: data", value, f"elements of {datatype}")
    return from_list(name, datatype, shape, flat, "data")


def _leaves(data: list[Any], depth: int = 1) -> Iterator[object]:
    for value in data:
        if isinstance(value, list) and depth < SHAPE_MAX:
            yield from _leaves(value, depth + 1)
        else:
            yield value


def wanted_outputs(
    asked: dict[str, Any], parameters: dict[str, Any], model: ServedModel
) -> dict[str, bool]:
    """Names of the outputs that are wanted, and whether in binary.

    Args:
        asked: the request, as JSON has it.
        parameters: its own.
        model: that is asked.

    Raises:
        RequestError, ConfigError: there is no such output, or it is not given like that.
    """
    known = [output.name for output in outputs_of(model)]
    everything = parameters.get("binary_data_output") is True
    wanted = asked.get("outputs")
    if wanted is None or wanted == []:
        return dict.fromkeys(known, everything)
    if not isinstance(wanted, list):
        raise ConfigError("outputs", wanted, "a list")
    found = {}
    for output in wanted:
        name = _name("outputs", output)
        if name not in known:
            raise ConfigError("outputs", name, " or ".join(known))
        own = _parameters(name, output)
        if "classification" in own:
            raise RequestError(name, "no classification: scores only")
        found[name] = own.get("binary_data", everything) is True
    return found


def timeout_ns(parameters: dict[str, Any]) -> int | None:
    """The time that a request gives, if it does.

    Raises:
        ConfigError: it is none.
    """
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 1:
        raise ConfigError("timeout", timeout, "whole microseconds from 1")
    return timeout * 1000
