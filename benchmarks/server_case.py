"""What every server of `bench_server.py` serves: one model, and features of users and items by id.

DLRM-RMC1 with 6 of its 8 tables on the user's side, as `bench_inference.py` has it, each of 200,000
rows: 205 MB are more than any cache, so that lookups cost what they cost in production, and a query
of 128 items takes well under a millisecond, so that what a server adds can be seen. Features of
20,000 items and 2,000 users lie in Parquet files; a request brings ids.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from tailrank.characterization.target import TargetConfig
from tailrank.features import SIDES, Feature, FeatureSpec, Side
from tailrank.models.presets import load_preset
from tailrank.serving.model import FeatureFile, ServedModel, open_model, with_tables

PRESET, SCALE, USER_TABLES = "dlrm-rmc1", 0.05, 6
ROWS: dict[Side, int] = {"user": 2_000, "item": 20_000}
TARGET = TargetConfig(target=f"preset:{PRESET}", scale=SCALE, user_tables=USER_TABLES)
MODEL_FLAGS = ("--scale", str(SCALE), "--user-tables", str(USER_TABLES))
ID = "id"
SEED = 0


def spec() -> FeatureSpec:
    """The features of the model."""
    return load_preset(PRESET, scale=SCALE, user_tables=USER_TABLES).spec


def write_features(folder: Path) -> dict[Side, Path]:
    """Write the features of users and items, each with an id from 0."""
    paths = {}
    for side in SIDES:
        rng = np.random.default_rng([SEED, ROWS[side]])
        columns = {
            feature.name: _values(feature, ROWS[side], rng)
            for feature in spec().features
            if feature.side == side
        }
        paths[side] = folder / f"{side}s.parquet"
        pl.DataFrame({ID: np.arange(ROWS[side]), **columns}).write_parquet(paths[side])
    return paths


def _values(feature: Feature, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    if feature.kind == "dense":
        return rng.standard_normal((num_rows, feature.width), np.float32)
    limit = spec().table(feature.table).num_embeddings
    return rng.integers(0, limit, (num_rows, round(feature.pooling_factor)))


def open_case(files: dict[Side, Path]) -> ServedModel:
    """The model and its feature tables, as `tailrank serve` has them."""
    model = open_model(TARGET, lambda line: None)
    feature_files = [FeatureFile(side=side, path=path) for side, path in files.items()]
    (model,) = with_tables({TARGET.target: model}, feature_files, lambda line: None)
    return model
