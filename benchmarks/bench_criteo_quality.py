"""Quality on real clicks: models beside logistic regression on the same rows of the Criteo sample.

Settings are those of `tailrank train MODEL --data criteo:… --refit` (its recipe), found on
validation rows only, as is the penalty of the regression. Each model is then refitted on the first
6/7 in time and scores the last 1/7 once per seed. The difference of the AUCs (mean over seeds, and
of each seed) has a paired bootstrap interval over rows.

    python benchmarks/bench_criteo_quality.py --data ../shared/data/criteo_kaggle/train.tsv --json X
"""

from __future__ import annotations

import argparse
from pathlib import Path

from peers.logistic_regression import fit_logistic, predict, read_hashed
from quality_runs import (
    Run,
    difference,
    parse_arguments,
    report,
    run_recipe,
    shortened,
    spread,
    test_metrics,
)
from tailrank.data.dataset import split_bounds
from tailrank.metrics import BinaryMetrics
from tailrank.reporting.result import Result
from tailrank.training.recipe import recipe_for

MODELS = ("dlrm", "deepfm", "dcn_v2", "wide_and_deep")
METRICS = ("auc", "logloss", "normalised_entropy", "calibration")
PENALTIES = (5.0, 10.0, 15.0, 20.0, 30.0)
SEEDS = (0, 1, 2)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/criteo_kaggle/train.tsv"


def main() -> None:
    quick = "one seed, few steps, one penalty"
    arguments = parse_arguments(__doc__, SHARED, quick, MODELS, SEEDS)
    if arguments is None:
        return
    seeds, penalties = arguments.seeds, (15.0,) if arguments.quick else PENALTIES
    if arguments.only:
        runs_of(arguments.only, arguments, seeds)
        return
    runs = {model: runs_of(model, arguments, seeds) for model in MODELS}
    penalty, regression = logistic_regression(arguments.data, penalties)
    metrics, intervals = compare(runs, regression)
    result = Result(
        command="bench_criteo_quality",
        config={
            "data": arguments.data.name,
            "quick": arguments.quick,
            "recipes": {model: recipe_for(model, "criteo").to_dict() for model in MODELS},
            "logistic_regression": {"penalty": penalty, "penalties": penalties},
            "seeds": seeds,
        },
        seed=seeds[0],
        metrics=metrics,
        intervals=intervals,
    )
    report(result, arguments.json)


def runs_of(model: str, arguments: argparse.Namespace, seeds: tuple[int, ...]) -> list[Run]:
    """The model trained, refitted and tested from each seed."""
    recipe = recipe_for(model, "criteo")
    if arguments.quick:
        recipe = shortened(recipe, 48)
    data, kept = f"criteo:{arguments.data}", arguments.runs
    return [run_recipe(model, data, recipe, seed, refit=True, runs=kept) for seed in seeds]


def compare(
    runs: dict[str, list[Run]], regression: Run
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Figures of every model, and what its AUC is above the regression's, with intervals."""
    base = regression.test.compute()
    metrics = {
        "criteo.logistic_regression.auc": base.auc,
        "criteo.logistic_regression.logloss": base.logloss,
    }
    intervals = {}
    for model, seeds in runs.items():
        prefix, lead = f"criteo.{model}", f"criteo.{model}_less_logistic_regression.auc"
        metrics |= test_metrics(prefix, seeds, METRICS)
        validation = [run.metrics["auc_validation"] for run in seeds]
        metrics |= spread(f"{prefix}.auc_validation", validation)
        metrics[lead], intervals[lead] = difference(seeds, [regression])
        for seed, run in enumerate(seeds):
            name = f"{lead}_seed_{seed}"
            metrics[f"{prefix}.auc_seed_{seed}"] = run.test.compute().auc
            metrics[name], intervals[name] = difference([run], [regression], seed=seed)
    return metrics, intervals


def logistic_regression(path: Path, penalties: tuple[float, ...]) -> tuple[float, Run]:
    """The penalty chosen on validation, and the scores of the test after a refit."""
    rows = read_hashed(path)
    bounds = split_bounds(len(rows.labels))
    first, last = bounds["validation"]
    losses = {}
    for penalty in penalties:
        metrics = BinaryMetrics()
        weights = fit_logistic(rows, 0, first, penalty)
        metrics.update(predict(rows, first, last, weights), rows.labels[first:last])
        losses[penalty] = metrics.compute().logloss
    chosen = min(losses, key=losses.__getitem__)
    first, last = bounds["test"]
    test = BinaryMetrics()
    test.update(
        predict(rows, first, last, fit_logistic(rows, 0, first, chosen)), rows.labels[first:last]
    )
    return chosen, Run(tests={"label": test}, metrics={})


if __name__ == "__main__":
    main()
