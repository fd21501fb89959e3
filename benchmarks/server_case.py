"""What every server of `bench_server.py` serves: one model, and features of users and items by id.

DLRM-RMC1 with 6 of its 8 tables on the user's side, as `bench_inference.py` has it, each of 200,000
rows: 205 MB are more than any cache, so that lookups cost what they cost in production, and a query
of 128 items takes well under a millisecond, so that what a server adds can be seen. Features of
20,000 items and 2,000 users lie in Parquet files; a request brings ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tailrank.characterization.target import TargetConfig
from tailrank.features import SIDES, Feature, FeatureSpec, Side
from tailrank.models.presets import load_preset
from tailrank.serving.model import FeatureFile, ServedModel, open_model, with_tables

PRESET, SCALE, USER_TABLES = "dlrm-rmc1", 0.05, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model that is served, with random weights."""

    preset: str = PRESET
    scale: float = SCALE
    user_tables: int = USER_TABLES

    @property
    def flags(self) -> tuple[str, ...]:
        """What `tailrank serve` is told of it."""
        sizes = ("--scale", str(self.scale), "--user-tables", str(self.user_tables))
        return f"preset:{self.preset}", *sizes

    @property
    def target(self) -> TargetConfig:
        """The same as it is loaded."""
        return TargetConfig(
            target=f"preset:{self.preset}", scale=self.scale, user_tables=self.user_tables
        )

    @property
    def spec(self) -> FeatureSpec:
        """Its features."""
        return load_preset(self.preset, scale=self.scale, user_tables=self.user_tables).spec


SERVED = Case()
# A query of its takes twenty times as long: what the way over the wire is beside a costly ranker.
HEAVIER = Case(preset="dlrm-rmc3", scale=0.01)
ROWS: dict[Side, int] = {"user": 2_000, "item": 20_000}
ID = "id"
SEED = 0


def write_features(folder: Path, case: Case = SERVED) -> dict[Side, Path]:
    """Write the features of users and items, each with an id from 0."""
    paths, spec = {}, case.spec
    for side in SIDES:
        rng = np.random.default_rng([SEED, ROWS[side]])
        columns = {
            feature.name: _values(spec, feature, ROWS[side], rng)
            for feature in spec.features
            if feature.side == side
        }
        paths[side] = folder / f"{side}s.parquet"
        pl.DataFrame({ID: np.arange(ROWS[side]), **columns}).write_parquet(paths[side])
    return paths


def _values(
    spec: FeatureSpec, feature: Feature, num_rows: int, rng: np.random.Generator
) -> np.ndarray:
    if feature.kind == "dense":
        return rng.standard_normal((num_rows, feature.width), np.float32)
    limit = spec.table(feature.table).num_embeddings
    return rng.integers(0, limit, (num_rows, round(feature.pooling_factor)))


def open_case(files: dict[Side, Path], case: Case = SERVED) -> ServedModel:
    """The model and its feature tables, as `tailrank serve` has them."""
    target = case.target
    model = open_model(target, lambda line: None)
    feature_files = [FeatureFile(side=side, path=path) for side, path in files.items()]
    (model,) = with_tables({target.target: model}, feature_files, lambda line: None)
    return model
