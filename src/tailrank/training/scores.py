"""Scores of a run's test rows, kept beside the model: runs are compared row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tailrank.core.errors import ConfigError, DataError
from tailrank.metrics import BinaryMetrics

SCORES_FILE = "test_scores.parquet"


def save_scores(folder: Path, scored: BinaryMetrics) -> None:
    """Write score, label and group of every row into `folder`, in the order of the data."""
    columns: dict[str, object] = {
        "score": scored.scores,
        "label": scored.labels.astype(np.uint8),
    }
    if scored.groups is not None:
        columns["group"] = scored.groups
    pl.DataFrame(columns).write_parquet(folder / SCORES_FILE)


def load_scores(folder: Path) -> BinaryMetrics:
    """Read what `save_scores` wrote.

    Raises:
        DataError: no scores there, or damaged ones.
    """
    file, scored = folder / SCORES_FILE, BinaryMetrics()
    try:
        frame = pl.read_parquet(file)
        groups = frame["group"].to_numpy() if "group" in frame.columns else None
        scored.update(frame["score"].to_numpy(), frame["label"].to_numpy(), groups)
    except FileNotFoundError:
        raise DataError(file, "no test scores here; is it the folder of a trained model?") from None
    except (pl.exceptions.PolarsError, OSError, ConfigError) as error:
        raise DataError(file, f"damaged: {str(error).splitlines()[0]}") from None
    return scored
