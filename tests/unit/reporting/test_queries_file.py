"""The per-query file: a row for every query, and no time where there was none."""

from pathlib import Path

import polars as pl

from tailrank.core.query import Query
from tailrank.reporting.queries_file import write_queries
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import PolicyConfig


def test_rejected_queries_have_a_row_and_no_times(tmp_path: Path) -> None:
    schedule = [Query(number, "", 10 * number, None, 4, 0) for number in range(3)]
    policy = PolicyConfig(policy="static", batch_items_max=2, queue_items_max=4)
    run = simulate(schedule, policy, num_workers=1, service_time_ns=lambda batch, busy: 100)
    rows = pl.read_parquet(write_queries(tmp_path, run)).rows(named=True)
    # One worker, two parts of 100 ns each; when the others come, the second part still waits.
    assert rows[0] == {
        "query_id": 0,
        "scheduled_ns": 0,
        "num_items": 4,
        "num_parts": 2,
        "queueing_ns": 0,
        "service_ns": 200,
        "latency_ns": 200,
        "outcome": "answered",
    }
    assert [row["outcome"] for row in rows[1:]] == ["rejected", "rejected"]
    assert {rows[2][name] for name in ("queueing_ns", "service_ns", "latency_ns")} == {None}
