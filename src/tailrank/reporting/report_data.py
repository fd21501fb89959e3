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
from typing import Any

import numpy as np

from tailrank.core.errors import DataError
from tailrank.core.files import replace_text
from tailrank.core.latency import LatencySummary
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.reporting.host_findings import Finding
from tailrank.reporting.live_rows import BusyBatch, PromiseRow

FILE_NAME = "report_data.json"
_FORMAT_VERSION = 2


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
    validation_grouped_auc: float | None = None
    validation_ndcg_at_10: float | None = None
    validation_hit_rate_at_10: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCurve:
    """The learning curve of one of several runs."""

    name: str
    points: list[LearningPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Rows of neighbouring scores: what was predicted, and what came true.

    Args:
        score: mean predicted probability.
        rate: share of positive rows.
        rate_low, rate_high: 95 % interval of the rate.
        num_rows: rows in the bin.
        task: whose labels they are, where there are several.
    """

    score: float
    rate: float
    rate_low: float
    rate_high: float
    num_rows: int
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBin:
    """Rows of one class with scores from `low` to `high`, as shares of all rows of that class."""

    low: float
    high: float
    positive_fraction: float
    negative_fraction: float
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBin:
    """Groups (users or queries) whose own AUC lies between `low` and `high`."""

    low: float
    high: float
    num_groups: int
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTime:
    """How long a batch of one part takes.

    Args:
        num_items: items in the batch.
        busy_workers: workers busy meanwhile, the batch's own included.
        median_ms: of many batches.
        low_ms, high_ms: between which nine of ten batches lie.
    """

    num_items: int
    busy_workers: int
    median_ms: float
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, table: ServiceTimeTable) -> list[ServiceTime]:
        """Every measured batch of the fewest parts, with the spread that the table knows of all."""
        low, high = np.quantile(table.spread, (0.05, 0.95)).tolist()
        ids_per_item = table.axes["ids_per_item"][-1]  # the dearest, where there are several
        parts = int(table.axes["num_parts"][0])
        rows = []
        for busy in map(int, table.axes["busy_workers"]):
            for items in map(int, table.axes["num_items"]):
                median_ms = table.lookup_ns(parts, items, round(items * ids_per_item), busy) / 1e6
                rows.append(
                    cls(
                        num_items=items,
                        busy_workers=busy,
                        median_ms=median_ms,
                        low_ms=low * median_ms,
                        high_ms=high * median_ms,
                    )
                )
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedMetric:
    """How much a run differs from the first one on the same rows.

    Args:
        run: name of the run.
        metric: such as `auc` or `logloss`; `income.auc` where there are several tasks.
        value: the run's metric less the first run's.
        low, high: 95 % interval of that difference.
    """

    run: str
    metric: str
    value: float
    low: float
    high: float

    @property
    def lower_is_better(self) -> bool:
        """Whether a difference below 0 speaks for the run."""
        return self.metric.rpartition(".")[2].startswith(("logloss", "normalised_entropy"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """Metrics of one of several runs, by name; the first run is the one compared with."""

    run: str
    metrics: dict[str, float]


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
class PrecisionRow:
    """What one precision of a trained model costs and gives on this host.

    Args:
        precision: number formats.
        chosen: whether it is the one that was exported.
        table_bytes: of its tables.
        auc: on the held-out rows.
        auc_drop_fraction: relative to the AUC in fp32; below 0 where it rose.
        passed: whether that is within what the gate allows.
        rank_us: time of one query on one core.
        items_per_s: that come of it.
        speedup: over fp32, measured in turns with it.
    """

    precision: str
    chosen: bool
    table_bytes: int
    auc: float
    auc_drop_fraction: float
    passed: bool
    rank_us: float
    items_per_s: float
    speedup: float


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything a report draws; each section may be empty."""

    sla: SLALimit | None = None
    latency_cdf: list[LatencyCurve] = field(default_factory=list)
    capacity_by_batch: list[CapacityPoint] = field(default_factory=list)
    query_time: list[QueryTime] = field(default_factory=list)
    promises: list[PromiseRow] = field(default_factory=list)
    busy_batches: list[BusyBatch] = field(default_factory=list)
    table: list[PolicyRow] = field(default_factory=list)
    precisions: list[PrecisionRow] = field(default_factory=list)
    learning_curve: list[LearningPoint] = field(default_factory=list)
    reliability: list[ReliabilityBin] = field(default_factory=list)
    score_counts: list[ScoreBin] = field(default_factory=list)
    group_auc: list[GroupBin] = field(default_factory=list)
    service_time: list[ServiceTime] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    runs: list[RunRow] = field(default_factory=list)
    comparison: list[ComparedMetric] = field(default_factory=list)
    learning_curves: list[NamedCurve] = field(default_factory=list)

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
            sla = record["sla"]
            return cls(
                sla=_row(SLALimit, sla) if sla else None,
                # Columns that an earlier release did not have are as good as empty.
                **{
                    name: [_row(kind, row) for row in record.get(name, [])]
                    for name, kind in _ROWS.items()
                },
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(path, f"not the columns of a report ({error!r})") from None


_ROWS: dict[str, type] = {
    "latency_cdf": LatencyCurve,
    "capacity_by_batch": CapacityPoint,
    "query_time": QueryTime,
    "promises": PromiseRow,
    "busy_batches": BusyBatch,
    "table": PolicyRow,
    "precisions": PrecisionRow,
    "learning_curve": LearningPoint,
    "reliability": ReliabilityBin,
    "score_counts": ScoreBin,
    "group_auc": GroupBin,
    "service_time": ServiceTime,
    "findings": Finding,
    "runs": RunRow,
    "comparison": ComparedMetric,
    "learning_curves": NamedCurve,
}


def _row(kind: type, record: Mapping[str, Any]) -> Any:
    """A row from its record; null is infinity where the field has no None."""
    never_none = {f.name for f in fields(kind) if f.type == "float"}
    values: dict[str, Any] = {
        name: math.inf if value is None and name in never_none else value
        for name, value in record.items()
    }
    if kind is NamedCurve:
        values["points"] = [_row(LearningPoint, point) for point in values["points"]]
    return kind(**values)


def _nulled(value: Any) -> Any:
    """The value with each infinity as None, for JSON has neither; NaN stays, to be refused."""
    if isinstance(value, dict):
        return {name: _nulled(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_nulled(inner) for inner in value]
    return None if isinstance(value, float) and math.isinf(value) else value
