"""Checkpoints: one safetensors file each, whole or absent.

Tensors are the model's parameters, their running mean and the optimisers' state by name; everything
else is JSON in the file's metadata. Never pickle.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tailrank.core.errors import DataError, RequestError
from tailrank.core.files import replace_file
from tailrank.training.step import TrainStep

_FORMAT = "tailrank-checkpoint-2"


def check_checkpoints(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make sure that nobody's interrupted run is lost, nor one resumed that is not there.

    Args:
        folder: holds a folder for each run, if it exists.
        resume: whether to go on with what is there.
        overwrite: whether to start again in spite of it.

    Raises:
        RequestError: there is nothing to go on with, or something that would be lost.
    """
    begun = any(folder.glob("*/*.safetensors"))  # a run that failed at once leaves none
    if resume and not begun:
        raise RequestError("--resume", f"no checkpoint in {folder}; start the run without it")
    if begun and not resume and not overwrite:
        raise RequestError(
            "--out",
            f"{folder} holds an interrupted run; go on with --resume, or start again with "
            "--overwrite",
        )


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of every run."""
    for run in folder.glob("*/"):
        shutil.rmtree(run)


def model_tensors(step: TrainStep) -> dict[str, Tensor]:
    """The model's weights by name, without copies."""
    return {f"model.{name}": value for name, value in step.model.state_dict().items()}


def training_tensors(step: TrainStep) -> dict[str, Tensor]:
    """Everything that a step changes, by name: weights, their mean, optimiser state; no copies."""
    tensors = model_tensors(step)
    tensors |= {f"tables.{name}": value for name, value in step.tables.state().items()}
    if step.average is not None:
        tensors |= {f"average.{name}": value for name, value in step.average.state().items()}
    for index, parameter in enumerate(step.model.dense_parameters()):
        for name, value in step.dense.state[parameter].items():
            tensors[f"dense.{index}.{name}"] = value
    return tensors


def save_checkpoint(file: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write `tensors` and `record` to `file`: readers see the old file or the new one.

    Args:
        file: its folder exists.
        tensors: by name; written as they are now.
        record: JSON-ready.
    """
    plain = {key: value.detach().contiguous() for key, value in tensors.items()}
    with replace_file(file) as fresh:
        save_file(plain, fresh, {"format": _FORMAT, "record": json.dumps(record)})


def load_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_checkpoint` wrote: tensors and record.

    Raises:
        DataError: missing, damaged or foreign file.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise DataError(file, f"not a checkpoint of this tailrank ({_FORMAT})")
            names = list(stored.keys())
            return {name: stored.get_tensor(name) for name in names}, json.loads(metadata["record"])
    except FileNotFoundError:
        raise DataError(file, "no checkpoint here to resume from") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(file, f"damaged checkpoint: {str(error).splitlines()[0]}") from None


def restore_training(file: Path, step: TrainStep, tensors: dict[str, Tensor]) -> None:
    """Copy checkpointed tensors into `step`'s model and optimisers.

    Raises:
        DataError: they belong to another model or optimiser; nothing is changed then.
    """
    own = training_tensors(step)
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    stored = {name: tuple(value.shape) for name, value in tensors.items()}
    if shapes != stored:
        differing = sorted(n for n in shapes | stored if shapes.get(n) != stored.get(n))
        raise DataError(file, f"checkpoint of another model or optimiser: {differing[:4]} differ")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def restore_model(file: Path, step: TrainStep, tensors: dict[str, Tensor]) -> None:
    """Copy just the checkpointed model parameters into `step`'s model.

    Raises:
        DataError: they belong to another model.
    """
    prefix = "model."
    state = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    try:
        step.model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(file, f"checkpoint of another model: {error}") from None
