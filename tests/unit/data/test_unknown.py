"""Ids that no training row had are counted, and said where they are most of a feature's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tailrank.cli import main
from tailrank.data.unknown import UnknownIds
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec

SPEC = FeatureSpec(
    features=(
        Feature(name="seen", side="user", kind="sequence", table="a"),
        Feature(name="none", side="user", kind="bag", table="a"),
        Feature(name="item", side="item", kind="bag", table="a"),
    ),
    tables=(TableSpec(name="a", num_embeddings=9, embedding_dim=2),),
)


def side(bags: list[list[int]], num_rows: int) -> SideFeatures:
    lengths = torch.tensor([0, *map(len, bags)])
    values_L = torch.tensor([one for bag in bags for one in bag], dtype=torch.int64)
    dense_RN = torch.zeros(num_rows, 0)
    return SideFeatures(dense_RN=dense_RN, values_L=values_L, offsets=lengths.cumsum(0))


def test_unknown_ids_are_a_part_of_those_given_batch_after_batch() -> None:
    unknown = UnknownIds(SPEC)
    for item in (0, 5, 0):
        user = side([[0, 2, 1, 4], [1]], num_rows=1)  # row 1 of a table is a missing category
        batch = FeatureBatch(
            user=user, item=side([[item]], 1), item_to_user_B=torch.zeros(1, dtype=torch.int64)
        )
        unknown.count(batch)
    assert unknown.shares() == {"seen": pytest.approx(1 / 3), "item": pytest.approx(2 / 3)}
    (line,) = unknown.in_words()
    assert line.startswith("item: 67% of its ids are unknown to the model")


def test_evaluate_says_that_a_log_is_of_others(tmp_path: Path, capsys) -> None:
    (tmp_path / "schema.toml").write_text(
        'label = "y"\n[[feature]]\nname = "u"\n[[feature]]\nname = "i"\n'
    )
    for name, first in (("log", 0), ("later", 100)):
        rows = (f"{row % 2},{first + row % 9},{row % 5}\n" for row in range(140))
        (tmp_path / f"{name}.csv").write_text("y,u,i\n" + "".join(rows))
    run = str(tmp_path / "run")
    words = ["--data", f"table:{tmp_path}/log.csv", "--schema", str(tmp_path / "schema.toml")]
    assert main(["train", "dlrm", *words, "--out", run, "--epochs", "1", "--quiet"]) == 0
    capsys.readouterr()
    for name, said in (("log", False), ("later", True)):
        assert main(["evaluate", run, "--data", f"table:{tmp_path}/{name}.csv"]) == 0
        line = "u: 100% of its ids are unknown to the model, which scores them all alike"
        out = capsys.readouterr().out
        assert (line in out) == said
        assert "i: " not in out
