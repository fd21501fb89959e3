"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tailrank.core.errors import ConfigError
from tailrank.training.optimizers import DenseOptimizerName, TableOptimizerName

LrSchedule = Literal["constant", "linear", "cosine"]
SelectBy = Literal["logloss", "auc", "grouped_auc", "ndcg_at_10", "hit_rate_at_10"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Args:
        batch_items: rows per step.
        epochs: passes over the training rows at most; early stopping may end sooner.
        steps: steps exactly, instead of `epochs`; a refit is given the chosen number this way.
        lr: learning rate of dense parameters.
        table_lr: learning rate of tables; None: `lr`.
        dense_optimizer: `adagrad`, `sgd` or `adam`.
        table_optimizer: `sgd`, `rowwise_adagrad`, `adagrad`, `adam` or `amsgrad`; the last two are
            lazy: a row that no batch reads stays as it is.
        weight_decay: L2 factor on dense parameters.
        table_l2: L2 factor on the table rows that a batch reads, each once per step; rows that it
            does not read cost nothing and stay.
        clip_norm: the L2 norm that the gradients of dense parameters and table rows together are
            scaled down to where they exceed it, before L2 is added; None: no limit.
        lr_schedule: how the dense rate falls to 0 over the planned steps, if it does.
        warmup_steps: steps at the start over which the rate rises linearly.
        schedule_tables: whether the rate of tables follows too. By default it stays: Adagrad
            lowers it row by row, and a rare row may come last.
        average_fraction: evaluate and keep not the last weights but a mean over all steps, to which
            about this fraction of the steps so far, the last ones, counts (`WeightAverage`); 0: no
            mean. Training itself goes on from the last weights.
        evaluate_every: steps between evaluations on validation; None: after each pass.
        select_by: the validation metric that chooses the weights to keep; its mean over tasks,
            where there are several.
        task_weights: what the loss of each task counts, in the order of the data's tasks; None: as
            much as any other.
        patience: evaluations without a better value of it before the run stops.
        shuffle: whether each pass has a new order of rows.
        seed: of weights and row order.
        checkpoint_every: steps between checkpoints; each evaluation saves one anyway.
        checkpoint_seconds: time between checkpoints; longer where saving one takes long. Neither
            changes what is learned.
    """

    batch_items: int = 2048
    epochs: int = 1
    steps: int | None = None
    lr: float = 0.01
    table_lr: float | None = None
    dense_optimizer: DenseOptimizerName = "adagrad"
    table_optimizer: TableOptimizerName = "rowwise_adagrad"
    weight_decay: float = 0.0
    table_l2: float = 0.0
    clip_norm: float | None = None
    lr_schedule: LrSchedule = "constant"
    warmup_steps: int = 0
    schedule_tables: bool = False
    average_fraction: float = 0.0
    evaluate_every: int | None = None
    select_by: SelectBy = "logloss"
    task_weights: tuple[float, ...] | None = None
    patience: int = 3
    shuffle: bool = True
    seed: int = 0
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in (
            "batch_items",
            "epochs",
            "patience",
            "steps",
            "evaluate_every",
            "checkpoint_every",
        ):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(field, value, "at least 1")
        for field in ("lr", "table_lr"):
            value = getattr(self, field)
            if value is not None and not 0.0 < value < 1e3:
                raise ConfigError(field, value, "above 0 and below 1000")
        for field in ("weight_decay", "table_l2"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ConfigError(field, getattr(self, field), "0 up to 1")
        if not 0.0 <= self.average_fraction <= 1.0:
            raise ConfigError("average_fraction", self.average_fraction, "0 to 1")
        for field in ("clip_norm", "checkpoint_seconds"):
            value = getattr(self, field)
            if value is not None and not value > 0.0:
                raise ConfigError(field, value, "above 0")
        for field in ("seed", "warmup_steps"):
            if getattr(self, field) < 0:
                raise ConfigError(field, getattr(self, field), "0 or more")
        weights = self.task_weights
        if weights is not None and not (min(weights, default=-1.0) >= 0.0 < sum(weights) < 1e3):
            raise ConfigError("task_weights", weights, "0 or more for each task, and not all 0")
        for field, kind in (
            ("dense_optimizer", DenseOptimizerName),
            ("table_optimizer", TableOptimizerName),
            ("lr_schedule", LrSchedule),
            ("select_by", SelectBy),
        ):
            if getattr(self, field) not in get_args(kind):
                raise ConfigError(field, getattr(self, field), " or ".join(get_args(kind)))

    def steps_per_epoch(self, num_rows: int) -> int:
        """Steps of one pass over `num_rows` rows."""
        return math.ceil(num_rows / self.batch_items)

    def steps_planned(self, num_rows: int) -> int:
        """Steps at most, when training on `num_rows` rows."""
        return self.steps or self.epochs * self.steps_per_epoch(num_rows)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        weights = self.task_weights
        return asdict(self) | {"task_weights": None if weights is None else list(weights)}
