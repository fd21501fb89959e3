"""The Open Inference Protocol v2 over gRPC: its messages as queries, and answers as its messages.

Source: kserve/open-inference-protocol, specification/protocol/inference_grpc.md. Tensors come as
raw bytes or as typed contents, all of a request alike, and scores go out in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailrank.core.errors import RequestError
from tailrank.serving.grpc_messages import ModelInferResponse, message
from tailrank.serving.model import ServedModel
from tailrank.serving.open_inference import (
    InferRequest,
    describe_model,
    timeout_ns,
    wanted_outputs,
)
from tailrank.serving.rank_request import RequestLimits, wants_default
from tailrank.serving.tensor_data import (
    BYTES,
    Array,
    as_text,
    check_datatype,
    check_shape,
    from_list,
    from_raw,
)

RAW = "raw_input_contents"
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Where typed contents of a data type are; FP16 has none."""


def read_infer(asked: Any, model: ServedModel, limits: RequestLimits) -> InferRequest:
    """Read a request for inference.

    Args:
        asked: the message.
        model: that is asked.
        limits: what a client may ask for.

    Raises:
        RequestError, ConfigError: it is not in the form; names the place.
    """
    raw = asked.raw_input_contents
    if len(raw) and len(raw) != len(asked.inputs):
        reason = f"{len(raw)} of them; there are {len(asked.inputs)} inputs"
        raise RequestError(RAW, reason)
    tensors: dict[str, Array] = {}
    for place, tensor in enumerate(asked.inputs):
        if tensor.name in tensors:
            raise RequestError(tensor.name, "there twice among the inputs")
        own = raw[place] if len(raw) else None
        tensors[tensor.name] = _tensor(tensor, own, limits)
    parameters = _parameters(asked.parameters)
    wanted = [
        {"name": output.name, "parameters": _parameters(output.parameters)}
        for output in asked.outputs
    ]
    outputs = wanted_outputs({"outputs": wanted}, parameters, model)
    return InferRequest(
        request_id=asked.id or None,
        tensors=tensors,
        outputs=dict.fromkeys(outputs, bool(len(raw))),
        deadline_ns=timeout_ns(parameters),
        unknown_default=wants_default(parameters.get("unknown_ids")),
    )


def infer_response(request: InferRequest, model: ServedModel, scores: Mapping[str, Array]) -> Any:
    """The answer."""
    answer = ModelInferResponse(
        model_name=model.name, model_version=model.version, id=request.request_id or ""
    )
    for name, is_raw in request.outputs.items():
        array = scores[name].astype("<f4", copy=False)
        output = answer.outputs.add(name=name, datatype="FP32", shape=array.shape)
        if is_raw:
            answer.raw_output_contents.append(array.tobytes())
        else:
            output.contents.fp32_contents.extend(array)
    return answer


def metadata_response(model: ServedModel) -> Any:
    """The metadata of a model."""
    return message("ModelMetadataResponse")(**describe_model(model))


def _tensor(tensor: Any, raw: bytes | None, limits: RequestLimits) -> Array:
    """A tensor of the request; `raw`: its bytes, where they are apart."""
    name = tensor.name
    datatype, shape = check_datatype(name, tensor.datatype), list(tensor.shape)
    # An element takes a byte or more of the message, whatever its form.
    check_shape(name, shape, limits.body_bytes_max)
    if raw is not None:
        if tensor.HasField("contents"):
            raise RequestError(name, f"either contents or {RAW}")
        return from_raw(name, datatype, shape, raw, RAW)
    field = _CONTENTS.get(datatype)
    if field is None:
        raise RequestError(name, f"{datatype} has no typed contents; expected {RAW}")
    values = list(getattr(tensor.contents, field))
    if datatype == BYTES:
        values = [as_text(name, value) for value in values]
    return from_list(name, datatype, shape, values, field)


def _parameters(given: Any) -> dict[str, Any]:
    """Parameters as JSON has them."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
        for name, value in given.items()
    }
