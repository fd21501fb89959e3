"""The on-disk format of a trained model.

    model.json           architecture, features, tables, precision, training metrics, sha256 of the
                         two others; written last, so that a folder with it is whole
    weights.safetensors  dense layers, by parameter name, in floats: `int8` keeps the trained fp32,
                         of which a ranker makes codes as it packs them
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
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.files import missing_file, replace_text
from tailrank.inference.precision import Precision
from tailrank.inference.table_file import ByteProgress, read_tables, write_tables
from tailrank.kernels.row_formats import FLOATS
from tailrank.models import ModelConfig, RankingModel, config_from_dict
from tailrank.models.registry import config_to_dict, num_dense_parameters

FORMAT_VERSION = 1
MODEL_FILE, WEIGHTS_FILE, TABLES_FILE = "model.json", "weights.safetensors", "tables.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """What `model.json` says.

    Args:
        config: architecture and sizes.
        precision: number formats.
        training: metrics and settings of the training run, free-form JSON.
        quality_gate: figures of the gate that the precision passed; empty for a trained model.
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
    progress: ByteProgress = lambda done, total: None,
) -> None:
    """Write `model` into the folder `path`, which exists.

    Args:
        path: folder; call inside `core.files.replace_directory` to have it whole or absent.
        model: its weights are converted to `precision` on the way.
        training: see `ArtifactRecord`.
        precision: number formats; default fp32.
        progress: told the bytes of tables written so far, and all.

    Raises:
        ConfigError: a number that the precision cannot hold.
    """
    precision = precision or Precision()
    dense_dtype = _dense_dtype(precision)
    dense = {
        name: value.detach().to(dense_dtype).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith("tables.")
    }
    save_file(dense, path / WEIGHTS_FILE)
    rows_VD = model.tables.weight_VD
    tables_digest = write_tables(path / TABLES_FILE, rows_VD, precision.rows, progress)
    record = {
        "format_version": FORMAT_VERSION,
        "model": config_to_dict(model.config),
        "precision": precision.to_dict(),
        "training": training,
        "quality_gate": {},
        "sha256": {WEIGHTS_FILE: _sha256(path / WEIGHTS_FILE), TABLES_FILE: tables_digest},
    }
    replace_text(path / MODEL_FILE, json.dumps(record, indent=2) + "\n")


def record_quality_gate(path: Path, figures: dict[str, float]) -> None:
    """Note in the artifact in folder `path` what the gate said of it."""
    file = path / MODEL_FILE
    record = json.loads(file.read_text(encoding="utf-8"))
    replace_text(file, json.dumps(record | {"quality_gate": figures}, indent=2) + "\n")


def read_record(path: Path) -> ArtifactRecord:
    """Read `model.json` alone.

    Raises:
        DataError: no artifact there, or a foreign, damaged or newer one; names file and reason.
    """
    file = path / MODEL_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(file, "train or export") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(file, f"not readable as JSON ({error})") from None
    if not isinstance(record, dict) or "format_version" not in record:
        raise DataError(file, "not a tailrank artifact (no format_version)")
    if record["format_version"] != FORMAT_VERSION:
        version = record["format_version"]
        raise DataError(file, f"format version {version!r}; this tailrank reads {FORMAT_VERSION}")
    try:
        config = config_from_dict(record["model"])
        num_dense_parameters(config)  # builds it without memory: no other sizes are sound
        return ArtifactRecord(
            config=config,
            precision=Precision(**record["precision"]),
            training=dict(record["training"]),
            quality_gate=dict(record["quality_gate"]),
            sha256=dict(record["sha256"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, ConfigError) as error:
        raise DataError(file, f"damaged: {_one_line(error)}") from None


def fill_weights(
    path: Path,
    model: RankingModel,
    record: ArtifactRecord,
    progress: ByteProgress = lambda done, total: None,
) -> None:
    """Copy the artifact's weights into `model`, in place; each file is read once.

    The model may hold its rows as they are stored or in fp32; nothing is held twice. After an
    error the model is of no use.

    Args:
        path: folder of the artifact.
        model: its dense layers are fp32.
        record: what `model.json` says.
        progress: told the bytes of tables read so far, and all.

    Raises:
        DataError: a file is missing, truncated or altered, or does not fit the model.
    """
    file = path / WEIGHTS_FILE
    try:
        content = file.read_bytes()
        _check_digest(file, hashlib.sha256(content).hexdigest(), record)
        tensors = load_tensors(content)
        # The tables are not in this file; any other missing or foreign name is an error.
        missing, foreign = model.load_state_dict(tensors, strict=False)
    except FileNotFoundError:
        raise DataError(file, "missing from the artifact") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise DataError(file, f"damaged: {_one_line(error)}") from None
    lacking = [name for name in missing if not name.startswith("tables.")]
    if lacking or foreign:
        raise DataError(file, f"does not fit the model: missing {lacking}, foreign {foreign}")
    dtype = _dense_dtype(record.precision)
    others = [name for name, value in tensors.items() if value.dtype is not dtype]
    if others:
        raise DataError(file, f"holds {others[0]} in {tensors[others[0]].dtype}; expected {dtype}")
    file, tables = path / TABLES_FILE, model.tables
    rows = record.precision.rows
    digest = read_tables(file, tables.weight_VD, rows, tables.embedding_dim, progress)
    _check_digest(file, digest, record)


def _dense_dtype(precision: Precision) -> torch.dtype:
    """What dense layers are stored in."""
    return FLOATS.get(precision.dense, torch.float32)


def _check_digest(file: Path, digest: str, record: ArtifactRecord) -> None:
    """Refuse a file whose sha256 is not the one in `model.json`."""
    if digest != record.sha256.get(file.name):
        raise DataError(file, f"damaged: its sha256 is not the one in {MODEL_FILE}")


def _one_line(error: Exception) -> str:
    """All that an error says; torch's reason stands behind the first line."""
    return " ".join(str(error).split())


def _sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
