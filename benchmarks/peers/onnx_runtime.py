"""A DLRM in ONNX Runtime: `Gather` and `ReduceSum` for each table, `Gemm` and `Relu` for layers.

ONNX has no pooled lookup. The graph is made with the `onnx` package, which is faster than what
`torch.onnx.export` makes of `nn.EmbeddingBag`. Tables are handed to the session where they lie,
instead of a file that it would map. The lower precision is the package's own dynamic quantisation
of the layers; it has none for tables that are summed.

Legend: B rows, N dense width, F tables, P ids of a bag.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from inference_cases import Prepare, ids_by_table
from tailrank.features import FeatureBatch
from tailrank.models.dlrm import DLRM

_OPSET, _IR_VERSION = 17, 9


def scorer(model: DLRM, precision: str, *, tuned: bool) -> Prepare:
    """`fp32` or `dense=int8`, on one thread; `tuned` differs by the pages of the tables alone."""
    num_tables = len(model.config.spec.tables)
    graph = dlrm_graph(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(graph, file)
        if precision == "dense=int8":
            quantized = Path(folder) / "quantized.onnx"
            quantize_dynamic(file, quantized, per_channel=True, weight_type=QuantType.QInt8)
            file = quantized
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    rows = model.tables.weight_VD.detach()
    sizes = [table.num_embeddings for table in model.config.spec.tables]
    tables = {
        f"table_{index}": ort.OrtValue.ortvalue_from_numpy(part.numpy())
        for index, part in enumerate(rows.split(sizes))
    }

    def prepare(batch: FeatureBatch) -> Callable[[], Tensor]:
        ids_FL = ids_by_table(batch, num_tables)
        inputs = {"dense": batch.item.dense_RN.numpy()}
        for index in range(num_tables):
            inputs[f"ids_{index}"] = ids_FL[index].view(batch.num_items, -1).numpy()
        values = {name: ort.OrtValue.ortvalue_from_numpy(v) for name, v in inputs.items()} | tables

        def call() -> Tensor:
            # The values alias `inputs`, which therefore live as long as the call.
            assert inputs
            return torch.from_numpy(session.run_with_ort_values(["score"], values)[0].numpy())

        return call

    return prepare


def dlrm_graph(model: DLRM) -> onnx.ModelProto:
    """The model as ONNX; its tables are inputs, its layers are inside."""
    assert model.config.interaction == "cat"
    spec = model.config.spec
    nodes, constants = [], [numpy_helper.from_array(np.array([1]), "bags")]
    inputs = [helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["B", None])]
    for index, table in enumerate(spec.tables):
        shape = [table.num_embeddings, table.embedding_dim]
        rows, ids, looked_up = f"table_{index}", f"ids_{index}", f"rows_{index}"
        inputs.append(helper.make_tensor_value_info(rows, TensorProto.FLOAT, shape))
        inputs.append(helper.make_tensor_value_info(ids, TensorProto.INT64, ["B", "P"]))
        nodes.append(helper.make_node("Gather", [rows, ids], [looked_up]))
        bag = [looked_up, "bags"], [f"bag_{index}"]
        nodes.append(helper.make_node("ReduceSum", *bag, keepdims=0))
    bottom = add_stack(nodes, constants, model.bottom, "dense", "bottom")
    pooled = [f"bag_{index}" for index in range(len(spec.tables))]
    nodes.append(helper.make_node("Concat", [bottom, *pooled], ["joined"], axis=1))
    logits = add_stack(nodes, constants, model.top, "joined", "top")
    nodes.append(helper.make_node("Sigmoid", [logits], ["probability"]))
    nodes.append(helper.make_node("Flatten", ["probability"], ["score"], axis=1))
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B", 1])
    graph = helper.make_graph(nodes, "dlrm", inputs, [score], constants)
    opset = [helper.make_opsetid("", _OPSET)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
    onnx.checker.check_model(made)
    return made


def add_stack(
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    layers: nn.Sequential,
    name: str,
    prefix: str,
) -> str:
    """Append the layers on the value `name`; the name of their output."""
    for place, module in enumerate(layers):
        output = f"{prefix}_{place}"
        if isinstance(module, nn.Linear):
            weight, bias = f"{output}_weight", f"{output}_bias"
            constants.append(numpy_helper.from_array(module.weight.detach().numpy(), weight))
            constants.append(numpy_helper.from_array(module.bias.detach().numpy(), bias))
            nodes.append(helper.make_node("Gemm", [name, weight, bias], [output], transB=1))
        else:
            nodes.append(helper.make_node("Relu", [name], [output]))
        name = output
    return name
