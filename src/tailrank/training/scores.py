"""Scores of a run's test rows, kept beside the model: runs are compared row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tailrank.core.errors import ConfigError, DataError
from tailrank.core.files import missing_file
from tailrank.metrics import BinaryMetrics

SCORES_FILE = "test_scores.parquet"
_KEY = "tailrank_rows_fingerprint"


def save_scores(folder: Path, scored: BinaryMetrics, rows_fingerprint: str) -> None:
    """Write score, label and group of every row into `folder`, in the order of the data.

    Args:
        folder: exists.
        scored: the rows.
        rows_fingerprint: which rows they are; see `Dataset`.
    """
    columns: dict[str, object] = {
        "score": scored.scores,
        "label": scored.labels.astype(np.uint8),
    }
    if scored.groups is not None:
        columns["group"] = scored.groups
    pl.DataFrame(columns).write_parquet(folder / SCORES_FILE, metadata={_KEY: rows_fingerprint})


def load_scores(folder: Path) -> tuple[BinaryMetrics, str]:
    """What `save_scores` wrote: the rows, and which they are.

    Raises:
        DataError: no scores there, or damaged ones.
    """
    file, scored = folder / SCORES_FILE, BinaryMetrics()
    try:
        rows_fingerprint = pl.read_parquet_metadata(file)[_KEY]
        frame = pl.read_parquet(file)
        groups = frame["group"].to_numpy() if "group" in frame.columns else None
        scored.update(frame["score"].to_numpy(), frame["label"].to_numpy(), groups)
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(file, "train or export") from None
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError, ConfigError) as error:
        raise DataError(file, f"damaged: {(str(error).splitlines() or ['?'])[0]}") from None
    return scored, rows_fingerprint
