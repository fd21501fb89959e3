"""`queries.parquet`: one row per query of a run, in order of scheduled arrival."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tailrank.runtime.record import QueryOutcome, RunResult

FILE_NAME = "queries.parquet"


def write_queries(folder: Path, run: RunResult) -> Path:
    """Write the rows of a run, the warm-up included, and return the file's path.

    The columns: `query_id`, `scheduled_ns` from the run's beginning, `num_items`, `num_parts`,
    `queueing_ns` (from the scheduled arrival to the first part's start), `service_ns` (from there
    to the last part's end), `latency_ns` (their sum) and `outcome`. Times that never came are null.
    `--arrivals trace:FILE` reads such a file again.
    """
    queries = run.queries
    frame = pl.DataFrame(
        {
            "query_id": queries.query_id,
            "scheduled_ns": queries.scheduled_ns,
            "num_items": queries.num_items,
            "num_parts": queries.num_parts,
            "started_ns": queries.started_ns,
            "done_ns": queries.done_ns,
            "outcome": queries.outcome,
        }
    )
    names = {int(outcome): outcome.name.lower() for outcome in QueryOutcome}
    started = pl.when(pl.col("started_ns") >= 0).then("started_ns")
    done = pl.when(pl.col("outcome") == int(QueryOutcome.ANSWERED)).then("done_ns")
    frame = frame.select(
        "query_id",
        "scheduled_ns",
        "num_items",
        "num_parts",
        queueing_ns=started - pl.col("scheduled_ns"),
        service_ns=done - pl.col("started_ns"),
        latency_ns=done - pl.col("scheduled_ns"),
        outcome=pl.col("outcome").replace_strict(names, return_dtype=pl.String),
    )
    path = folder / FILE_NAME
    frame.write_parquet(path)
    return path
