"""The columns behind a report's figures, stored beside `result.json`; draws nothing.

Times are milliseconds because people read them here. Infinity (an unanswered query) is null on
disk. A section without rows is left out of the report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tailrank.core.errors import DataError
from tailrank.core.files import replace_text
from tailrank.core.latency import LatencySummary
from tailrank.core.sla import SLA

FILE_NAME = "report_data.json"
_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyCurve:
    """Latencies of one run.

    Args:
        name: what ran, as the legend shows it.
        latencies_ms: of the answered queries, in rising order.
        num_queries: all queries; those without an answer keep the curve below 100 %.
    """

    name: str
    latencies_ms: list[float]
    num_queries: int

    @classmethod
    def of(cls, name: str, summary: LatencySummary) -> LatencyCurve:
        """The curve of a run; rounded to the microsecond, finer than a queue can be measured."""
        answered_ns = summary.sorted_ns[np.isfinite(summary.sorted_ns)]
        return cls(
            name=name,
            latencies_ms=np.round(answered_ns / 1e6, 3).tolist(),
            num_queries=summary.num_queries,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPoint:
    """Capacity of one policy at one batch size: the simulation's interval, and live if measured."""

    policy: str
    batch_items: int
    simulated_qps: float
    simulated_low: float
    simulated_high: float
    live_qps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPoint:
    """Quality after `step` training steps; what was not evaluated there is None."""

    step: int
    train_logloss: float | None = None
    validation_auc: float | None = None
    validation_logloss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTime:
    """Mean times of the queries of `size_low` to `size_high` items; they add up to the latency.

    Args:
        queueing_ms: from the scheduled arrival to the first part's start.
        service_ms: from the first part's start to the last part's end.
    """

    size_low: int
    size_high: int
    queueing_ms: float
    service_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """One row of the policy table: what a policy holds inside the SLA.

    Args:
        policy: its name, `static baseline` or `tuned`.
        batch_items: largest batch.
        capacity_qps, capacity_items_per_s: measured live, unless the run was simulation only.
        latency_ms_p95, latency_ms_p99, latency_ms_max: at that load.
        simulated_qps: the capacity that the simulation promised.
        ratio: capacity over the baseline's; None for the baseline itself.
    """

    policy: str
    batch_items: int
    capacity_qps: float
    capacity_items_per_s: float
    latency_ms_p95: float
    latency_ms_p99: float
    latency_ms_max: float
    simulated_qps: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SLALimit:
    """The SLA in the units of a report."""

    percentile: float
    latency_ms: float

    @classmethod
    def of(cls, sla: SLA) -> SLALimit:
        """The same agreement in ms."""
        return cls(percentile=sla.percentile, latency_ms=sla.latency_ns / 1e6)

    def __str__(self) -> str:
        return f"p{self.percentile:g} ≤ {self.latency_ms:g} ms"


_Row = TypeVar("_Row", LatencyCurve, CapacityPoint, LearningPoint, QueryTime, PolicyRow, SLALimit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything a report draws; each section may be empty."""

    sla: SLALimit | None = None
    latency_cdf: list[LatencyCurve] = field(default_factory=list)
    capacity_by_batch: list[CapacityPoint] = field(default_factory=list)
    learning_curve: list[LearningPoint] = field(default_factory=list)
    query_time: list[QueryTime] = field(default_factory=list)
    table: list[PolicyRow] = field(default_factory=list)

    def save(self, folder: Path) -> Path:
        """Write `report_data.json` into `folder`, whole or not at all; returns its path."""
        record = {"format_version": _FORMAT_VERSION} | asdict(self)
        path = folder / FILE_NAME
        replace_text(path, json.dumps(_nulled(record), allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path) -> ReportData:
        """Read what `save` wrote; a folder without the file has no columns to draw.

        Raises:
            DataError: the file is damaged or of another format version.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return cls()
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format_version"] != _FORMAT_VERSION:
                found = record["format_version"]
                raise DataError(path, f"format version {found}; expected {_FORMAT_VERSION}")
            return cls(
                sla=_row(SLALimit, record["sla"]) if record["sla"] else None,
                latency_cdf=[_row(LatencyCurve, row) for row in record["latency_cdf"]],
                capacity_by_batch=[_row(CapacityPoint, row) for row in record["capacity_by_batch"]],
                learning_curve=[_row(LearningPoint, row) for row in record["learning_curve"]],
                query_time=[_row(QueryTime, row) for row in record["query_time"]],
                table=[_row(PolicyRow, row) for row in record["table"]],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(path, f"not the columns of a report ({error!r})") from None


def _row(kind: type[_Row], record: Mapping[str, Any]) -> _Row:
    """A row from its record; null is infinity where the field has no None."""
    never_none = {f.name for f in fields(kind) if f.type == "float"}
    values: dict[str, Any] = {
        name: math.inf if value is None and name in never_none else value
        for name, value in record.items()
    }
    return kind(**values)


def _nulled(value: Any) -> Any:
    """The value with each infinity as None, for JSON has neither; NaN stays, to be refused."""
    if isinstance(value, dict):
        return {name: _nulled(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_nulled(inner) for inner in value]
    return None if isinstance(value, float) and math.isinf(value) else value
