"""From a data set to a tested model: choose on validation, refit if asked to, test once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tailrank.data.dataset import Dataset
from tailrank.metrics import BinaryMetrics, known_by_task
from tailrank.models import RankingModel
from tailrank.training.evaluation import evaluate
from tailrank.training.history import CurvePoint, Progress, TrainingResult
from tailrank.training.loop import fit, refit_config
from tailrank.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model with the story of its training.

    Args:
        model: trained.
        dataset: what it was trained on, with the vocabulary that the model knows.
        recipe: settings as they were used last; a refit has its number of steps here.
        chosen: the run on the training rows, judged on validation.
        refit: the run on train + validation, if there was one.
        tests: scores of the test rows, collected once, for each task.
    """

    model: RankingModel
    dataset: Dataset
    recipe: Recipe
    chosen: TrainingResult
    refit: TrainingResult | None
    tests: dict[str, BinaryMetrics]

    @property
    def test(self) -> BinaryMetrics:
        """Scores of the test rows where there is one task."""
        (scored,) = self.tests.values()
        return scored

    def metrics(self) -> dict[str, float]:
        """Metrics for the result file; those that are undefined (NaN) are left out."""
        found = {f"{name}_test": value for name, value in known_by_task(self.tests).items()}
        found["train_samples_per_s"] = (self.refit or self.chosen).train_samples_per_s
        found |= {
            "step_chosen": self.chosen.best_step,
            "num_steps": self.chosen.step,
            "num_steps_planned": self.chosen.steps_planned,
        }
        best = next(p for p in self.chosen.curve if p.step == self.chosen.best_step)
        found |= {f"{name}_validation": value for name, value in best.validation().items()}
        for task, values in best.validation_by_task.items():
            found |= {f"{task}.{name}_validation": value for name, value in values.items()}
        attainable = getattr(self.dataset, "attainable_auc", None)
        if attainable is not None:
            found["auc_attainable"] = attainable()
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def record(self) -> dict[str, Any]:
        """What the artifact remembers of the training."""
        return {
            "recipe": self.recipe.to_dict(),
            "data": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "rows_fingerprint": self.dataset.rows_fingerprint,
            "fitted_fingerprint": self.dataset.fitted_fingerprint,
            "chosen": self.chosen.to_dict(),
            "refit": None if self.refit is None else self.refit.to_dict(),
            "metrics": self.metrics(),
        }


def train_and_test(
    dataset: Dataset,
    recipe: Recipe,
    *,
    refit: bool = False,
    checkpoints: Path | None = None,
    resume: bool = False,
    progress: Callable[[str, Progress], None] = lambda run, now: None,
    scoring: Callable[[str, int, int], None] = lambda split, done, total: None,
    evaluated: Callable[[str, CurvePoint], None] = lambda run, point: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained | None:
    """Train on train, stop on validation, refit on both if asked to, then score the test once.

    Args:
        dataset: rows.
        recipe: sizes and settings.
        refit: train a fresh model on train + validation for the chosen number of steps.
        checkpoints: folder for checkpoints; None: a temporary one.
        resume: continue from `checkpoints`.
        progress: called after every step with the run's name, `train` or `refit`.
        scoring: told the split, the rows of it scored so far, and all of them.
        evaluated: called like `progress` after every evaluation.
        should_stop: see `training.loop.fit`.

    Returns:
        The trained model; None where `should_stop` ended it: the checkpoints hold what was done.

    Raises:
        ConfigError: a setting is wrong, or differs from the checkpoint's.
        DataError: rows or a checkpoint are damaged.
    """

    def folder(run: str) -> Path | None:
        return None if checkpoints is None else checkpoints / run

    model = recipe.fresh_model(dataset)
    chosen = fit(
        model,
        dataset,
        recipe.training,
        out=folder("train"),
        resume=resume,
        begun_as=recipe.model_record(),
        progress=partial(progress, "train"),
        scoring=partial(scoring, "validation"),
        evaluated=partial(evaluated, "train"),
        should_stop=should_stop,
    )
    if not chosen.finished:
        return None
    again = None
    if refit:
        recipe = replace(recipe, training=refit_config(recipe.training, chosen, dataset))
        dataset = dataset.for_refit()
        # The first model has done its duty, and both at once may not fit into memory.
        del model
        model = recipe.fresh_model(dataset)
        again = fit(
            model,
            dataset,
            recipe.training,
            out=folder("refit"),
            splits=("train", "validation"),
            resume=resume,
            begun_as=recipe.model_record(),
            progress=partial(progress, "refit"),
            evaluated=partial(evaluated, "refit"),
            should_stop=should_stop,
        )
        if not again.finished:
            return None
    tests = evaluate(model, dataset, ("test",), partial(scoring, "test"))
    return Trained(
        model=model, dataset=dataset, recipe=recipe, chosen=chosen, refit=again, tests=tests
    )
