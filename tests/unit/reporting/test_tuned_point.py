"""What `tune` wrote can be run, and nothing else can."""

from dataclasses import replace
from pathlib import Path

import pytest

from tailrank.characterization.target import TargetConfig
from tailrank.core.errors import DataError
from tailrank.core.sla import SLA
from tailrank.inference.precision import Precision
from tailrank.reporting.result import Result, write_result
from tailrank.reporting.tuned_point import read_tuned
from tailrank.scheduling.policies import PolicyConfig

BOUND = SLA.parse("p99=20ms")
POLICY = PolicyConfig(policy="slack", batch_items_max=64, sla=BOUND, reject_lost=True)
TARGET = TargetConfig(target="preset:ncf", scale=0.5, precision=Precision(rows="int8"), seed=3)


def write(folder: Path, target: TargetConfig = TARGET, command: str = "tune", **config) -> None:
    config = {"target": target, "operating_point": {"sla": BOUND}, "tuned": POLICY} | config
    metrics = {"tuned.num_workers": 2.0, "tuned.simulated_capacity_qps": 5.0}
    write_result(folder / "result.json", Result(command=command, config=config, metrics=metrics))


def test_the_operating_point_comes_back_as_it_was_found(tmp_path: Path) -> None:
    write(tmp_path)
    point = read_tuned(tmp_path)
    assert (point.target, point.policy, point.sla) == (TARGET, POLICY, BOUND)
    assert (point.num_workers, point.capacity_qps) == (2, 5.0)
    assert point.profile == tmp_path / "profile.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "profile"}, "a result of profile; expected one of tune"),
        ({"target": replace(TARGET, precision=None, devices=("cpu", "cuda"))}, "for cpu, cuda"),
        ({"tuned": {"policy": "best"}}, "not an operating point"),
        ({"operating_point": {}}, "not an operating point"),
        ({"target": 3}, "not an operating point"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        read_tuned(tmp_path)
