"""Tables for the terminal: rows in, `rich` tables out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table

from tailrank.core.service_time import ServiceTimeTable
from tailrank.features import FeatureSpec
from tailrank.models.memory import format_bytes
from tailrank.reporting.report_data import ComparedMetric, PolicyRow, PrecisionRow, RunRow

POLICY_HEADINGS = (
    "policy",
    "batch",
    "queries/s",
    "items/s",
    "p95 ms",
    "p99 ms",
    "max ms",
    "simulated",
    "ratio",
)


def policy_table(rows: Sequence[PolicyRow]) -> Table:
    """The table of policies: capacity inside the SLA, latency at it, and what was simulated."""
    return table_of(POLICY_HEADINGS, map(policy_cells, rows), left=("policy",))


def policy_cells(row: PolicyRow) -> tuple[str, ...]:
    """The cells of one row as text, in the order of `POLICY_HEADINGS`."""
    return (
        row.policy,
        f"{row.batch_items:,}",
        number(row.capacity_qps),
        number(row.capacity_items_per_s),
        number(row.latency_ms_p95),
        number(row.latency_ms_p99),
        number(row.latency_ms_max),
        "-" if row.simulated_qps is None else number(row.simulated_qps),
        "-" if row.ratio is None or math.isinf(row.ratio) else f"{row.ratio:.2f}x",
    )


PRECISION_HEADINGS = (
    "precision",
    "tables",
    "AUC",
    "drop",
    "µs",
    "items/s",
    "speedup",
    "",
)


def precision_table(rows: Sequence[PrecisionRow]) -> Table:
    """What each precision costs and gives; the one that was chosen is marked."""
    return table_of(PRECISION_HEADINGS, map(precision_cells, rows), left=("precision", ""))


def precision_cells(row: PrecisionRow) -> tuple[str, ...]:
    """The cells of one row as text, in the order of `PRECISION_HEADINGS`."""
    return (
        row.precision,
        format_bytes(row.table_bytes),
        f"{row.auc:.5f}",
        f"{row.auc_drop_fraction:.4%}",
        number(row.rank_us),
        number(row.items_per_s),
        f"{row.speedup:.2f}x",
        "chosen" if row.chosen else "" if row.passed else "refused",
    )


def table_of(headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str]) -> Table:
    """Cells under these headings, close together; figures to the right, `left` to the left."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    return table


def service_time_table(profile: ServiceTimeTable) -> Table:
    """Service times in ms of one part by its items, for each number of busy workers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("items", justify="right")
    workers = profile.axes["busy_workers"]
    for num_busy in workers:
        table.add_column(f"ms, {num_busy:g} busy", justify="right")
    ids_per_item = profile.axes["ids_per_item"][-1]  # the dearest, where there are several
    least_parts = int(profile.axes["num_parts"][0])
    for num_items in profile.axes["num_items"]:
        num_ids = round(num_items * ids_per_item)
        times_ns = [
            profile.lookup_ns(least_parts, int(num_items), num_ids, int(num_busy))
            for num_busy in workers
        ]
        table.add_row(f"{num_items:,.0f}", *(number(time_ns / 1e6) for time_ns in times_ns))
    return table


def comparison_table(rows: Sequence[RunRow], compared: Sequence[ComparedMetric]) -> Table:
    """Each metric of each run, and how surely it differs from that of the first run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    table.add_column("run", overflow="fold")
    for heading in ("value", f"less {rows[0].run}", "95 % interval"):
        table.add_column(heading, justify="right")
    table.add_column("")
    found = {(row.metric, row.run): row for row in compared}
    for metric in dict.fromkeys(row.metric for row in compared):
        for row in rows:
            value = f"{row.metrics[metric]:.4f}"
            difference = found.get((metric, row.run))
            if difference is None:
                table.add_row(metric, row.run, value)
                continue
            low, high = difference.low, difference.high
            table.add_row(
                metric,
                row.run,
                value,
                f"{difference.value:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                _verdict(difference),
            )
    return table


def _verdict(difference: ComparedMetric) -> str:
    """Better or worse where the interval leaves out 0."""
    if difference.low <= 0.0 <= difference.high:
        return "unclear"
    return "better" if (difference.high < 0.0) == difference.lower_is_better else "worse"


def feature_table(spec: FeatureSpec) -> Table:
    """What the model reads: each feature, where it belongs, and the rows of its table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("feature", "side", "kind", "table", "rows", "dim", "ids or floats a row"):
        right = heading in ("rows", "dim", "ids or floats a row")
        table.add_column(heading, justify="right" if right else "left")
    for feature in spec.features:
        if feature.table is None:
            table.add_row(feature.name, feature.side, feature.kind, "", "", "", f"{feature.width}")
            continue
        rows = spec.table(feature.table)
        table.add_row(
            feature.name,
            feature.side,
            feature.kind,
            rows.name,
            f"{rows.num_embeddings:,}",
            f"{rows.embedding_dim}",
            f"{feature.pooling_factor:.3g}",
        )
    return table


def number(value: float) -> str:
    """A rate or a time: three significant digits below 100, whole numbers above.

    Infinite means that queries went unanswered, or that a sample sets no bound.
    """
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def metric_label(name: str) -> str:
    """A metric of quality as people write it; any other name as it is."""
    known = {
        "auc": "AUC",
        "grouped_auc": "grouped AUC",
        "ndcg_at_10": "NDCG@10",
        "hit_rate_at_10": "HR@10",
        "normalised_entropy": "normalised entropy",
    }
    task, _, metric = name.rpartition(".")
    label = known.get(metric, metric)
    return f"{task} {label}" if task else label
