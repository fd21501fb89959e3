"""Models as ONNX files, which need the extra `[onnx]`: written with torch, read with ONNX Runtime.

Legend: B item rows, T tasks.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from tailrank.core.errors import BackendUnavailable, RequestError
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.inference.export_form import OUTPUT, Scorer, named_tensors
from tailrank.models.memory import format_bytes

try:
    import onnx_ir
    import onnxruntime
    import onnxscript  # noqa: F401  # torch's exporter uses it
except ImportError as error:
    raise BackendUnavailable(f"ONNX: {error}; pip install 'tailrank[onnx]'") from None

from tailrank.inference.onnx_operators import TRANSLATIONS

DESCRIPTION = "tailrank"
# A protobuf message, which an ONNX file is, ends there; the rest of it is small.
_WEIGHT_BYTES_MAX = (1 << 31) - (1 << 24)


def write_onnx(program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
    """Write an ONNX file; rows and layers are inside.

    Args:
        program: the model, see `capture`.
        path: of the file.
        description: goes into its metadata under the key `tailrank`, see `describe`.

    Raises:
        RequestError: the weights do not fit into such a file.
    """
    num_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if num_bytes > _WEIGHT_BYTES_MAX:
        reason = f"a file holds 2.1 GB, and these weights are {format_bytes(num_bytes)}"
        raise RequestError("--format onnx", f"{reason}; use --format torch-export")
    inputs = description["inputs"]
    with _quiet():
        made = torch.onnx.export(
            program,
            input_names=[one["name"] for one in inputs],
            output_names=[OUTPUT],
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
        assert made is not None, "a program, unless it is told to write a file"
        made.model.metadata_props[DESCRIPTION] = json.dumps(description)
        for given, one in zip(made.model.graph.inputs, inputs, strict=True):
            assert given.name == one["name"], "the exporter keeps the order"
            given.shape = onnx_ir.Shape(one["shape"])
        for node in made.model.graph.all_nodes():
            node.metadata_props.clear()  # where the exporter found each operation
        made.save(path, external_data=False)


def onnx_scorer(path: Path) -> Scorer:
    """What scores batches through an ONNX file of ours."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    description = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    spec = FeatureSpec.from_dict(description["spec"])

    def score(batch: FeatureBatch) -> Tensor:
        tensors = named_tensors(batch, spec)
        feed = {name: tensor.numpy() for name, tensor in tensors.items()}
        return torch.from_numpy(session.run([OUTPUT], feed)[0])

    return score


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says to its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
