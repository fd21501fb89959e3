"""Quality on real queries: DLRM beside the yardsticks on MovieLens-1M, three seeds each.

Settings are those of `tailrank train MODEL --data movielens:…` (the recipes), found on validation
rows only. Each model trains on five sevenths of every user's queries, stops on a seventh and scores
the last seventh once per seed. Differences of the means over seeds have paired bootstrap intervals
over users; `lead_in_spreads` is the difference over the larger of the two spreads between seeds.

    python benchmarks/bench_movielens_quality.py --data ../shared/data/movielens_1m --json X
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quality_runs import (
    Run,
    difference,
    lead_in_spreads,
    parse_arguments,
    report,
    run_recipe,
    shortened,
    test_metrics,
)
from tailrank.reporting.result import Result
from tailrank.training.recipe import recipe_for

MODELS = ("logistic_regression", "matrix_factorization", "factorization_machine", "dlrm")
METRICS = ("auc", "logloss", "grouped_auc", "ndcg_at_10")
SEEDS = (1, 2, 3)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/movielens_1m"


def main() -> None:
    arguments = parse_arguments(__doc__, SHARED, "one seed, a tenth of a pass", MODELS, SEEDS)
    if arguments is None:
        return
    seeds = arguments.seeds
    models = (arguments.only,) if arguments.only else MODELS
    runs = {model: [train(model, arguments, seed) for seed in seeds] for model in models}
    if arguments.only:
        return
    metrics: dict[str, float] = {}
    for model, found in runs.items():
        metrics |= test_metrics(f"movielens.{model}", found, METRICS)
    intervals = compare_with_dlrm(runs, metrics, 100 if arguments.quick else 1000)
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
    report(result, arguments.json)


def train(model: str, arguments: argparse.Namespace, seed: int) -> Run:
    """One training run with the model's recipe."""
    recipe = recipe_for(model, "movielens")
    if arguments.quick:
        recipe = shortened(recipe, 70)
    return run_recipe(model, f"movielens:{arguments.data}", recipe, seed, runs=arguments.runs)


def compare_with_dlrm(
    runs: dict[str, list[Run]], metrics: dict[str, float], num_resamples: int
) -> dict[str, tuple[float, float]]:
    """Add DLRM less each yardstick, also in spreads between seeds; return the intervals."""
    intervals = {}
    for model in MODELS[:-1]:
        for metric in METRICS:
            name = f"movielens.dlrm_less_{model}.{metric}"
            metrics[name], intervals[name] = difference(
                runs["dlrm"], runs[model], metric=metric, num_resamples=num_resamples
            )
            both = [f"movielens.{which}.{metric}" for which in ("dlrm", model)]
            lead = lead_in_spreads(metrics, metrics[name], *both)
            if lead is not None:
                metrics[f"{name}_lead_in_spreads"] = lead
    return intervals


if __name__ == "__main__":
    main()
