"""Quality on real queries: DLRM beside the yardsticks on MovieLens-1M, three seeds each.

Settings are those of `tailrank train MODEL --data movielens:…` (the recipes), found on validation
rows only. Each model trains on five sevenths of every user's queries, stops on a seventh and scores
the last seventh once per seed. Differences of the means over seeds have paired bootstrap intervals
over users; `lead_in_spreads` is the difference over the larger of the two spreads between seeds.

    python benchmarks/bench_movielens_quality.py --data ../shared/data/movielens_1m --json X
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tailrank.data.registry import open_dataset
from tailrank.metrics import BinaryMetrics, paired_bootstrap
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.training.procedure import train_and_test
from tailrank.training.recipe import recipe_for
from tailrank.training.scores import load_scores, save_scores

MODELS = ("logistic_regression", "matrix_factorization", "factorization_machine", "dlrm")
METRICS = ("auc", "logloss", "grouped_auc", "ndcg_at_10")
SEEDS = (1, 2, 3)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/movielens_1m"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED, help="the folder of MovieLens-1M")
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of a pass")
    parser.add_argument("--runs", type=Path, help="folder that keeps finished runs for a rerun")
    parser.add_argument("--only", choices=MODELS, help="just this model, into --runs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"SKIPPED: no MovieLens at {arguments.data}; name its folder with --data")
        return
    torch.set_num_threads(1)  # small layers; and a run repeats bit for bit
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    if arguments.only:
        for seed in seeds:
            test_of(arguments.only, arguments, seed)
        return
    tests = {model: [test_of(model, arguments, seed) for seed in seeds] for model in MODELS}
    metrics = values_of(tests)
    intervals = compare_with_dlrm(tests, metrics, 100 if arguments.quick else 1000)
    result = Result(
        command="bench_movielens_quality",
        config={
            "data": arguments.data.name,
            "quick": arguments.quick,
            "recipes": {model: recipe_for(model, "movielens").to_dict() for model in MODELS},
            "seeds": seeds,
        },
        seed=seeds[0],
        metrics=metrics,
        intervals=intervals,
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def test_of(model: str, arguments: argparse.Namespace, seed: int) -> BinaryMetrics:
    """The scores of the test rows after one training run with the model's recipe."""
    recipe = recipe_for(model, "movielens")
    training = replace(recipe.training, seed=seed)
    if arguments.quick:
        training = replace(training, steps=70, evaluate_every=70)
    recipe = replace(recipe, training=training)
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    kept = None if arguments.runs is None else arguments.runs / f"{model}-{seed}-{digest}"
    if kept is not None and kept.is_dir():
        return load_scores(kept)[0]
    dataset = open_dataset(f"movielens:{arguments.data}", recipe.data)
    trained = train_and_test(dataset, recipe)
    assert trained is not None
    print(model, seed, trained.chosen.best_step, trained.metrics(), flush=True)
    if kept is not None:
        kept.mkdir(parents=True)
        save_scores(kept, trained.test, dataset.rows_fingerprint)
    return trained.test


def values_of(tests: dict[str, list[BinaryMetrics]]) -> dict[str, float]:
    """Mean over seeds of every metric, and its smallest and largest value."""
    metrics: dict[str, float] = {}
    for model, runs in tests.items():
        for metric in METRICS:
            found = [getattr(run.compute(), metric) for run in runs]
            name = f"movielens.{model}.{metric}"
            metrics |= {name: float(np.mean(found))}
            metrics |= {f"{name}_min": min(found), f"{name}_max": max(found)}
    return metrics


def compare_with_dlrm(
    tests: dict[str, list[BinaryMetrics]], metrics: dict[str, float], num_resamples: int
) -> dict[str, tuple[float, float]]:
    """Add DLRM less each yardstick, also in spreads between seeds; return the intervals."""
    first, intervals = tests["dlrm"][0], {}
    for model in MODELS[:-1]:
        for metric in METRICS:
            name = f"movielens.dlrm_less_{model}.{metric}"
            metrics[name], low, high = paired_bootstrap(
                np.stack([run.scores for run in tests["dlrm"]]),
                np.stack([run.scores for run in tests[model]]),
                first.labels,
                first.groups,
                metric=metric,
                num_resamples=num_resamples,
            )
            intervals[name] = (low, high)
            both = [f"movielens.{which}.{metric}" for which in ("dlrm", model)]
            spread = max(metrics[f"{each}_max"] - metrics[f"{each}_min"] for each in both)
            if spread > 0.0:
                metrics[f"{name}_lead_in_spreads"] = metrics[name] / spread
    return intervals


if __name__ == "__main__":
    main()
