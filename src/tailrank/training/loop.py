"""The training loop: steps, evaluation on validation, early stopping, resuming.

The test split is never read here. Knows no command line and draws no progress bar; it reports
through a callable and stops between two steps when asked to.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tailrank.core.errors import ConfigError
from tailrank.data.dataset import Dataset, Split
from tailrank.models import RankingModel
from tailrank.training.checkpoint import (
    load_checkpoint,
    restore_model,
    restore_training,
    save_checkpoint,
    training_tensors,
)
from tailrank.training.config import TrainingConfig
from tailrank.training.evaluation import evaluate
from tailrank.training.step import TrainStep

LATEST_FILE, BEST_FILE = "latest.safetensors", "best.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One point of the learning curve.

    Args:
        step: steps done.
        samples: rows seen, repetitions counted.
        train_logloss: mean over the steps since the point before, each before its update.
        validation_auc: None where the run does not validate.
        validation_logloss: likewise.
    """

    step: int
    samples: int
    train_logloss: float
    validation_auc: float | None = None
    validation_logloss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Args:
        step: steps done.
        steps: steps planned.
        samples: rows seen.
        samples_per_s: rows per second of training, reading included, evaluation excluded.
        train_logloss: mean since the last evaluation.
        validation_auc: of the last evaluation.
    """

    step: int
    steps: int
    samples: int
    samples_per_s: float
    train_logloss: float
    validation_auc: float | None


@dataclass(slots=True, kw_only=True)
class TrainingResult:
    """What a run did; also the state that a checkpoint carries.

    Args:
        step: steps done.
        samples: rows seen, repetitions counted.
        train_ns: time in steps and reading, evaluation and checkpoints excluded.
        curve: one point per evaluation.
        best_step: the step whose weights the model holds after the run.
        stopped_early: whether validation ended the run.
        finished: False where the run was asked to stop and can be resumed.
    """

    step: int = 0
    samples: int = 0
    train_ns: int = 0
    curve: list[CurvePoint] = field(default_factory=list)
    best_step: int = 0
    stopped_early: bool = False
    finished: bool = False

    @property
    def train_samples_per_s(self) -> float:
        """Rows per second of training, reading included."""
        return self.samples / (self.train_ns / 1e9) if self.train_ns else math.nan

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainingResult:
        """Read what `to_dict` wrote."""
        curve = [CurvePoint(**point) for point in record["curve"]]
        return cls(**{**record, "curve": curve})


def fit(
    model: RankingModel,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    out: Path | None = None,
    splits: Sequence[Split] = ("train",),
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
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
        progress: called after every step.
        should_stop: asked after every step; True saves a checkpoint and returns unfinished.

    Raises:
        ConfigError: a setting is wrong, or differs from the checkpoint's.
        DataError: rows or checkpoint are damaged.
    """
    if "test" in splits:
        raise ConfigError("splits", list(splits), "train and validation; the test is not for this")
    place = nullcontext(str(out)) if out is not None else tempfile.TemporaryDirectory()
    with place as folder:
        run = _Run(model, dataset, config, Path(folder), splits)
        return run.run(resume, progress or (lambda _: None), should_stop)


def refit_config(
    config: TrainingConfig, result: TrainingResult, dataset: Dataset
) -> TrainingConfig:
    """Settings to train once more on train + validation, for the chosen number of steps.

    The number chosen on validation is scaled by the number of rows, so that the model passes over
    its rows as often as it did when the number was chosen.
    """
    rows, all_rows = dataset.num_rows(("train",)), dataset.num_rows(("train", "validation"))
    return replace(config, steps=max(1, round(result.best_step * all_rows / rows)))


class _Run:
    """One run's parts and how they go together."""

    def __init__(
        self,
        model: RankingModel,
        dataset: Dataset,
        config: TrainingConfig,
        folder: Path,
        splits: Sequence[Split],
    ) -> None:
        self.dataset, self.config, self.folder, self.splits = dataset, config, folder, splits
        self.step = TrainStep(model, config)
        self.validates = "validation" not in splits
        self.steps_per_epoch = math.ceil(dataset.num_rows(splits) / config.batch_items)
        # The rate decays towards the end of all passes even if a chosen step comes before.
        self.horizon = max(config.epochs * self.steps_per_epoch, config.steps or 0)
        self.steps = config.steps or self.horizon
        self.every = config.evaluate_every or self.steps_per_epoch
        self.result = TrainingResult()
        self._since: list[float] = []
        self._identity = {
            "config": config.to_dict(),
            "fingerprint": dataset.fingerprint,
            "splits": list(splits),
        }

    def run(
        self,
        resume: bool,
        progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> TrainingResult:
        """All steps, or those left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume and (self.folder / LATEST_FILE).exists():
            self._resume()
        result = self.result
        while not result.finished:
            self._pass_over_rows(progress, should_stop)
            if should_stop() and not result.finished:
                self._save(LATEST_FILE)
                return result
        if result.best_step != result.step:
            file = self.folder / BEST_FILE
            restore_model(file, self.step, load_checkpoint(file)[0])
        return result

    def _pass_over_rows(
        self, progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> None:
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
            if config.lr_decay:
                self.step.scale_dense_rate(1.0 - result.step / self.horizon)
            self._since.append(self.step(batch, labels))
            result.step += 1
            result.samples += batch.num_items
            now = time.monotonic_ns()
            result.train_ns += now - started
            progress(self._progress())
            if result.step % self.every == 0 or result.step == self.steps:
                self._evaluate()
            if result.finished or should_stop():
                return
            started = time.monotonic_ns()

    def _progress(self) -> Progress:
        """How far this run is."""
        result = self.result
        return Progress(
            step=result.step,
            steps=self.steps,
            samples=result.samples,
            samples_per_s=result.train_samples_per_s,
            train_logloss=sum(self._since) / len(self._since),
            validation_auc=result.curve[-1].validation_auc if result.curve else None,
        )

    def _evaluate(self) -> None:
        """Add a point to the curve, keep the best weights, decide whether to go on."""
        result = self.result
        point = CurvePoint(
            step=result.step,
            samples=result.samples,
            train_logloss=sum(self._since) / len(self._since),
        )
        if not math.isfinite(point.train_logloss):
            raise ConfigError("lr", self.config.lr, "less: the training loss is no longer finite")
        self._since.clear()
        if self.validates:
            values = evaluate(self.step.model, self.dataset, ("validation",)).compute()
            # Rows of one class have no AUC, and JSON no NaN.
            auc = None if math.isnan(values.auc) else values.auc
            point = replace(point, validation_auc=auc, validation_logloss=values.logloss)
        result.curve.append(point)
        best = self._best_point()
        result.best_step = best.step
        waited = sum(later.step > best.step for later in result.curve)
        result.stopped_early = waited >= self.config.patience and result.step < self.steps
        result.finished = result.stopped_early or result.step >= self.steps
        if best is point:
            self._save(BEST_FILE)
        self._save(LATEST_FILE)

    def _best_point(self) -> CurvePoint:
        """The first point of least validation logloss; the last one of a run without validation."""
        if not self.validates:
            return self.result.curve[-1]
        return min(self.result.curve, key=lambda point: point.validation_logloss or math.inf)

    def _save(self, name: str) -> None:
        """Write a checkpoint."""
        record = {**self._identity, "result": self.result.to_dict(), "since": self._since}
        save_checkpoint(self.folder / name, training_tensors(self.step), record)

    def _resume(self) -> None:
        """Take up the last checkpoint."""
        file = self.folder / LATEST_FILE
        tensors, record = load_checkpoint(file)
        for name, value in self._identity.items():
            if record[name] != value:
                raise ConfigError(
                    "--resume", f"{name} {value!r}", f"the checkpoint's, {record[name]!r}"
                )
        restore_training(file, self.step, tensors)
        self.result = TrainingResult.from_dict(record["result"])
        self._since = list(record["since"])
