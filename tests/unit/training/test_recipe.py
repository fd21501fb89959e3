"""What training is told where nobody looked for settings: few rows get enough steps."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tailrank.cli import main
from tailrank.commands.train import train
from tailrank.data.registry import DataSettings
from tailrank.features import Feature, FeatureSpec, TableSpec
from tailrank.models.registry import architecture_names, config_for
from tailrank.reporting.result import read_result
from tailrank.training.config import TrainingConfig
from tailrank.training.recipe import Recipe, for_rows, recipe_for


@pytest.mark.parametrize(
    ("num_rows", "batch_items", "epochs"),
    [
        (1, 64, 20),
        (1_400, 64, 20),
        (10_000, 64, 13),
        (35_000, 256, 15),
        (10**6, 2048, 5),
        (10**8, 2048, 1),
    ],
)
def test_batches_and_passes_follow_the_number_of_rows(num_rows, batch_items, epochs) -> None:
    sized = for_rows(TrainingConfig(lr=0.3), num_rows)
    assert (sized.batch_items, sized.epochs, sized.lr) == (batch_items, epochs, 0.3)


def test_what_the_user_sets_stays_and_the_rest_follows_it() -> None:
    assert for_rows(TrainingConfig(), 10_000, epochs=1).batch_items == 64
    own = for_rows(TrainingConfig(), 10_000, batch_items=500)
    assert (own.batch_items, own.epochs, own.steps_planned(10_000)) == (500, 20, 400)


def own_table(folder: Path, num_labels: int = 2) -> list[str]:
    """Words that name a table of one user and one item feature."""
    log, schema = folder / "t.csv", folder / "schema.toml"
    rows = (f"{row % num_labels},{row % 30},{row % 7}\n" for row in range(140))
    log.write_text("y,u,i\n" + "".join(rows))
    features = '[[feature]]\nname = "u"\nside = "user"\n[[feature]]\nname = "i"\n'
    schema.write_text(f'label = "y"\n{features}')
    return ["--data", f"table:{log}", "--schema", str(schema), "--out", str(folder / "run")]


@pytest.mark.parametrize("variant", [None, "gmf", "mlp", "neumf"])
@pytest.mark.parametrize("architecture", architecture_names())
def test_every_default_dim_can_be_used(architecture: str, variant: str | None) -> None:
    dim = recipe_for(architecture, "table", variant).data.embedding_dim
    tables = tuple(TableSpec(name=n, num_embeddings=9, embedding_dim=dim) for n in ("u", "i"))
    kind = "sequence" if architecture in ("din", "dien") else "bag"
    user = [Feature(name="u", side="user", kind="bag", table="u")]
    user = [Feature(name="h", side="user", kind="sequence", table="i")] if kind != "bag" else user
    item = Feature(name="i", side="item", kind="bag", table="i")
    spec = FeatureSpec(features=(*user, item), tables=tables[1:] if kind != "bag" else tables)
    sizes = {"variant": variant} if architecture == "ncf" and variant else {}
    assert config_for(architecture, spec, sizes).spec == spec


def test_ncf_trains_on_an_own_table_as_it_is(tmp_path: Path, capsys) -> None:
    assert main(["train", "ncf", *own_table(tmp_path), "--dry-run", "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)["config"]["recipe"]
    assert recipe["data"]["embedding_dim"] == 24


@pytest.mark.parametrize(
    ("model", "num_labels", "words", "said"),
    [
        ("dlrm", 1, [], "all 100 training rows have label 0"),
        ("dlrm", 2, ["--top-mlp", "0"], "--top-mlp: got '0'; allowed: whole numbers from 1"),
        ("dlrm", 2, ["--select-by", "ndcg_at_10"], "--select-by: got 'ndcg_at_10'"),
        ("dlrm", 2, ["--task-weights", "1,2"], "task"),
        ("dlrm", 2, ["--warmup-steps", "5000"], "less than the 10 steps planned"),
        ("ncf", 2, ["--embedding-dim", "16"], "a multiple of 3 for neumf: --embedding-dim 15"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_its_plan(
    tmp_path: Path, capsys, model, num_labels, words, said
) -> None:
    table = own_table(tmp_path, num_labels)
    assert main(["train", model, *table, "--epochs", "5", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert "plan:" not in printed.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["schema.toml", "t.csv"]


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_a_run_says_its_steps_before_it_starts(tmp_path: Path, capsys, extra) -> None:
    log, schema = tmp_path / "t.csv", tmp_path / "schema.toml"
    log.write_text("y,a,b\n" + "".join(f"{row % 2},{row % 3},{row % 5}\n" for row in range(1400)))
    schema.write_text('label = "y"\n[[feature]]\nname = "a"\n[[feature]]\nname = "b"\n')
    words = ["train", "dlrm", "--data", f"table:{log}", "--schema", str(schema)]
    assert main([*words, "--epochs", "2", "--out", str(tmp_path / "run"), *extra]) == 0
    said = "plan: at most 32 steps of 64 rows, 2 x 1,000 training rows; validation every 16 steps"
    assert said in capsys.readouterr().out
    if not extra:
        recipe = read_result(tmp_path / "run/result.json").config["recipe"]
        assert (recipe["training"]["batch_items"], recipe["training"]["epochs"]) == (64, 2)


def test_help_names_the_defaults() -> None:
    flags = dict(
        re.findall(r"^        (\w+): (.*(?:\n            .*)*)", train.__doc__ or "", re.M)
    )
    own = {"dense_optimizer": "optimizer"}
    for settings in (TrainingConfig(), DataSettings()):
        for field in fields(settings):
            name, default = own.get(field.name, field.name), getattr(settings, field.name)
            if name in ("batch_items", "epochs", "seed") or name not in flags:
                continue  # by the number of rows; of the command, which shows it
            if isinstance(default, (int, float, str)) and not isinstance(default, bool):
                shown = f"{default:g}" if isinstance(default, float) else default
                assert re.search(rf"\b{shown}\b", flags[name]), (name, default)


def test_a_variant_may_have_a_recipe_of_its_own() -> None:
    recipes = {name: recipe_for("ncf", "ncf", name) for name in (None, "gmf", "mlp", "pretrained")}
    dims = {name: recipe.data.embedding_dim for name, recipe in recipes.items()}
    assert dims == {None: 96, "gmf": 32, "mlp": 64, "pretrained": 96}  # 32 factors each
    assert recipe_for("ncf", "ncf", "neumf") == recipes[None]
    for name, dim in {None: 24, "gmf": 8, "mlp": 16, "pretrained": 24}.items():  # 8 factors each
        data = DataSettings(embedding_dim=dim)
        assert recipe_for("ncf", "table", name) == Recipe(architecture="ncf", data=data)
    assert recipes["pretrained"].training.table_optimizer == "sgd"
