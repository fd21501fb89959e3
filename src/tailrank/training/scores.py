"""Scores of a run's test rows, kept beside the model: runs are compared row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.files import missing_file
from tailrank.metrics import BinaryMetrics

SCORES_FILE = "test_scores.parquet"
_KEY, _TASKS_KEY = "tailrank_rows_fingerprint", "tailrank_tasks"


def save_scores(folder: Path, scored: Mapping[str, BinaryMetrics], rows_fingerprint: str) -> None:
    """Write task, score, label and group of every row into `folder`, in the order of the data.

    Args:
        folder: exists.
        scored: the rows of each task whose label is known; written task after task.
        rows_fingerprint: which rows they are; see `Dataset`.
    """
    frames = []
    for task, rows in scored.items():
        columns = {"score": rows.scores, "label": rows.labels.astype(np.uint8)}
        if rows.groups is not None:
            columns["group"] = rows.groups
        frames.append(pl.DataFrame(columns).with_columns(task=pl.lit(task)))
    metadata = {_KEY: rows_fingerprint, _TASKS_KEY: json.dumps(list(scored))}
    frame = pl.concat(frames, how="diagonal")
    frame.write_parquet(folder / SCORES_FILE, metadata=metadata)


def load_scores(folder: Path) -> tuple[dict[str, BinaryMetrics], str]:
    """What `save_scores` wrote: the rows of each task, and which they are.

    Raises:
        DataError: no scores there, or damaged ones.
    """
    file = folder / SCORES_FILE
    try:
        metadata, frame = pl.read_parquet_metadata(file), pl.read_parquet(file)
        rows_fingerprint = metadata[_KEY]
        if _TASKS_KEY not in metadata:  # as written before there were tasks
            frame, metadata[_TASKS_KEY] = frame.with_columns(task=pl.lit("label")), '["label"]'
        scored = {task: BinaryMetrics() for task in json.loads(metadata[_TASKS_KEY])}
        for task, rows in scored.items():
            own = frame.filter(pl.col("task") == task)
            groups = own["group"].to_numpy() if "group" in own.columns else None
            if len(own):  # there may be a task of which no label is known
                rows.update(own["score"].to_numpy(), own["label"].to_numpy(), groups)
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(file, "train or export") from None
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError, ConfigError) as error:
        raise DataError(file, f"damaged: {(str(error).splitlines() or ['?'])[0]}") from None
    return scored, rows_fingerprint
