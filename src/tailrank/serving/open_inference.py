"""The Open Inference Protocol v2 over HTTP, with its binary tensor extension.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
extension_binary_data.md: a body is JSON, or JSON (as many bytes as the header
`Inference-Header-Content-Length` says) and after it the data of the binary tensors, little-endian,
in the order of the JSON; texts each behind their length in four bytes.

A parameter `timeout` (microseconds, as Triton has it) is the query's deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson

from tailrank.core.errors import ConfigError, RequestError
from tailrank.serving.model import ServedModel
from tailrank.serving.rank_request import RequestLimits
from tailrank.serving.tensors import (
    BYTES,
    DTYPES,
    SHAPE_MAX,
    Array,
    TensorInfo,
    check_shape,
    inputs_of,
    outputs_of,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
_KINDS: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}


class InferRequest(NamedTuple):
    """A request that was understood.

    Args:
        request_id: to be repeated; None: there was none.
        tensors: by name.
        outputs: wanted, each with whether in binary.
        deadline_ns: the time that there is; None: the server's.
    """

    request_id: str | None
    tensors: dict[str, Array]
    outputs: dict[str, bool]
    deadline_ns: int | None


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
        request_id, tensors, _outputs(asked, parameters, model), _timeout_ns(parameters)
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
    datatype = tensor.get("datatype")
    if datatype != BYTES and datatype not in DTYPES:
        raise ConfigError(f"{name}: datatype", datatype, f"{', '.join(DTYPES)} or {BYTES}")
    # An element takes a byte or more of the body, whatever its form.
    count = check_shape(name, tensor.get("shape", ()), limits.body_bytes_max)
    shape = tensor["shape"]
    size = _parameters(name, tensor).get("binary_data_size")
    if size is None:
        return _from_json(name, tensor.get("data"), datatype, count).reshape(shape), data
    if type(size) is not int or not 0 <= size <= len(data):
        raise ConfigError(f"{name}: binary_data_size", size, f"0 to {len(data)}, what is there")
    if "data" in tensor:
        raise RequestError(name, "either data or binary_data_size")
    own, rest = data[:size], data[size:]
    if datatype == BYTES:
        return _texts(name, own, count).reshape(shape), rest
    dtype = np.dtype(DTYPES[datatype])
    if size != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize}, for {count} of {datatype}"
        raise ConfigError(f"{name}: binary_data_size", size, expected)
    return np.frombuffer(own, dtype).reshape(shape), rest


def _from_json(name: str, data: object, datatype: str, count: int) -> Array:
    """Data as JSON: a list, flat or nested as the shape says."""
    if not isinstance(data, list):
        raise ConfigError(f"{name}: data", data, "a list, or binary_data_size among the parameters")
    flat = list(_leaves(data))
    if len(flat) != count:
        raise RequestError(f"{name}: data", f"{len(flat)} elements; its shape says {count}")
    kinds = (str,) if datatype == BYTES else _KINDS[np.dtype(DTYPES[datatype]).kind]
    for value in flat:
        if type(value) not in kinds:
            raise ConfigError(f"{name}: data", value, f"elements of {datatype}")
    if datatype == BYTES:
        return np.array(flat, dtype=object)
    try:
        with np.errstate(over="ignore"):  # infinite: refused where it is read
            return np.array(flat, dtype=DTYPES[datatype])
    except OverflowError:
        raise RequestError(f"{name}: data", f"beyond the range of {datatype}") from None


def _leaves(data: list[Any], depth: int = 1) -> Iterator[object]:
    for value in data:
        if isinstance(value, list) and depth < SHAPE_MAX:
            yield from _leaves(value, depth + 1)
        else:
            yield value


def _texts(name: str, data: memoryview, count: int) -> Array:
    """Texts, each behind its length."""
    found: list[str] = []
    content, place = bytes(data), 0
    while place < len(content) and len(found) <= count:
        end = place + 4 + int.from_bytes(content[place : place + 4], "little")
        if end > len(content):
            raise RequestError(name, "cut off: a text is longer than its data")
        try:
            found.append(content[place + 4 : end].decode())
        except UnicodeDecodeError:
            raise RequestError(name, "a text that is not UTF-8") from None
        place = end
    if len(found) != count:
        raise RequestError(name, f"holds other than the {count} texts that its shape says")
    return np.array(found, dtype=object)


def _outputs(
    asked: dict[str, Any], parameters: dict[str, Any], model: ServedModel
) -> dict[str, bool]:
    """Names of the outputs that are wanted, and whether in binary."""
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


def _timeout_ns(parameters: dict[str, Any]) -> int | None:
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 1:
        raise ConfigError("timeout", timeout, "whole microseconds from 1")
    return timeout * 1000
