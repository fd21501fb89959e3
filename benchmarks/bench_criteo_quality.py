"""Quality on real clicks: DLRM beside logistic regression on the same rows of the Criteo sample.

Settings are those of `tailrank train dlrm --data criteo:…` (its recipe), found on validation rows
only, as is the penalty of the regression. Each model is then refitted on the first 6/7 in time
and scores the last 1/7 once per seed. The difference of the AUCs (mean over seeds, and of each
seed) has a paired bootstrap interval over rows.

    python benchmarks/bench_criteo_quality.py --data ../shared/data/criteo_kaggle/train.tsv --json X
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from peers.logistic_regression import fit_logistic, predict, read_hashed
from tailrank.data.dataset import split_bounds
from tailrank.data.registry import open_dataset
from tailrank.metrics import BinaryMetrics, paired_bootstrap
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.training.procedure import Trained, train_and_test
from tailrank.training.recipe import RECIPES

PENALTIES = (5.0, 10.0, 15.0, 20.0, 30.0)
SEEDS = (0, 1, 2)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/criteo_kaggle/train.tsv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED, help="the Criteo TSV")
    parser.add_argument("--quick", action="store_true", help="one seed, one penalty")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        print(f"SKIPPED: no Criteo log at {arguments.data}; name one with --data")
        return
    seeds, penalties = (SEEDS[:1], (15.0,)) if arguments.quick else (SEEDS, PENALTIES)
    penalty, regression = logistic_regression(arguments.data, penalties)
    base = regression.compute()
    metrics = {
        "criteo.logistic_regression.auc": base.auc,
        "criteo.logistic_regression.logloss": base.logloss,
    }
    runs, differences, scores = [], [], []
    for seed in seeds:
        trained = dlrm(arguments.data, seed)
        values = trained.test.compute()
        assert np.array_equal(trained.test.labels, regression.labels), "the same rows"
        scores.append(trained.test.scores)
        runs.append((values, trained.metrics()))
        differences.append(
            paired_bootstrap(trained.test.scores, regression.scores, regression.labels, seed=seed)
        )
        metrics[f"criteo.dlrm.auc_seed_{seed}"] = values.auc
        metrics[f"criteo.dlrm.logloss_seed_{seed}"] = values.logloss
        metrics[f"criteo.difference_auc_seed_{seed}"] = differences[-1][0]
    overall = paired_bootstrap(np.stack(scores), regression.scores, regression.labels)
    metrics |= {
        "criteo.dlrm.auc": float(np.mean([values.auc for values, _ in runs])),
        "criteo.dlrm.logloss": float(np.mean([values.logloss for values, _ in runs])),
        "criteo.dlrm.normalised_entropy": float(
            np.mean([values.normalised_entropy for values, _ in runs])
        ),
        "criteo.dlrm.calibration": float(np.mean([values.calibration for values, _ in runs])),
        "criteo.dlrm.auc_validation": float(np.mean([m["auc_validation"] for _, m in runs])),
        "criteo.difference_auc": overall[0],
    }
    intervals = {
        f"criteo.difference_auc_seed_{seed}": found[1:]
        for seed, found in zip(seeds, differences, strict=True)
    }
    result = Result(
        command="bench_criteo_quality",
        config={
            "data": str(arguments.data),
            "recipe": RECIPES["dlrm", "criteo"].to_dict(),
            "logistic_regression": {"penalty": penalty, "penalties": penalties},
            "seeds": seeds,
        },
        seed=seeds[0],
        metrics=metrics,
        intervals={**intervals, "criteo.difference_auc": overall[1:]},
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def dlrm(path: Path, seed: int) -> Trained:
    """The recipe with another seed: chosen on validation, refitted, tested once."""
    recipe = RECIPES["dlrm", "criteo"]
    recipe = replace(recipe, training=replace(recipe.training, seed=seed))
    dataset = open_dataset(f"criteo:{path}", recipe.data)
    trained = train_and_test(dataset, recipe, refit=True)
    assert trained is not None
    return trained


def logistic_regression(path: Path, penalties: tuple[float, ...]) -> tuple[float, BinaryMetrics]:
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
    return chosen, test


if __name__ == "__main__":
    main()
