"""The on-disk format of a trained model.

    model.json           architecture, features, tables, precision, training metrics, sha256 of the
                         two others; written last, so that a folder with it is whole
    weights.safetensors  dense layers, by parameter name
    tables.safetensors   `weight`: all tables stacked in the order of the specification, (V, D), or
                         (V, K) bytes of quantised rows, see `kernels/row_formats.py`

Never pickle, never TorchScript. Same artifact on CPU and GPU.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.files import replace_text
from tailrank.inference.precision import Precision
from tailrank.kernels.row_formats import FLOATS, columns, format_of, read_rows, write_rows
from tailrank.models import ModelConfig, RankingModel, config_from_dict
from tailrank.models.registry import config_to_dict

FORMAT_VERSION = 1
MODEL_FILE, WEIGHTS_FILE, TABLES_FILE = "model.json", "weights.safetensors", "tables.safetensors"
_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """What `model.json` says.

    Args:
        config: architecture and sizes.
        precision: number formats.
        training: metrics and settings of the training run, free-form JSON.
        quality_gate: figures of the gate that the precision passed; empty for fp32.
        sha256: file name → hex digest.
    """

    config: ModelConfig
    precision: Precision
    training: dict[str, Any]
    quality_gate: dict[str, float]
    sha256: dict[str, str]


def save_artifact(
    path: Path,
    model: RankingModel,
    *,
    training: dict[str, Any],
    precision: Precision | None = None,
    quality_gate: dict[str, float] | None = None,
) -> None:
    """Write `model` into the folder `path`, which exists.

    Args:
        path: folder; call inside `core.files.replace_directory` to have it whole or absent.
        model: its weights are converted to `precision` on the way.
        training: see `ArtifactRecord`.
        precision: number formats; default fp32.
        quality_gate: see `ArtifactRecord`.
    """
    precision = precision or Precision()
    dense_dtype = FLOATS[precision.dense]
    dense = {
        name: value.detach().to(dense_dtype).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith("tables.")
    }
    save_file(dense, path / WEIGHTS_FILE)
    rows_VD = model.tables.weight_VD.detach()
    save_file({"weight": write_rows(rows_VD, precision.rows)}, path / TABLES_FILE)
    record = {
        "format_version": FORMAT_VERSION,
        "model": config_to_dict(model.config),
        "precision": precision.to_dict(),
        "training": training,
        "quality_gate": quality_gate or {},
        "sha256": {name: _sha256(path / name) for name in (WEIGHTS_FILE, TABLES_FILE)},
    }
    replace_text(path / MODEL_FILE, json.dumps(record, indent=2) + "\n")


def read_record(path: Path) -> ArtifactRecord:
    """Read `model.json` alone.

    Raises:
        DataError: no artifact there, or a foreign, damaged or newer one; names file and reason.
    """
    file = path / MODEL_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(path, f"no artifact here: {MODEL_FILE} is missing") from None
    except (OSError, ValueError) as error:
        raise DataError(file, f"not readable as JSON ({error})") from None
    if not isinstance(record, dict) or "format_version" not in record:
        raise DataError(file, "not a tailrank artifact (no format_version)")
    if record["format_version"] != FORMAT_VERSION:
        version = record["format_version"]
        raise DataError(file, f"format version {version!r}; this tailrank reads {FORMAT_VERSION}")
    try:
        return ArtifactRecord(
            config=config_from_dict(record["model"]),
            precision=Precision(**record["precision"]),
            training=dict(record["training"]),
            quality_gate=dict(record["quality_gate"]),
            sha256=dict(record["sha256"]),
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise DataError(file, f"damaged: {error}") from None


def check_files(path: Path, record: ArtifactRecord) -> None:
    """Compare the weight files with the digests in `model.json`.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    for name in (WEIGHTS_FILE, TABLES_FILE):
        file = path / name
        if not file.is_file():
            raise DataError(file, "missing from the artifact")
        if _sha256(file) != record.sha256.get(name):
            raise DataError(file, f"damaged: its sha256 is not the one in {MODEL_FILE}")


def fill_weights(path: Path, model: RankingModel, precision: Precision) -> None:
    """Copy the artifact's weights into `model`, in place and block by block.

    The model may hold its rows as they are stored or as floats; nothing is held twice.

    Args:
        path: folder of the artifact.
        model: its dense layers are fp32.
        precision: number formats of the artifact.

    Raises:
        DataError: a file is unreadable or does not fit the model.
    """
    file = path / WEIGHTS_FILE
    try:
        with safe_open(file, framework="pt") as tensors:
            dense = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        # The tables are not in this file; any other missing or foreign name is an error.
        missing, foreign = model.load_state_dict(dense, strict=False)
        lacking = [name for name in missing if not name.startswith("tables.")]
        if lacking or foreign:
            raise DataError(file, f"does not fit the model: missing {lacking}, foreign {foreign}")
        file = path / TABLES_FILE
        with safe_open(file, framework="pt") as tensors, torch.no_grad():
            stored = tensors.get_slice("weight")
            weight_VK, dim = model.tables.weight_VD, model.tables.embedding_dim
            shape, wanted = (
                tuple(stored.get_shape()),
                (
                    weight_VK.shape[0],
                    columns(precision.rows, dim),
                ),
            )
            if shape != wanted:
                raise DataError(file, f"tables of shape {shape}; expected {wanted}")
            as_stored = format_of(weight_VK, dim) == precision.rows
            for first in range(0, shape[0], _CHUNK_ROWS):
                block_VK = stored[first : first + _CHUNK_ROWS]
                weight_VK[first : first + _CHUNK_ROWS] = (
                    block_VK if as_stored else read_rows(block_VK, precision.rows, dim)
                )
    except (SafetensorError, RuntimeError, OSError) as error:
        raise DataError(file, f"damaged: {str(error).splitlines()[0]}") from None


def _sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
