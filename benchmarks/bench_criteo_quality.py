"""Quality on real clicks: DLRM beside logistic regression on the same rows of the Criteo sample.

Settings are those of `tailrank train dlrm --data criteo:…` (its recipe), found on validation rows
only, as is the penalty of the regression. Each model is then refitted on the first 6/7 in time
and scores the last 1/7 once per seed. The difference of the AUCs (mean over seeds, and of each
seed) has a paired bootstrap interval over rows.

    python benchmarks/bench_criteo_quality.py --data ../shared/data/criteo_kaggle/train.tsv --json X
"""

from __future__ import annotations

from pathlib import Path

from peers.logistic_regression import fit_logistic, predict, read_hashed
from quality_runs import Run, difference, parse_arguments, report, run_recipe, spread, test_metrics
from tailrank.data.dataset import split_bounds
from tailrank.metrics import BinaryMetrics
from tailrank.reporting.result import Result
from tailrank.training.recipe import recipe_for

METRICS = ("auc", "logloss", "normalised_entropy", "calibration")
PENALTIES = (5.0, 10.0, 15.0, 20.0, 30.0)
SEEDS = (0, 1, 2)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/criteo_kaggle/train.tsv"


def main() -> None:
    arguments = parse_arguments(__doc__, SHARED, "one seed, one penalty", ("dlrm",))
    if arguments is None:
        return
    recipe = recipe_for("dlrm", "criteo")
    seeds, penalties = (SEEDS[:1], (15.0,)) if arguments.quick else (SEEDS, PENALTIES)
    data, kept = f"criteo:{arguments.data}", arguments.runs
    runs = [run_recipe("dlrm", data, recipe, seed, refit=True, runs=kept) for seed in seeds]
    if arguments.only:
        return
    penalty, regression = logistic_regression(arguments.data, penalties)
    base = regression.test.compute()
    metrics = {
        "criteo.logistic_regression.auc": base.auc,
        "criteo.logistic_regression.logloss": base.logloss,
    }
    intervals = {}
    for seed, run in zip(seeds, runs, strict=True):
        values, name = run.test.compute(), f"criteo.difference_auc_seed_{seed}"
        metrics[f"criteo.dlrm.auc_seed_{seed}"] = values.auc
        metrics[f"criteo.dlrm.logloss_seed_{seed}"] = values.logloss
        metrics[name], intervals[name] = difference([run], [regression], seed=seed)
    name = "criteo.difference_auc"
    metrics |= test_metrics("criteo.dlrm", runs, METRICS)
    metrics |= spread("criteo.dlrm.auc_validation", [run.metrics["auc_validation"] for run in runs])
    metrics[name], intervals[name] = difference(runs, [regression])
    result = Result(
        command="bench_criteo_quality",
        config={
            "data": str(arguments.data),
            "recipe": recipe.to_dict(),
            "logistic_regression": {"penalty": penalty, "penalties": penalties},
            "seeds": seeds,
        },
        seed=seeds[0],
        metrics=metrics,
        intervals=intervals,
    )
    report(result, arguments.json)


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
