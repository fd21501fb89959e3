"""What a run reports while it goes on, and what it did. Knows neither model nor files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tailrank.training.config import SelectBy


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One point of the learning curve.

    Args:
        step: steps done.
        samples: rows seen, repetitions counted.
        train_logloss: mean over the steps since the point before, each before its update.
        validation_auc: None where the run does not validate, or the rows have no such metric.
        validation_logloss: likewise.
        validation_grouped_auc: likewise.
        validation_ndcg_at_10: likewise.
        validation_hit_rate_at_10: likewise.
        validation_by_task: the same metrics of each task, by names of task and metric, where there
            are several; those above are then means over tasks.
    """

    step: int
    samples: int
    train_logloss: float
    validation_auc: float | None = None
    validation_logloss: float | None = None
    validation_grouped_auc: float | None = None
    validation_ndcg_at_10: float | None = None
    validation_hit_rate_at_10: float | None = None
    validation_by_task: dict[str, dict[str, float]] = field(default_factory=dict)

    def validation(self) -> dict[str, float]:
        """The validation metrics that there are, by name."""
        values = {
            "logloss": self.validation_logloss,
            "auc": self.validation_auc,
            "grouped_auc": self.validation_grouped_auc,
            "ndcg_at_10": self.validation_ndcg_at_10,
            "hit_rate_at_10": self.validation_hit_rate_at_10,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, after a step.

    Args:
        step: steps done.
        steps: steps planned.
        samples: rows seen.
        samples_per_s: rows per second of training, reading included, evaluation excluded.
        step_logloss: of this step's rows, before its update.
        train_logloss: mean since the last evaluation.
        lr: the dense learning rate of this step.
        gradient_norm: before clipping; None where the run does not clip.
        validation_auc: of the last evaluation.
    """

    step: int
    steps: int
    samples: int
    samples_per_s: float
    step_logloss: float
    train_logloss: float
    lr: float
    gradient_norm: float | None
    validation_auc: float | None


@dataclass(slots=True, kw_only=True)
class TrainingResult:
    """What a run did; also the state that a checkpoint carries.

    Args:
        step: steps done.
        samples: rows seen, repetitions counted.
        train_ns: time in steps and reading, evaluation and checkpoints excluded.
        curve: one point per evaluation.
        steps_planned: steps at most.
        best_step: the step whose weights the model holds after the run.
        stopped_early: whether validation ended the run.
        finished: False where the run was asked to stop and can be resumed.
    """

    step: int = 0
    samples: int = 0
    train_ns: int = 0
    curve: list[CurvePoint] = field(default_factory=list)
    steps_planned: int = 0
    best_step: int = 0
    stopped_early: bool = False
    finished: bool = False

    @property
    def train_samples_per_s(self) -> float:
        """Rows per second of training, reading included."""
        return self.samples / (self.train_ns / 1e9) if self.train_ns else math.nan

    def ending(self, select_by: SelectBy) -> str:
        """Which step was chosen, and why the run ended, in words."""
        chosen = f"kept the weights of step {self.best_step:,} of {self.step:,}, the best"
        waited = sum(point.step > self.best_step for point in self.curve)
        if self.stopped_early:
            times = "evaluation" if waited == 1 else "evaluations"
            why = f"{waited} {times} without a better {select_by}"
            return f"{chosen} {select_by}; stopped early, {why}, of {self.steps_planned:,} planned"
        return f"{chosen} {select_by}; all steps planned were taken"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainingResult:
        """Read what `to_dict` wrote."""
        curve = [CurvePoint(**point) for point in record["curve"]]
        return cls(**{**record, "curve": curve})


def best_point(curve: list[CurvePoint], select_by: SelectBy) -> CurvePoint:
    """The first point with the best value of a metric, which all of them have."""
    sign = 1.0 if select_by == "logloss" else -1.0
    return min(curve, key=lambda point: sign * point.validation()[select_by])
