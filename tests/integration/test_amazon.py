"""Sequences from files to a served model: train, go on after a stop, evaluate, export."""

import json
from pathlib import Path

import pytest
import torch
from tests.integration.verbs import run_json
from tests.unit.data.amazon_files import write_amazon

from tailrank.cli import main
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.inference import load
from tailrank.models import build_model
from tailrank.models.registry import config_for
from tailrank.training.config import TrainingConfig
from tailrank.training.loop import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `Toys` and a DIN in `model`."""
    folder = tmp_path_factory.mktemp("amazon")
    write_amazon(folder, num_users=30)
    words = ["--embedding-dim", "4", "--num-negatives", "2", "--batch-items", "64"]
    words += ["--epochs", "1", "--select-by", "grouped_auc", "--size", "top_mlp=8"]
    data, out = f"amazon:{folder / 'Toys'}", str(folder / "model")
    assert main(["train", "din", "--data", data, "--out", out, "--refit", *words]) == 0
    return folder


def test_next_items_are_ranked_among_a_hundred(trained: Path, capsys) -> None:
    learned = json.loads((trained / "model/result.json").read_text())["metrics"]
    assert 0.0 < learned["hit_rate_at_10_test"] < 1.0
    data = f"amazon:{trained / 'Toys'}"
    code, result = run_json(capsys, "evaluate", str(trained / "model"), "--data", data)
    assert code == 0
    assert result["metrics"]["num_rows_test"] == 30 * 100
    for name in ("grouped_auc_test", "ndcg_at_10_test", "hit_rate_at_10_test"):
        assert result["metrics"][name] == pytest.approx(learned[name], abs=1e-6)


def test_an_exported_model_ranks_as_the_one_that_was_trained(
    trained: Path, tmp_path: Path, capsys
) -> None:
    data = f"amazon:{trained / 'Toys'}"
    words = ["export", str(trained / "model"), "--precision", "rows=bf16", "--data", data]
    code, result = run_json(
        capsys, *words, "--out", str(tmp_path / "bf16"), "--max-auc-drop", "0.5"
    )
    assert code == 0
    assert result["metrics"]["auc_drop_fraction"] < 0.01
    batch, _ = next(open_dataset(data, DataSettings(embedding_dim=4)).batches(("test",), 300))
    folders = (trained / "model", tmp_path / "bf16")
    scores = [load(folder)[0].rank(batch) for folder in folders]
    torch.testing.assert_close(*scores, rtol=0.0, atol=0.01)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    dataset = open_dataset(f"amazon:{trained / 'Toys'}", DataSettings(embedding_dim=4))
    config = TrainingConfig(batch_items=64, epochs=3, average_fraction=0.2, patience=9)
    config_of_model = config_for("din", dataset.spec, {"top_mlp": (8,)})
    whole = build_model(config_of_model, seed=1)
    losses = []
    fit(whole, dataset, config, progress=lambda now: losses.append(now.step_logloss))
    # In the middle of a pass, whose negatives have to be those of the unbroken one.
    stop = len(losses) // 2
    assert stop % config.steps_per_epoch(dataset.num_rows(("train",)))
    again: list[float] = []
    for resume in (False, True):
        model = build_model(config_of_model, seed=1)
        fit(
            model,
            dataset,
            config,
            out=tmp_path,
            resume=resume,
            progress=lambda now: again.append(now.step_logloss),
            should_stop=lambda resume=resume: not resume and len(again) == stop,
        )
    assert again == losses
    assert all(
        torch.equal(ours, other)
        for ours, other in zip(whole.parameters(), model.parameters(), strict=True)
    )
