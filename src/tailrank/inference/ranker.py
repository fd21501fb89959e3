"""The one interface that scores, and how to get it from an artifact or a preset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.features import FeatureBatch
from tailrank.inference.arena import Arena
from tailrank.inference.arena_tables import EmbeddingBackend
from tailrank.inference.artifact import ArtifactRecord, fill_weights, read_record
from tailrank.inference.cpu import CpuRanker, place_in_arena
from tailrank.inference.dense_layers import DenseBackend
from tailrank.inference.eager import EagerRanker
from tailrank.inference.precision import Precision
from tailrank.inference.table_file import ByteProgress
from tailrank.kernels import cuda
from tailrank.kernels.row_formats import row_bytes
from tailrank.models import ModelConfig, RankingModel, build_model
from tailrank.models.memory import check_fits
from tailrank.models.registry import lookup_spec

DEVICES = ("cpu", "cuda", "eager")


class Ranker(Protocol):
    """Anything that scores a batch; safe from several threads at once."""

    device: str

    def rank(self, batch: FeatureBatch) -> Tensor:
        """Probabilities (B,), or (B, T) of several tasks, float32, in item order.

        Raises:
            ConfigError: an id is outside its table.
        """
        ...

    def describe(self) -> dict[str, object]:
        """What was chosen on this host, for the result file."""
        ...


def bytes_needed(config: ModelConfig, precision: Precision) -> int:
    """Bytes that a ranker of this model allocates for its tables."""
    return sum(
        table.num_embeddings * row_bytes(precision.rows, table.embedding_dim)
        for table in lookup_spec(config).tables
    )


def load(
    path: Path,
    *,
    device: str = "cpu",
    dense_backend: DenseBackend | None = None,
    embedding_backend: EmbeddingBackend | None = None,
    progress: ByteProgress = lambda done, total: None,
) -> tuple[Ranker, ArtifactRecord]:
    """The artifact in folder `path` as a ranker, with its record.

    Args:
        path: folder written by `save_artifact`.
        device: `cpu`, `cuda`, or `eager` for the reference.
        dense_backend: of the cpu ranker, see `CpuRanker`.
        embedding_backend: likewise.
        progress: told the bytes of tables read so far, and all.

    Raises:
        DataError: missing, damaged or foreign artifact.
        ConfigError: unknown device, or a backend for one that has no choice.
        RequestError: the tables do not fit into memory.
        BackendUnavailable: there is no such device, or it cannot run the artifact.
    """
    if device not in DEVICES:
        raise ConfigError("--device", device, " or ".join(DEVICES))
    backends = {"dense_backend": dense_backend, "embedding_backend": embedding_backend}
    for name, backend in backends.items():
        if backend is not None and device != "cpu":
            raise ConfigError(name, backend, f"None: the {device} ranker has no backend to choose")
    if device == "eager":
        model, record = load_model(path, progress)
        return EagerRanker(model), record
    if device == "cuda":
        cuda.require()
        from tailrank.inference.cuda import load_cuda  # Triton takes seconds, and is not everywhere

        record = read_record(path)
        return load_cuda(path, record, torch.device("cuda"), progress), record
    model, arena, record = load_in_arena(path, progress)
    return CpuRanker(model, arena, record.precision, dense_backend, embedding_backend), record


def load_in_arena(
    path: Path, progress: ByteProgress = lambda done, total: None
) -> tuple[RankingModel, Arena, ArtifactRecord]:
    """The artifact's model, its rows as they are stored, on huge pages; see `load_model`."""
    record = read_record(path)
    check_fits(bytes_needed(record.config, record.precision))
    model = build_model(record.config, None)
    arena = place_in_arena(model.tables, record.precision.rows)
    fill_weights(path, model, record, progress)
    return model, arena, record


def load_model(
    path: Path, progress: ByteProgress = lambda done, total: None
) -> tuple[RankingModel, ArtifactRecord]:
    """The artifact's model in fp32, for evaluation, further training and export.

    Args:
        path: folder written by `save_artifact`.
        progress: told the bytes of tables read so far, and all.

    Raises:
        DataError: missing, damaged or foreign artifact.
        RequestError: the tables do not fit into memory.
    """
    record = read_record(path)
    check_fits(bytes_needed(record.config, Precision()))
    model = build_model(record.config, None)
    fill_weights(path, model, record, progress)
    return model, record


def random_ranker(
    config: ModelConfig,
    *,
    seed: int,
    precision: Precision | None = None,
    dense_backend: DenseBackend | None = None,
) -> Ranker:
    """A CPU ranker with weights drawn from `seed`, to measure a model that nobody has trained.

    Raises:
        RequestError: the tables do not fit into memory.
        BackendUnavailable: this host cannot run the precision.
    """
    precision = precision or Precision()
    model, arena = _random_model(config, seed, precision)
    return CpuRanker(model, arena, precision, dense_backend)


def random_rankers(
    config: ModelConfig, devices: Sequence[str], *, seed: int, precision: Precision
) -> dict[str, Ranker]:
    """The same weights, drawn from `seed`, on each device; see `random_ranker`.

    Raises:
        ConfigError: unknown device, or the reference asked for another format than fp32.
        RequestError: the tables do not fit into memory.
        BackendUnavailable: there is no such device, or it cannot run the precision.
    """
    for device in devices:
        if device not in DEVICES:
            raise ConfigError("--device", device, " or ".join(DEVICES))
        if device == "eager" and precision != Precision():
            raise ConfigError("precision", str(precision), f"{Precision()}: eager knows no other")
        if device == "cuda":
            cuda.require()
    model, arena = _random_model(config, seed, precision)
    rankers: dict[str, Ranker] = {}
    # The cpu ranker comes last: it may replace layers of the model that it is given.
    for device in sorted(devices, key=lambda device: device == "cpu"):
        if device == "cuda":
            from tailrank.inference.cuda import copy_to  # as in `load`

            rankers[device] = copy_to(torch.device("cuda"), model, config, precision)
        elif device == "eager":
            rankers[device] = EagerRanker(model)
        else:
            rankers[device] = CpuRanker(model, arena, precision)
    return rankers


def _random_model(
    config: ModelConfig, seed: int, precision: Precision
) -> tuple[RankingModel, Arena]:
    """A model of random weights, its rows in the precision's format, on huge pages."""
    check_fits(bytes_needed(config, precision))
    model = build_model(config, None)
    arena = place_in_arena(model.tables, precision.rows)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.tables.reset(generator)
        for parameter in model.dense_parameters():
            parameter.normal_(0.0, 0.05, generator=generator)
    return model, arena
