"""Settings of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from tailrank.core.errors import ConfigError
from tailrank.training.optimizers import DenseOptimizerName, TableOptimizerName


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
        table_optimizer: `rowwise_adagrad` or `sgd`.
        weight_decay: L2 factor on dense parameters.
        lr_decay: whether the dense rate falls linearly to 0 over the planned steps. That of tables
            stays: Adagrad lowers it row by row, and a rare row may come last.
        evaluate_every: steps between evaluations on validation; None: after each pass.
        patience: evaluations without a better validation logloss before the run stops.
        shuffle: whether each pass has a new order of rows.
        seed: of weights and row order.
    """

    batch_items: int = 2048
    epochs: int = 1
    steps: int | None = None
    lr: float = 0.01
    table_lr: float | None = None
    dense_optimizer: DenseOptimizerName = "adagrad"
    table_optimizer: TableOptimizerName = "rowwise_adagrad"
    weight_decay: float = 0.0
    lr_decay: bool = False
    evaluate_every: int | None = None
    patience: int = 3
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("batch_items", "epochs", "patience", "steps", "evaluate_every"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(field, value, "at least 1")
        for field in ("lr", "table_lr"):
            value = getattr(self, field)
            if value is not None and not 0.0 < value < 1e3:
                raise ConfigError(field, value, "above 0 and below 1000")
        if not 0.0 <= self.weight_decay < 1.0:
            raise ConfigError("weight_decay", self.weight_decay, "0 up to 1")
        if self.seed < 0:
            raise ConfigError("seed", self.seed, "0 or more")
        for field, kind in (
            ("dense_optimizer", DenseOptimizerName),
            ("table_optimizer", TableOptimizerName),
        ):
            if getattr(self, field) not in get_args(kind):
                raise ConfigError(field, getattr(self, field), " or ".join(get_args(kind)))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)
