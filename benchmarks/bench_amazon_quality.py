"""What attention to behaviours is worth: DIN and DIEN beside a mean of behaviours, on Amazon.

Settings are those of `tailrank train MODEL --data amazon:…` (the recipes), found on validation for
each model in the same way. Each model trains per category and seed, stops on validation and scores
the test once: each user's last item among 99 that it has not met. Differences of the means over
seeds have paired bootstrap intervals over users.

    python benchmarks/bench_amazon_quality.py --data ../shared/data/amazon --runs RUNS --json X
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quality_runs import Run, difference, parse_arguments, report, run_recipe, shortened, spread
from tailrank.metrics import PairedMetric
from tailrank.reporting.result import Result
from tailrank.training.recipe import recipe_for

CATEGORIES = {"beauty": "Beauty", "toys": "Toys_and_Games"}
BASELINE = "mean_pooling"
MODELS = (BASELINE, "din", "dien")
METRICS: dict[str, PairedMetric] = {
    "gauc": "grouped_auc",
    "ndcg10": "ndcg_at_10",
    "hr10": "hit_rate_at_10",
}
SEEDS = (1, 2, 3)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/amazon"


def main() -> None:
    arguments = parse_arguments(__doc__, SHARED, "one seed, Beauty, 70 steps", MODELS, SEEDS)
    if arguments is None:
        return
    seeds = arguments.seeds
    categories = ("beauty",) if arguments.quick else tuple(CATEGORIES)
    models = (arguments.only,) if arguments.only else MODELS
    runs = {
        (category, model): [train(category, model, arguments, seed) for seed in seeds]
        for category in categories
        for model in models
    }
    if arguments.only:
        return
    metrics: dict[str, float] = {}
    for (category, model), found in runs.items():
        values = [run.test.compute() for run in found]
        for name, field in METRICS.items():
            prefix = f"{category}.{model}.{name}"
            metrics |= spread(prefix, [getattr(value, field) for value in values])
    intervals = compare_with_baseline(runs, metrics, 100 if arguments.quick else 1000)
    result = Result(
        command="bench_amazon_quality",
        config={
            "data": arguments.data.name,
            "quick": arguments.quick,
            "recipes": {model: recipe_for(model, "amazon").to_dict() for model in MODELS},
            "seeds": seeds,
        },
        seed=seeds[0],
        metrics=metrics,
        intervals=intervals,
    )
    report(result, arguments.json)


def train(category: str, model: str, arguments: argparse.Namespace, seed: int) -> Run:
    """One run, of the model's recipe."""
    recipe = recipe_for(model, "amazon")
    if arguments.quick:
        recipe = shortened(recipe, 70)
    data = f"amazon:{arguments.data / CATEGORIES[category]}"
    return run_recipe(f"{category}-{model}", data, recipe, seed, runs=arguments.runs)


def compare_with_baseline(
    runs: dict[tuple[str, str], list[Run]], metrics: dict[str, float], num_resamples: int
) -> dict[str, tuple[float, float]]:
    """Add each model less the baseline; return the intervals."""
    intervals = {}
    for category, model in runs:
        if model == BASELINE:
            continue
        for name, field in METRICS.items():
            prefix = f"{category}.{model}_less_{BASELINE}.{name}"
            metrics[prefix], intervals[prefix] = difference(
                runs[category, model],
                runs[category, BASELINE],
                metric=field,
                num_resamples=num_resamples,
            )
    return intervals


if __name__ == "__main__":
    main()
