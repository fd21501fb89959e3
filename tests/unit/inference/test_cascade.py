"""Stages as they are typed, and what a stage keeps."""

from __future__ import annotations

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.inference.cascade import StageName, best_items, parse_stages


def test_stages_are_read() -> None:
    assert parse_stages(["runs/light:keep=256", "preset:dlrm-rmc1:keep=9", "preset:din"]) == (
        StageName(target="runs/light", keep=256),
        StageName(target="preset:dlrm-rmc1", keep=9),
        StageName(target="preset:din"),
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "--stage: missing; expected at least two"),
        (["a"], "at least two"),
        (["a:keep=3", "a"], "another model in each stage"),
        (["a:keep=0", "b"], "'a:keep=0'; allowed: .*from 1"),
        (["a:keep=-1", "b"], "from 1"),
        (["a:keep=1.5", "b"], "from 1"),
        (["a:best=3", "b"], "from 1"),
        (["a", "b"], "got 'a'; allowed: MODEL:keep=K"),
        (["a:keep=3", "b:keep=2"], "got 'b:keep=2'; allowed: .*MODEL for the last"),
        (["a:keep=3", "b:keep=3", "c"], "got 'b:keep=3'; allowed: to keep fewer than 3"),
    ],
)
def test_wrong_stages_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_stages(texts)


def test_the_best_go_on_in_their_order() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5, 0.9, 0.5, 0.5])
    assert best_items(scores, 3).tolist() == [1, 2, 3]
    assert best_items(scores, 9).tolist() == [0, 1, 2, 3, 4, 5]
    two_tasks = torch.stack([scores, 1 - scores], dim=1)
    assert best_items(two_tasks, 4).tolist() == [1, 2, 3, 4]
