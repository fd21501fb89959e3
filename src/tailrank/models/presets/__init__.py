"""Published model sizes as TOML files, each citing its source; `load_preset` reads them."""

from __future__ import annotations

import math
import tomllib
from importlib.resources import files

from tailrank.core.errors import ConfigError, one_of
from tailrank.features import Feature, FeatureSpec, TableSpec
from tailrank.models.dlrm import DLRMConfig


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    folder = files(__package__)
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def load_preset(name: str, *, scale: float = 1.0, user_tables: int | None = None) -> DLRMConfig:
    """The preset's model, its tables' rows multiplied by `scale`.

    Args:
        name: one of `preset_names()`.
        scale: factor on the rows of every table, > 0; a table keeps at least one row.
        user_tables: how many of the tables, from the first, belong to the user side; None: as
            the preset says (the papers' setting: none, every item carries all features).

    Raises:
        ConfigError: unknown preset, scale not above 0, user_tables out of range.
    """
    if name not in preset_names():
        raise ConfigError("preset", name, one_of(preset_names(), name))
    if not 0.0 < scale < math.inf:
        raise ConfigError("--scale", scale, "a finite number above 0")
    record = tomllib.loads(files(__package__).joinpath(f"{name}.toml").read_text("utf-8"))
    tables = record["tables"]
    count, num_user = tables["count"], tables["user_tables"]
    if user_tables is not None:
        num_user = user_tables
    if not 0 <= num_user <= count:
        raise ConfigError("--user-tables", num_user, f"0 to {count}")
    rows = max(1, round(tables["num_embeddings"] * scale))
    specs = tuple(
        TableSpec(name=f"table_{i}", num_embeddings=rows, embedding_dim=tables["embedding_dim"])
        for i in range(count)
    )
    bags = tuple(
        Feature(
            name=f"bag_{i}",
            side="user" if i < num_user else "item",
            kind="bag",
            table=f"table_{i}",
            pooling_factor=tables["pooling_factor"],
        )
        for i in range(count)
    )
    dense = Feature(name="dense", side="item", kind="dense", width=record["dense_width"])
    return DLRMConfig(
        spec=FeatureSpec(features=(dense, *bags), tables=specs),
        bottom_mlp=tuple(record["bottom_mlp"]),
        top_mlp=tuple(record["top_mlp"]),
        interaction=record["interaction"],
    )
