"""What a run is said to take, against what it takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from tailrank.cli import main
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.training.estimate import estimate_training
from tailrank.training.procedure import train_and_test
from tailrank.training.recipe import Recipe, recipe_for


def small() -> tuple[SyntheticDataset, Recipe]:
    recipe = recipe_for("dlrm", "synthetic")
    return SyntheticDataset(SyntheticConfig(rows=5600, num_embeddings=40)), recipe


@pytest.mark.parametrize("refit", [False, True])
def test_rows_tables_and_steps_are_those_of_the_run(refit: bool) -> None:
    dataset, recipe = small()
    recipe = replace(recipe, training=replace(recipe.training, patience=99))
    estimate = estimate_training(dataset, recipe, refit=refit)
    assert estimate.num_rows == {"train": 4000, "validation": 800, "test": 800}
    assert estimate.table_rows == {f"{side}_{i}": 40 for side in ("user", "item") for i in range(3)}
    assert estimate.memory_bytes == recipe.bytes_needed(dataset)
    trained = train_and_test(dataset, recipe, refit=refit)
    assert trained is not None
    steps = trained.chosen.step
    if trained.refit is not None and trained.chosen.best_step == steps:
        steps += trained.refit.step
    assert estimate.num_steps >= steps
    assert estimate.seconds > 0.0


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "dlrm", "--data", "synthetic:rows=5600", "--out", "deep/run", "--dry-run"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    for expected in ("user_0", "500", "train 4,000", "memory", "samples/s", "nothing was trained"):
        assert expected in printed


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_training_rows_of_one_class_are_refused(tmp_path: Path, capsys, extra: list[str]) -> None:
    log, schema = tmp_path / "t.csv", tmp_path / "schema.toml"
    log.write_text("y,a,b\n" + "".join(f"{row // 60},{row % 3},{row % 5}\n" for row in range(70)))
    schema.write_text('label = "y"\n[[feature]]\nname = "a"\n[[feature]]\nname = "b"\n')
    words = ["train", "dlrm", "--data", f"table:{log}", "--schema", str(schema)]
    assert main([*words, "--out", str(tmp_path / "run"), *extra]) == 2
    assert (
        "table: all 50 training rows have label 0; training needs rows" in capsys.readouterr().err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["schema.toml", "t.csv"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("--warmup-steps", "99"), ("--select-by", "grouped_auc"), ("--tensorboard", "events")],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(
    tmp_path: Path, capsys, monkeypatch, setting: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    events = Path("events/train/events.out.tfevents.1")  # of an earlier run
    events.parent.mkdir(parents=True)
    events.touch()
    log, schema = tmp_path / "t.csv", tmp_path / "schema.toml"
    log.write_text("y,a,b\n" + "".join(f"{row % 2},{row % 3},{row % 5}\n" for row in range(70)))
    schema.write_text('label = "y"\n[[feature]]\nname = "a"\n[[feature]]\nname = "b"\n')
    words = ["train", "dlrm", "--data", f"table:{log}", "--schema", str(schema)]
    words += ["--out", str(tmp_path / "run"), setting, value]
    said = []
    for more in ([], ["--dry-run"]):
        assert main([*words, *more]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
