"""The training loop: steps, evaluation on validation, early stopping, resuming.

The test split is never read here. Knows no command line and draws no progress bar; it reports
through callables and stops between two steps when asked to.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.core.files import remove_leftovers
from tailrank.data.dataset import SPLITS, Dataset, Split
from tailrank.metrics import GROUP_METRICS
from tailrank.models import RankingModel
from tailrank.training.checkpoint import (
    load_checkpoint,
    model_tensors,
    restore_model,
    restore_training,
    save_checkpoint,
    training_tensors,
)
from tailrank.training.config import SelectBy, TrainingConfig
from tailrank.training.evaluation import evaluate, mean_over_tasks
from tailrank.training.history import CurvePoint, Progress, TrainingResult, best_point
from tailrank.training.schedule import rate_factor
from tailrank.training.step import TrainStep

LATEST_FILE = "latest.safetensors"
_CADENCE = ("checkpoint_every", "checkpoint_seconds")  # no part of what a run is


def fit(
    model: RankingModel,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    out: Path | None = None,
    splits: Sequence[Split] = ("train",),
    resume: bool = False,
    begun_as: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] = lambda now: None,
    scoring: Callable[[int, int], None] = lambda done, total: None,
    evaluated: Callable[[CurvePoint], None] = lambda point: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train `model` in place; it ends with the weights of the best evaluation.

    Validates on the validation split, unless that is trained on: then the run just does its steps.

    Args:
        model: trained in place.
        dataset: rows.
        config: settings.
        out: folder for checkpoints, created if absent; None: a temporary one.
        splits: what to train on, `("train",)` or, for a refit, `("train", "validation")`.
        resume: continue from the last checkpoint in `out`, if there is one.
        begun_as: what else decides the run, JSON-ready: how `model` was made. A run that began as
            another is not resumed.
        progress: called after every step.
        scoring: told the validation rows scored so far, and all, during an evaluation.
        evaluated: called after every evaluation, before its checkpoint.
        should_stop: asked after every step; True saves a checkpoint and returns unfinished.

    Raises:
        ConfigError: a setting is wrong, or differs from the checkpoint's; or validation rows lack
            the metric to select by.
        DataError: rows or checkpoint are damaged.
    """
    if "test" in splits:
        raise ConfigError("splits", list(splits), "train and validation; the test is not for this")
    place = nullcontext(str(out)) if out is not None else tempfile.TemporaryDirectory()
    with place as folder, _subnormals_as_zero():
        run = _Run(model, dataset, config, Path(folder), splits, begun_as or {})
        return run.run(resume, _Listeners(progress, scoring, evaluated, should_stop))


@contextmanager
def _subnormals_as_zero() -> Iterator[None]:
    """Numbers below 1.2e-38 count as 0 on this thread, and on those that it starts.

    Weights that decay, and that nothing moves, end there. A core of Intel's needs some 150 cycles
    for an operation with one.
    """
    were_zero = not torch.full((1,), 1e-40).mul_(1.0).item()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_zero)


def refit_config(
    config: TrainingConfig, result: TrainingResult, dataset: Dataset
) -> TrainingConfig:
    """Settings to train once more on train + validation, for the chosen number of steps.

    The number chosen on validation is scaled by the number of rows, so that the model passes over
    its rows as often as it did when the number was chosen.
    """
    rows, all_rows = dataset.num_rows(("train",)), dataset.num_rows(("train", "validation"))
    return replace(config, steps=max(1, round(result.best_step * all_rows / rows)))


def check_training(config: TrainingConfig, dataset: Dataset) -> None:
    """Refuse rows and settings that cannot be trained with, before anything starts.

    Raises:
        ConfigError: as `check_warmup`, `check_selection` and `check_task_weights`.
        DataError: as `check_rows`.
    """
    check_rows(dataset)
    planned = config.epochs * config.steps_per_epoch(dataset.num_rows(("train",)))
    check_warmup(config, max(planned, config.steps or 0))
    check_selection(config, dataset)
    check_task_weights(config, dataset)


def check_warmup(config: TrainingConfig, num_steps: int) -> None:
    """Refuse a warm-up that would never end.

    Raises:
        ConfigError: it has as many steps as are planned, or more.
    """
    if config.warmup_steps >= num_steps:
        allowed = f"less than the {num_steps} steps planned"
        raise ConfigError("warmup_steps", config.warmup_steps, allowed)


def check_selection(config: TrainingConfig, dataset: Dataset) -> None:
    """Refuse a metric per group for rows without groups, before hours of work.

    Raises:
        ConfigError: the validation rows cannot have the metric to select by.
    """
    if config.select_by in GROUP_METRICS:
        _, labels = next(iter(dataset.batches(("validation",), 1)))
        if labels.group_B is None:
            allowed = f"logloss or auc: rows of {dataset.name} have no groups"
            raise ConfigError("select_by", config.select_by, allowed)


def check_task_weights(config: TrainingConfig, dataset: Dataset) -> None:
    """Refuse weights that are not one for each task.

    Raises:
        ConfigError: there are more or fewer.
    """
    weights, tasks = config.task_weights, dataset.tasks
    if weights is not None and len(weights) != len(tasks):
        raise ConfigError("task_weights", weights, f"{len(tasks)}: one of {', '.join(tasks)} each")


def check_rows(dataset: Dataset) -> None:
    """Refuse rows that nothing can be learned from, or that leave nothing to choose or test by.

    Raises:
        DataError: a split is empty, or all known training labels of a task are equal, or none is
            known; says which and how many.
    """
    empty = [split for split in SPLITS if not dataset.num_rows((split,))]
    if empty:
        reason = f"no {' and no '.join(empty)} rows of {dataset.num_rows(SPLITS):,} in all; "
        raise DataError(dataset.name, reason + "training needs all three parts")
    seen: list[set[float]] = [set() for _ in dataset.tasks]
    for _, labels in dataset.batches(("train",), 4096):
        for column, found in enumerate(seen):
            label_B = labels.values_BT[:, column]
            known = label_B if labels.mask_BT is None else label_B[labels.mask_BT[:, column]]
            found |= set(known.tolist())
        if all(len(found) > 1 for found in seen):
            return
    rows, several = f"{dataset.num_rows(('train',)):,} training rows", len(dataset.tasks) > 1
    for task, found in zip(dataset.tasks, seen, strict=True):
        if len(found) > 1:
            continue
        what = f"have label {min(found):g}" if found else "lack a label"
        of, leave = (f" of {task}", "; --tasks can leave it out") if several else ("", "")
        reason = f"all {rows} {what}{of}; training needs rows of both classes{leave}"
        raise DataError(dataset.name, reason)


@dataclass(frozen=True, slots=True)
class _Listeners:
    """Who is told and asked; see `fit`."""

    progress: Callable[[Progress], None]
    scoring: Callable[[int, int], None]
    evaluated: Callable[[CurvePoint], None]
    should_stop: Callable[[], bool]


class _Run:
    """One run's parts and how they go together."""

    def __init__(
        self,
        model: RankingModel,
        dataset: Dataset,
        config: TrainingConfig,
        folder: Path,
        splits: Sequence[Split],
        begun_as: Mapping[str, Any],
    ) -> None:
        self.dataset, self.config, self.folder, self.splits = dataset, config, folder, splits
        self.step = TrainStep(model, config)
        self.validates = "validation" not in splits
        self.steps_per_epoch = config.steps_per_epoch(dataset.num_rows(splits))
        # The rate decays towards the end of all passes even if a chosen step comes before.
        self.horizon = max(config.epochs * self.steps_per_epoch, config.steps or 0)
        self.steps = config.steps or self.horizon
        self.every = config.evaluate_every or self.steps_per_epoch
        self.result = TrainingResult(steps_planned=self.steps)
        self._loss_sum, self._loss_steps = 0.0, 0  # since the last evaluation
        self._save_due_ns = 0
        check_warmup(config, self.horizon)
        self._identity: dict[str, Any] = {
            **json.loads(json.dumps(begun_as)),  # as a checkpoint gives it back, without tuples
            **{name: value for name, value in config.to_dict().items() if name not in _CADENCE},
            "data": dataset.fingerprint,
            "splits": list(splits),
        }

    def run(self, resume: bool, listeners: _Listeners) -> TrainingResult:
        """All steps, or those left."""
        resume = resume and (self.folder / LATEST_FILE).exists()
        if self.validates and not resume:
            check_training(self.config, self.dataset)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder, "*.safetensors")
        if resume:
            self._resume()
        result = self.result
        self._plan_save(0)
        while not result.finished:
            self._pass_over_rows(listeners)
            if listeners.should_stop() and not result.finished:
                self._save_latest()
                return result
        if result.best_step != result.step or self.config.average_fraction:
            file = self._best_file()
            restore_model(file, self.step, load_checkpoint(file)[0])
        return result

    def _pass_over_rows(self, listeners: _Listeners) -> None:
        """The steps of one pass, or those left of it."""
        result, config = self.result, self.config
        epoch, first_batch = divmod(result.step, self.steps_per_epoch)
        batches = self.dataset.batches(
            self.splits,
            config.batch_items,
            shuffle_seed=config.seed * 1000 + epoch if config.shuffle else None,
            first_batch=first_batch,
        )
        started = time.monotonic_ns()
        for batch, labels in batches:
            factor = rate_factor(result.step, config, self.horizon)
            self.step.scale_rates(factor)
            loss = self.step(batch, labels)
            self._loss_sum += loss
            self._loss_steps += 1
            result.step += 1
            result.samples += batch.num_items
            now = time.monotonic_ns()
            result.train_ns += now - started
            listeners.progress(self._progress(loss, config.lr * factor))
            if result.step % self.every == 0 or result.step == self.steps:
                self._evaluate(listeners)
            elif self._is_save_due(now):
                self._save_latest()
            if result.finished or listeners.should_stop():
                return
            started = time.monotonic_ns()

    def _progress(self, loss: float, lr: float) -> Progress:
        """How far this run is."""
        result = self.result
        return Progress(
            step=result.step,
            steps=self.steps,
            samples=result.samples,
            samples_per_s=result.train_samples_per_s,
            step_logloss=loss,
            train_logloss=self._loss_sum / self._loss_steps,
            lr=lr,
            gradient_norm=self.step.gradient_norm,
            validation_auc=result.curve[-1].validation_auc if result.curve else None,
        )

    def _evaluate(self, listeners: _Listeners) -> None:
        """Judge the weights, keep the best and what is needed to go on."""
        with self.step.averaged():
            self._judge(listeners)
        self._save_latest()
        for file in self.folder.glob("best-*.safetensors"):
            if file != self._best_file():
                file.unlink()

    def _judge(self, listeners: _Listeners) -> None:
        """Add a point to the curve, keep the weights if they are best, decide whether to go on."""
        result, config = self.result, self.config
        point = CurvePoint(
            step=result.step,
            samples=result.samples,
            train_logloss=self._loss_sum / self._loss_steps,
        )
        if not math.isfinite(point.train_logloss):
            raise ConfigError("lr", config.lr, "less: the training loss is no longer finite")
        self._loss_sum, self._loss_steps = 0.0, 0
        if self.validates:
            point = replace(point, **self._validation(listeners.scoring))
        result.curve.append(point)
        best = best_point(result.curve, config.select_by) if self.validates else point
        result.best_step = best.step
        waited = sum(later.step > best.step for later in result.curve)
        result.stopped_early = waited >= config.patience and result.step < self.steps
        result.finished = result.stopped_early or result.step >= self.steps
        listeners.evaluated(point)
        if best is point:
            self._save(self._best_file(), model_tensors(self.step))

    def _validation(self, scoring: Callable[[int, int], None]) -> dict[str, Any]:
        """The metrics of the validation rows, as fields of a `CurvePoint`."""
        scored = evaluate(self.step.model, self.dataset, ("validation",), scoring)
        # Rows of one class have no AUC, and JSON no NaN.
        by_task = {
            task: {
                name: value for name, value in rows.known().items() if name in get_args(SelectBy)
            }
            for task, rows in scored.items()
        }
        means = mean_over_tasks(by_task)
        if self.config.select_by not in means:
            allowed = "a metric that the validation rows have"
            raise ConfigError("select_by", self.config.select_by, allowed)
        found: dict[str, Any] = {f"validation_{name}": value for name, value in means.items()}
        return found | ({"validation_by_task": by_task} if len(by_task) > 1 else {})

    def _best_file(self) -> Path:
        """Where the best weights are; by step, as `LATEST_FILE` may be older than the newest."""
        return self.folder / f"best-{self.result.best_step}.safetensors"

    def _save_latest(self) -> None:
        """Write the checkpoint to resume from, and plan the next one."""
        started = time.monotonic_ns()
        self._save(self.folder / LATEST_FILE, training_tensors(self.step))
        self._plan_save(time.monotonic_ns() - started)

    def _is_save_due(self, now_ns: int) -> bool:
        """Whether a checkpoint is due after this step."""
        every = self.config.checkpoint_every
        return now_ns >= self._save_due_ns or (every is not None and self.result.step % every == 0)

    def _plan_save(self, last_ns: int) -> None:
        """Say when a checkpoint is due if nothing else asks for one sooner."""
        # A twentieth of the time at most, or big tables would be saved more than trained.
        wait_ns = max(round(self.config.checkpoint_seconds * 1e9), 20 * last_ns)
        self._save_due_ns = time.monotonic_ns() + wait_ns

    def _save(self, file: Path, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint."""
        record = {
            "identity": self._identity,
            "result": self.result.to_dict(),
            "loss_sum": self._loss_sum,
            "loss_steps": self._loss_steps,
        }
        save_checkpoint(file, tensors, record)

    def _resume(self) -> None:
        """Take up the last checkpoint."""
        file = self.folder / LATEST_FILE
        tensors, record = load_checkpoint(file)
        for name, value in self._identity.items():
            was = record["identity"].get(name)
            if was != value:
                raise RequestError(
                    "--resume",
                    f"{name} is {value!r} and was {was!r} when the run began: rates and rows "
                    "follow from its settings, so none may change, epochs included",
                )
        restore_training(file, self.step, tensors)
        self.result = TrainingResult.from_dict(record["result"])
        self._loss_sum, self._loss_steps = record["loss_sum"], record["loss_steps"]
