"""Quality of GMF, MLP and NeuMF by leave-one-out on MovieLens-1M, as the NCF paper measures it.

32 factors, the authors' split: each user's latest item among 99 that it has not met, those equal to
it dropped. Settings are the recipes of `tailrank train ncf --data ncf:…`, and how many passes they
make was chosen on the validation rows of one seed, one like of each user. Each model is then
trained on all likes but the tested ones from three seeds, and scores the test once per seed. NeuMF
with pre-training starts from the GMF and the MLP of its seed.

    python benchmarks/bench_ncf_quality.py --data ../shared/data/ncf_ml1m --runs runs/ncf --json X
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from quality_runs import (
    Run,
    difference,
    parse_arguments,
    report,
    run_name,
    run_recipe,
    shortened,
    spread,
)
from tailrank.core.files import replace_directory
from tailrank.data.dataset import Dataset
from tailrank.inference.artifact import save_artifact
from tailrank.reporting.result import Result
from tailrank.training.evaluation import evaluate
from tailrank.training.loop import fit
from tailrank.training.procedure import Trained
from tailrank.training.recipe import Recipe, recipe_for

# What results call a model, and the variant whose recipe it has.
MODELS = {"gmf": "gmf", "mlp": "mlp", "neumf": "neumf", "neumf_pretrained": "pretrained"}
PARTS = ("gmf", "mlp")
SEEDS = (1, 2, 3)
SHARED = Path(__file__).resolve().parents[2] / "shared/data/ncf_ml1m"


def main() -> None:
    arguments = parse_arguments(__doc__, SHARED, "one seed, 20 steps", tuple(MODELS), SEEDS)
    if arguments is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.runs or Path(scratch)
        wanted = [arguments.only] if arguments.only else list(MODELS)
        runs = {
            model: [
                run_of(model, arguments.data, seed, folder, arguments.quick)
                for seed in arguments.seeds
            ]
            for model in wanted
        }
    metrics: dict[str, float] = {}
    for model, of_seeds in runs.items():
        values = [run.test.compute() for run in of_seeds]
        metrics |= spread(f"ncf.{model}.hr10", [value.hit_rate_at_10 for value in values])
        metrics |= spread(f"ncf.{model}.ndcg10", [value.ndcg_at_10 for value in values])
    intervals = {}
    for model in ("gmf", "mlp", "neumf_pretrained") if not arguments.only else ():
        name, resamples = f"ncf.{model}.hr10_over_neumf", 100 if arguments.quick else 1000
        metrics[name], intervals[name] = difference(
            runs[model], runs["neumf"], metric="hit_rate_at_10", num_resamples=resamples
        )
    recipes = {model: recipe_for("ncf", "ncf", MODELS[model]).to_dict() for model in wanted}
    result = Result(
        command="bench_ncf_quality",
        config={
            "data": arguments.data.name,
            "quick": arguments.quick,
            "recipes": recipes,
            "seeds": arguments.seeds,
            "trained_on": "train and validation",
        },
        seed=arguments.seeds[0],
        metrics=metrics,
        intervals=intervals,
    )
    report(result, arguments.json)


def run_of(model: str, data: Path, seed: int, folder: Path, quick: bool) -> Run:
    """Train a model from a seed, after the models that it starts from; or what was kept of it."""
    recipe = recipe_of(model, data, seed, folder, quick)
    if recipe.pretrained:
        for part in PARTS:
            run_of(part, data, seed, folder, quick)
    artifact = artifact_of(model, data, recipe, seed, folder)
    procedure = partial(train_on_all, artifact=artifact)
    return run_recipe(
        model, f"ncf:{data}", recipe, seed, runs=folder, procedure=procedure, artifact=artifact
    )


def recipe_of(model: str, data: Path, seed: int, folder: Path, quick: bool) -> Recipe:
    """A model's recipe, with the models that it starts from: other ones for other settings."""
    recipe = recipe_for("ncf", "ncf", MODELS[model])
    if quick:
        recipe = shortened(recipe, 20)
    if model != "neumf_pretrained":
        return recipe
    of_parts = {part: recipe_of(part, data, seed, folder, quick) for part in PARTS}
    parts = [artifact_of(part, data, of_parts[part], seed, folder) for part in PARTS]
    return replace(recipe, pretrained=tuple(map(str, parts)))


def artifact_of(model: str, data: Path, recipe: Recipe, seed: int, folder: Path) -> Path:
    """Where the trained model is, beside its run."""
    return folder / f"{run_name(model, f'ncf:{data}', recipe, seed)}-model"


def train_on_all(dataset: Dataset, recipe: Recipe, *, refit: bool, artifact: Path) -> Trained:
    """Train on every like but the tested ones, for the recipe's passes, and keep the model."""
    model = recipe.fresh_model(dataset)
    done = fit(model, dataset, recipe.training, splits=("train", "validation"))
    with replace_directory(artifact, overwrite=True) as fresh:
        save_artifact(fresh, model, training={"recipe": recipe.to_dict()})
    tests = evaluate(model, dataset, ("test",))
    return Trained(
        model=model, dataset=dataset, recipe=recipe, chosen=done, refit=done, tests=tests
    )


if __name__ == "__main__":
    main()
