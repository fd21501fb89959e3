"""The result of one command: one JSON schema for every verb and every benchmark.

`docs/results.md` describes the schema for readers. This module must not know which command ran.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.files import missing_file, replace_text
from tailrank.core.measurement import Validity
from tailrank.reporting.host import describe_host, versions

SCHEMA_VERSION = 1
_METRIC_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


def process_started_at() -> str:
    """When this process started: ISO 8601, UTC, to the second."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    # Field 22 of stat(5), in clock ticks since boot; `fields` begins at field 3.
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return datetime.fromtimestamp(time.time() - age_s, UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one command or benchmark found, with everything needed to judge and repeat it.

    Args:
        command: the verb or the benchmark, as in `tune` or `bench_training`.
        config: the resolved configuration; JSON values, paths and dataclasses.
        metrics: flat, name -> number, names lower case with their unit (`latency_ms_p99`), dotted
            where they have a subject (`tuned.capacity_qps`). Infinite is allowed (an unanswered
            query has infinite latency), NaN is not.
        seed: the seed everything random was derived from; None when nothing was.
        intervals: 95 % confidence intervals, a name in `metrics` -> (low, high); inf: no bound.
        validity: whether the measurement may be believed, and if not, why.
        artifacts: files written.
        command_line: the words to type to do it again; None where nobody typed any.
        host: see `describe_host`.
        versions: Python and packages.
        started_at: start of the process, ISO 8601, UTC.
        schema_version: of this record.

    Raises:
        ConfigError: a name is malformed, a number is NaN, or an interval has no metric.
    """

    command: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    seed: int | None = None
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    validity: Validity = field(default_factory=Validity)
    artifacts: Sequence[str | Path] = ()
    command_line: str | None = None
    host: Mapping[str, Any] = field(default_factory=describe_host)
    versions: Mapping[str, str] = field(default_factory=versions)
    started_at: str = field(default_factory=process_started_at)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            if not _METRIC_NAME.fullmatch(name):
                raise ConfigError("metrics", name, "names like auc_test, tuned.capacity_qps")
            if math.isnan(value) or value == -math.inf:
                raise ConfigError(f"metrics.{name}", value, "a number, or inf for no bound")
        for name, bounds in self.intervals.items():
            if name not in self.metrics:
                raise ConfigError("intervals", name, f"a metric of {sorted(self.metrics)}")
            if len(bounds) != 2 or not bounds[0] <= bounds[1]:
                raise ConfigError(f"intervals.{name}", list(bounds), "[low, high], low <= high")


def to_json(result: Result) -> str:
    """The record as indented JSON text.

    JSON knows no infinity: an infinite metric or interval bound becomes null, which `read_result`
    reads back as infinity.

    Raises:
        ConfigError: `config` holds a value that JSON cannot carry, or NaN or infinity.
    """
    record = {
        "schema_version": result.schema_version,
        "command": result.command,
        "command_line": result.command_line,
        "config": result.config,
        "seed": result.seed,
        "host": result.host,
        "versions": result.versions,
        "started_at": result.started_at,
        "metrics": {name: _finite(value) for name, value in result.metrics.items()},
        "intervals": {name: [_finite(v) for v in pair] for name, pair in result.intervals.items()},
        "validity": {"valid": result.validity.valid, "reasons": list(result.validity.reasons)},
        "artifacts": [str(path) for path in result.artifacts],
    }
    try:
        return json.dumps(record, indent=2, allow_nan=False, default=_plain) + "\n"
    except ValueError as error:
        raise ConfigError("config", str(error), "finite numbers") from None


def write_result(path: Path, result: Result) -> None:
    """Write the record to `path`, whole or not at all; see `to_json` for infinities."""
    replace_text(path, to_json(result))


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote.

    Raises:
        DataError: there is no such file, it is not JSON, or not a result of this schema version.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["schema_version"] != SCHEMA_VERSION:
            reason = f"schema version {record['schema_version']}; expected {SCHEMA_VERSION}"
            raise DataError(path, reason)
        return Result(
            command=record["command"],
            config=record["config"],
            seed=record["seed"],
            metrics={name: _unbounded(value) for name, value in record["metrics"].items()},
            intervals={
                name: [_unbounded(v) for v in pair] for name, pair in record["intervals"].items()
            },
            validity=Validity(tuple(record["validity"]["reasons"])),
            artifacts=record["artifacts"],
            command_line=record.get("command_line"),  # records from before it was kept lack it
            host=record["host"],
            versions=record["versions"],
            started_at=record["started_at"],
        )
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(path, "train, export, compare, tune, simulate or demo") from None
    except OSError as error:
        raise DataError(path, error.strerror or "cannot be read") from None
    except (KeyError, TypeError, AttributeError, ValueError, ConfigError) as error:
        raise DataError(path, f"not a result record ({error!r})") from None


def _finite(value: float) -> float | int | None:
    """The number as JSON has it; None for infinity. NumPy scalars become Python's."""
    plain = value.item() if hasattr(value, "item") else value
    return plain if math.isfinite(plain) else None


def _unbounded(value: float | None) -> float:
    """Inverse of `_finite`."""
    return math.inf if value is None else float(value)


def _plain(value: object) -> object:
    """JSON form of the few richer types a config may hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise ConfigError("config", value, "JSON values, paths and dataclasses")
