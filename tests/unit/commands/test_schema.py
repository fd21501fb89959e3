"""`schema` proposes a file with which a model learns as it is, and overwrites nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.unit.data.table_files import make_rows, write_csv, write_parquet

from tailrank.cli import main
from tailrank.data.schema import load_schema, parse_schema


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small batches on several threads mostly wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_model_learns_with_the_proposed_schema(tmp_path: Path, capsys, write) -> None:
    path = write(tmp_path / write.__name__.replace("write_", "log."), make_rows(800, seed=1))
    schema, model = tmp_path / "schema.toml", tmp_path / "model"
    assert main(["schema", str(path), "--out", str(schema), "--quiet"]) == 0
    proposed = load_schema(schema)
    assert (proposed.query_id, proposed.time) == ("session", "at")
    assert {f.name for f in proposed.features if f.side == "user"} == {"user", "age", "seen"}
    words = ["train", "dlrm", "--data", f"table:{path}", "--schema", str(schema), "--quiet"]
    rates = ["--batch-items", "64", "--epochs", "4", "--lr", "0.02", "--table-lr", "0.1"]
    capsys.readouterr()
    assert main([*words, *rates, "--out", str(model), "--refit", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["auc_test"] > 0.7
    assert "grouped_auc_test" in metrics
    assert main(["evaluate", str(model), "--data", f"table:{path}", "--quiet", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["metrics"]
    assert again["auc_test"] == pytest.approx(metrics["auc_test"], abs=1e-6)
    assert main([*words, "--out", str(tmp_path / "dry"), "--dry-run"]) == 0
    assert not (tmp_path / "dry").exists()


def test_it_is_printed_or_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_csv(tmp_path / "log.csv", make_rows()), tmp_path / "new" / "schema.toml"
    assert main(["schema", str(path)]) == 0
    printed = capsys.readouterr().out
    assert parse_schema(printed, "printed").label.column == "clicked"
    assert main(["schema", str(path), "--out", str(out)]) == 0
    assert out.read_text() == printed
    shown = capsys.readouterr().out
    assert f"tailrank train dlrm --data table:{path} --schema {out}" in shown
    out.write_text("mine")
    assert main(["schema", str(path), "--out", str(out)]) == 2
    assert "--out" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["schema", str(path), "--out", str(out), "--overwrite"]) == 0
    assert out.read_text() == printed


def test_json_is_alone_on_standard_output(tmp_path: Path, capsys) -> None:
    path = write_csv(tmp_path / "log.csv", make_rows())
    assert main(["schema", str(path), "--label", "rank", "--at-least", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["command"] == "schema"
    assert record["command_line"].endswith("--label rank --at-least 3.0")
    assert record["config"]["schema"]["label"] == {"column": "rank", "at_least": 3.0}
    assert record["metrics"]["num_rows"] == len(make_rows())
    assert record["metrics"]["num_features_user"] == 3


def test_faults_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text("clicked,item\n1,a\n0\n")
    assert main(["schema", str(tmp_path / "log.csv")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "log.csv:3: 1 columns; expected 2 columns" in error
