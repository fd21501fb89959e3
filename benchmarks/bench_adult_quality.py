"""Quality of two tasks at once: multi-task Wide & Deep beside models of one task on Adult.

Settings are those of `tailrank train MODEL --data adult:…` (the recipes), found on validation rows
only; marital status and relationship are no features. Each model is chosen on a seeded seventh of
`adult.data`, refitted on all of it, and scores `adult.test` once per seed. Models of one task are
trained for each: Wide & Deep of the same layers, which is what the multi-task model with one head
is, and logistic regression. Differences of the means over seeds have paired bootstrap intervals
over rows.

    python benchmarks/bench_adult_quality.py --data ../shared/data/adult --json X
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from quality_runs import Run, difference, parse_arguments, report, run_recipe, shortened, spread
from tailrank.data.adult_file import TASKS
from tailrank.reporting.result import Result
from tailrank.training.recipe import recipe_for

BOTH = "mt_wide_and_deep"
MODELS = (BOTH, "wide_and_deep", "logistic_regression")
METRICS = ("auc", "logloss", "calibration")
SEEDS = (1, 2, 3)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/adult"


def main() -> None:
    arguments = parse_arguments(__doc__, SHARED, "one seed, a fifth of a pass", MODELS, SEEDS)
    if arguments is None:
        return
    seeds = arguments.seeds
    names = (arguments.only,) if arguments.only else MODELS
    runs = {
        (name, task): found
        for name in names
        for task, found in train(name, arguments, seeds).items()
    }
    if arguments.only:
        return
    metrics: dict[str, float] = {}
    for (name, task), found in runs.items():
        values = [run.test.compute() for run in found]
        for metric in METRICS:
            each = [getattr(value, metric) for value in values]
            metrics |= spread(f"adult.{name}.{task}_{metric}", each)
        steps = [run.metrics["step_chosen"] for run in found]
        metrics |= spread(f"adult.{name}.{task}_step_chosen", steps)
    intervals = compare(runs, metrics, 100 if arguments.quick else 1000)
    result = Result(
        command="bench_adult_quality",
        config={
            "data": arguments.data.name,
            "quick": arguments.quick,
            "recipes": {name: recipe_for(name, "adult").to_dict() for name in MODELS},
            "seeds": seeds,
        },
        seed=seeds[0],
        metrics=metrics,
        intervals=intervals,
    )
    report(result, arguments.json)


def train(name: str, arguments: argparse.Namespace, seeds: tuple[int, ...]) -> dict[str, list[Run]]:
    """The runs of a model by task; those of both tasks are the same runs twice."""
    recipe = recipe_for(name, "adult")
    if arguments.quick:
        recipe = shortened(recipe, 22)
    data, kept = f"adult:{arguments.data}", arguments.runs
    if name == BOTH:
        found = [run_recipe(name, data, recipe, seed, refit=True, runs=kept) for seed in seeds]
        return {task: [run.only(task) for run in found] for task in TASKS}
    return {
        task: [
            run_recipe(
                f"{name}-{task}",
                data,
                replace(recipe, data=replace(recipe.data, tasks=(task,))),
                seed,
                refit=True,
                runs=kept,
            )
            for seed in seeds
        ]
        for task in TASKS
    }


def compare(
    runs: dict[tuple[str, str], list[Run]], metrics: dict[str, float], num_resamples: int
) -> dict[str, tuple[float, float]]:
    """Add the model of both tasks less each model of one; return the intervals."""
    intervals = {}
    for name in MODELS[1:]:
        for task in TASKS:
            key = f"adult.{BOTH}_less_{name}.{task}_auc"
            metrics[key], intervals[key] = difference(
                runs[BOTH, task], runs[name, task], num_resamples=num_resamples
            )
    return intervals


if __name__ == "__main__":
    main()
