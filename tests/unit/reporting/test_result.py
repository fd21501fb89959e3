"""Result records survive the disk, and what is no result is refused with a reason."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.measurement import Validity
from tailrank.reporting.result import Result, read_result, to_json, write_result


@dataclass(frozen=True)
class Settings:
    batch: int
    out: Path


def tune_result() -> Result:
    return Result(
        command="tune",
        config={"sla": "p95=10ms", "settings": Settings(128, Path("runs/x"))},
        seed=7,
        metrics={"tuned.capacity_qps": np.float64(1234.5), "tuned.latency_ms_p99": math.inf},
        intervals={"tuned.capacity_qps": [1200.0, math.inf]},
        validity=Validity(("too_short: 50 queries",)),
        artifacts=[Path("runs/x/result.json")],
    )


def test_write_then_read_gives_the_same_record(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_result(path, tune_result())
    back = read_result(path)
    assert back.command == "tune"
    assert back.seed == 7
    assert back.config == {"sla": "p95=10ms", "settings": {"batch": 128, "out": "runs/x"}}
    assert back.metrics == {"tuned.capacity_qps": 1234.5, "tuned.latency_ms_p99": math.inf}
    assert back.intervals == {"tuned.capacity_qps": [1200.0, math.inf]}
    assert back.validity == Validity(("too_short: 50 queries",))
    assert back.artifacts == ["runs/x/result.json"]
    assert to_json(back) == path.read_text()


def test_json_is_strict_and_has_the_documented_keys() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(to_json(tune_result()), parse_constant=refuse)
    documented = (Path(__file__).parents[3] / "docs/results.md").read_text()
    assert list(record) == [key for key in record if f"`{key}`" in documented]
    assert record["metrics"]["tuned.latency_ms_p99"] is None
    assert record["validity"] == {"valid": False, "reasons": ["too_short: 50 queries"]}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"metrics": {"auc": math.nan}}, "metrics.auc"),
        ({"metrics": {"AUC Test": 0.7}}, "metrics"),
        ({"metrics": {"a": 1.0}, "intervals": {"b": [0.0, 1.0]}}, "intervals"),
        ({"metrics": {"a": 1.0}, "intervals": {"a": [2.0, 1.0]}}, "intervals.a"),
        ({"metrics": {"a": 1.0}, "intervals": {"a": [math.nan, 1.0]}}, "intervals.a"),
    ],
)
def test_impossible_numbers_and_names_are_refused(wrong: dict, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Result(**{"command": "x", "config": {}, "metrics": {}} | wrong)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_a_config_that_json_cannot_carry_is_refused_and_nothing_is_written(
    tmp_path: Path, value: object
) -> None:
    result = Result(command="x", config={"value": value}, metrics={})
    with pytest.raises(ConfigError, match="config"):
        write_result(tmp_path / "result.json", result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00rubbish", "not a result record"),
        (b"", "not a result record"),
        (b"[1, 2]", "not a result record"),
        (b'{"schema_version": 1}', "command"),
        (b'{"schema_version": 99}', "schema version 99; expected 1"),
    ],
)
def test_what_is_no_result_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_result(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no absent\.json in it; expected a folder that tailrank"):
        read_result(tmp_path / "absent.json")
