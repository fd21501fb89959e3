"""What a training run will take, before it starts: rows, memory and time.

The time comes from a few real steps and evaluation batches on this host, on a model that is thrown
away; early stopping may end a run sooner. Writes nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from itertools import islice

import torch

from tailrank.data.dataset import SPLITS, Dataset, Split
from tailrank.models import RankingModel
from tailrank.training.config import TrainingConfig
from tailrank.training.loop import check_training
from tailrank.training.recipe import Recipe
from tailrank.training.step import TrainStep

_STEPS_MAX, _SECONDS_MAX = 30, 3.0
_WARM_UP_STEPS = 3  # the first steps touch fresh memory and make the optimisers' state
_EVALUATION_ITEMS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEstimate:
    """What a run will take.

    Args:
        num_rows: item rows of each split.
        table_rows: embedding rows of each table.
        memory_bytes: tables, dense layers, gradients and optimiser state.
        num_steps: training steps at most, a refit included.
        train_samples_per_s: measured over a few steps, reading included.
        seconds: training and evaluation at most, a refit and the test included.
    """

    num_rows: dict[Split, int]
    table_rows: dict[str, int]
    memory_bytes: int
    num_steps: int
    train_samples_per_s: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        """The numbers by the names that results have."""
        return {
            **{f"num_rows_{split}": count for split, count in self.num_rows.items()},
            **{f"table_rows.{name}": rows for name, rows in self.table_rows.items()},
            "memory_bytes": self.memory_bytes,
            "num_steps": self.num_steps,
            "train_samples_per_s": self.train_samples_per_s,
            "seconds_max": self.seconds,
        }

    def in_words(self) -> list[str]:
        """Rows and time, a line each."""
        rows = ", ".join(f"{split} {count:,}" for split, count in self.num_rows.items())
        return [
            f"rows: {rows}",
            f"time: at most {self.num_steps:,} steps at {self.train_samples_per_s:,.0f} samples/s "
            f"and their evaluations, {self.seconds:,.0f} s; early stopping may end sooner",
        ]


def plan_in_words(config: TrainingConfig, num_rows: int) -> str:
    """How many steps training on `num_rows` rows will take, and how often it validates."""
    every = config.evaluate_every or config.steps_per_epoch(num_rows)
    return (
        f"plan: at most {config.steps_planned(num_rows):,} steps of {config.batch_items:,} rows, "
        f"{config.epochs} x {num_rows:,} training rows; validation every {every:,} steps"
    )


def estimate_training(dataset: Dataset, recipe: Recipe, *, refit: bool) -> TrainingEstimate:
    """Measure a few steps and scale them to the whole run.

    Raises:
        ConfigError: a setting is wrong.
        DataError: a row cannot be used, all are of one class, or a split has none; or a model to
            start from is missing or damaged.
    """
    config = recipe.training
    num_rows = {split: dataset.num_rows((split,)) for split in SPLITS}
    steps_per_epoch = config.steps_per_epoch(num_rows["train"])
    steps = config.steps_planned(num_rows["train"])
    check_training(config, dataset)
    model = recipe.fresh_model(dataset)
    step_s = _step_seconds(model, dataset, recipe)
    row_s = _evaluation_seconds(model, dataset)
    evaluations = math.ceil(steps / (config.evaluate_every or steps_per_epoch))
    seconds = steps * step_s + (evaluations * num_rows["validation"] + num_rows["test"]) * row_s
    if refit:
        again = round(steps * (num_rows["train"] + num_rows["validation"]) / num_rows["train"])
        steps, seconds = steps + again, seconds + again * step_s
    return TrainingEstimate(
        num_rows=num_rows,
        table_rows={table.name: table.num_embeddings for table in dataset.spec.tables},
        memory_bytes=recipe.bytes_needed(dataset),
        num_steps=steps,
        train_samples_per_s=min(config.batch_items, num_rows["train"]) / step_s,
        seconds=seconds,
    )


def _step_seconds(model: RankingModel, dataset: Dataset, recipe: Recipe) -> float:
    """Median time of a step, reading included."""
    config, step, times = recipe.training, TrainStep(model, recipe.training), []
    started = before = time.monotonic()
    for batch, labels in islice(
        dataset.batches(("train",), config.batch_items, shuffle_seed=config.seed), _STEPS_MAX
    ):
        step(batch, labels)
        now = time.monotonic()
        times.append(now - before)
        before = now
        if now - started > _SECONDS_MAX:
            break
    return statistics.median(times[_WARM_UP_STEPS:] or times)


def _evaluation_seconds(model: RankingModel, dataset: Dataset) -> float:
    """Time of a row's evaluation."""
    started, rows = time.monotonic(), 0
    with torch.inference_mode():
        for batch, _ in islice(dataset.batches(("validation",), _EVALUATION_ITEMS), 4):
            model(batch)
            rows += batch.num_items
    return (time.monotonic() - started) / rows
