"""What the quality benchmarks share: runs of a recipe by seed, their spread, and differences.

A run is what `tailrank train MODEL --data …` does: chosen on validation, then the test part is
scored once. Finished runs can be kept in a folder (`--runs`), by everything that decides them but
the code, so that a benchmark can be interrupted and its models trained one by one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tailrank.core.files import replace_text
from tailrank.data.registry import open_dataset
from tailrank.metrics import BinaryMetrics, PairedMetric, paired_bootstrap
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.training.procedure import Trained, train_and_test
from tailrank.training.recipe import Recipe
from tailrank.training.scores import load_scores, save_scores

_METRICS_FILE = "metrics.json"  # written last: a folder that has it is whole


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One model trained from one seed.

    Args:
        tests: scores of the test rows, for each task.
        metrics: of `Trained.metrics`, such as `auc_test`, `auc_validation` and `step_chosen`.
    """

    tests: dict[str, BinaryMetrics]
    metrics: dict[str, float]

    @property
    def test(self) -> BinaryMetrics:
        """Scores of the test rows where there is one task."""
        (scored,) = self.tests.values()
        return scored

    def only(self, task: str) -> Run:
        """The run as if it had this task alone."""
        return replace(self, tests={task: self.tests[task]})


def parse_arguments(
    description: str | None,
    data: Path,
    quick: str,
    models: Sequence[str],
    seeds: Sequence[int],
) -> argparse.Namespace | None:
    """The arguments that every quality benchmark has; None, said loudly, without its data.

    Torch is set to one thread: layers are small, and a run then repeats bit for bit.

    Args:
        description: the benchmark's docstring.
        data: where the data usually are, a file or a folder.
        quick: what `--quick` leaves of it.
        models: that `--only` may name.
        seeds: to train from; `--quick` leaves the first of them.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=data, help=f"default: {data.name}")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--runs", type=Path, help="folder that keeps finished runs for a rerun")
    parser.add_argument("--only", choices=models, help="just this model, its runs kept in --runs")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="default: " + " ".join(map(str, seeds))
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.seeds = tuple(arguments.seeds or (seeds[:1] if arguments.quick else seeds))
    if arguments.only and not arguments.runs:
        parser.error("--only needs --runs, the folder to keep its runs in")
    torch.set_num_threads(1)
    if arguments.data.exists():
        return arguments
    print(f"SKIPPED: no data at {arguments.data}; name them with --data")
    return None


def run_recipe(
    model: str,
    data: str,
    recipe: Recipe,
    seed: int,
    *,
    refit: bool = False,
    runs: Path | None = None,
    procedure: Callable[..., Trained | None] = train_and_test,
    artifact: Path | None = None,
) -> Run:
    """Train a model by its recipe from this seed, or load the run that was kept.

    Args:
        model: what the run is called.
        data: as `open_dataset` reads it.
        recipe: sizes and settings; its seed gives way to `seed`.
        seed: of the weights and the order of rows.
        refit: whether to train again on train + validation before the test is scored.
        runs: folder of finished runs; None: keep none.
        procedure: takes data set, recipe and `refit`, for models that train in stages.
        artifact: what `procedure` writes too; a kept run without it is trained again.
    """
    recipe = replace(recipe, training=replace(recipe.training, seed=seed))
    kept = None if runs is None else runs / run_name(model, data, recipe, seed, refit=refit)
    whole = artifact is None or artifact.is_dir()
    if whole and kept is not None and (kept / _METRICS_FILE).is_file():
        metrics = json.loads((kept / _METRICS_FILE).read_text(encoding="utf-8"))
        return Run(tests=load_scores(kept)[0], metrics=metrics)
    dataset = open_dataset(data, recipe.data)
    trained = procedure(dataset, recipe, refit=refit)
    assert trained is not None, "nobody asked it to stop"
    run = Run(tests=trained.tests, metrics=trained.metrics())
    print(model, seed, run.metrics, flush=True)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        save_scores(kept, run.tests, dataset.rows_fingerprint)
        replace_text(kept / _METRICS_FILE, json.dumps(run.metrics, indent=2))
    return run


def run_name(model: str, data: str, recipe: Recipe, seed: int, *, refit: bool = False) -> str:
    """What a run is kept as: another name for every setting of it; see `run_recipe`."""
    recipe = replace(recipe, training=replace(recipe.training, seed=seed))
    decides = repr((data, recipe, refit))
    return f"{model}-{seed}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for this many steps and one evaluation, to try a benchmark out."""
    training = replace(recipe.training, steps=steps, evaluate_every=steps)
    return replace(recipe, training=training)


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds, and the smallest and the largest value as `NAME_min` and `NAME_max`."""
    return {
        name: float(np.mean(values)),
        f"{name}_min": float(min(values)),
        f"{name}_max": float(max(values)),
    }


def test_metrics(prefix: str, runs: Sequence[Run], metrics: Sequence[str]) -> dict[str, float]:
    """The `spread` of each of these fields of `MetricValues`, named `PREFIX.METRIC`."""
    values = [run.test.compute() for run in runs]
    found: dict[str, float] = {}
    for metric in metrics:
        found |= spread(f"{prefix}.{metric}", [getattr(value, metric) for value in values])
    return found


def difference(
    runs: Sequence[Run],
    others: Sequence[Run],
    *,
    metric: PairedMetric = "auc",
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """Mean of a metric over runs less that over others, with a paired bootstrap's interval.

    Raises:
        AssertionError: they are not of the same rows.
    """
    first = runs[0].test
    for run in (*runs, *others):
        assert np.array_equal(run.test.labels, first.labels), "the same rows"
    found, low, high = paired_bootstrap(
        np.stack([run.test.scores for run in runs]),
        np.stack([run.test.scores for run in others]),
        first.labels,
        first.groups,
        metric=metric,
        num_resamples=num_resamples,
        seed=seed,
    )
    return found, (low, high)


def lead_in_spreads(metrics: dict[str, float], lead: float, one: str, other: str) -> float | None:
    """A lead over the larger spread between seeds of the two metrics; None if seeds all agree."""
    widest = max(metrics[f"{name}_max"] - metrics[f"{name}_min"] for name in (one, other))
    return lead / widest if widest > 0.0 else None


def report(result: Result, json_path: Path | None) -> None:
    """Print the result, and write it where the user wants it."""
    if json_path:
        write_result(json_path, result)
    print(to_json(result))
