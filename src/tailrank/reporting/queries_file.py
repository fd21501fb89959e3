"""`queries.parquet`: one row per query of a run, in order of scheduled arrival."""

from __future__ import annotations

from collections.abc import Mapping
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
    return _write(folder, _rows(run))


def write_contenders(folder: Path, runs: Mapping[str, RunResult]) -> Path:
    """Write the rows of several runs one after another, as `write_queries` does.

    Args:
        folder: where to.
        runs: by what stands in the first column, `contender`.
    """
    frames = [
        _rows(run).select(pl.lit(contender).alias("contender"), pl.all())
        for contender, run in runs.items()
    ]
    return _write(folder, pl.concat(frames))


def _write(folder: Path, frame: pl.DataFrame) -> Path:
    path = folder / FILE_NAME
    frame.write_parquet(path)
    return path


def _rows(run: RunResult) -> pl.DataFrame:
    """A row per query."""
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
    return frame.select(
        "query_id",
        "scheduled_ns",
        "num_items",
        "num_parts",
        queueing_ns=started - pl.col("scheduled_ns"),
        service_ns=done - pl.col("started_ns"),
        latency_ns=done - pl.col("scheduled_ns"),
        outcome=pl.col("outcome").replace_strict(names, return_dtype=pl.String),
    )
