"""Published model sizes as TOML files, each citing its source; `load_preset` reads them.

A file names its architecture, the dim of all tables and, under `sizes`, the fields of that
architecture's config. Entries of `tables` and `features` have the fields of `TableSpec` and
`Feature`; one with a `count` stands for so many, numbered from 0, each reading the table of its own
number.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from tailrank.core.errors import ConfigError, one_of
from tailrank.models.ranking_model import ModelConfig
from tailrank.models.registry import config_from_dict

_Entry = dict[str, Any]


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    folder = files(__package__)
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def load_preset(name: str, *, scale: float = 1.0, user_tables: int | None = None) -> ModelConfig:
    """The preset's model, its tables' rows multiplied by `scale`.

    Args:
        name: one of `preset_names()`.
        scale: factor on the rows of every table, > 0; a table keeps at least one row.
        user_tables: how many of the bags and sequences, from the first, belong to the user side;
            None: as the preset says (for DLRM the papers' setting: none, every item carries all
            features).

    Raises:
        ConfigError: unknown preset, scale not above 0, user_tables out of range, or sides that the
            architecture has no use for.
    """
    if name not in preset_names():
        raise ConfigError("preset", name, one_of(preset_names(), name))
    if not 0.0 < scale < math.inf:
        raise ConfigError("--scale", scale, "a finite number above 0")
    record = tomllib.loads(files(__package__).joinpath(f"{name}.toml").read_text("utf-8"))
    tables = list(_numbered(record["tables"]))
    for table in tables:
        table["num_embeddings"] = max(1, round(table["num_embeddings"] * scale))
        table["embedding_dim"] = record["embedding_dim"]
    features = list(_numbered(record["features"]))
    if user_tables is not None:
        _move_sides([f for f in features if f["kind"] != "dense"], user_tables)
    spec = {"features": features, "tables": tables}
    return config_from_dict(
        {"architecture": record["architecture"], "spec": spec, **record["sizes"]}
    )


def _numbered(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """The entries, those with a `count` as many times."""
    for entry in entries:
        count = entry.pop("count", None)
        if count is None:
            yield entry
            continue
        for number in range(count):
            named = {key: f"{entry[key]}_{number}" for key in ("name", "table") if key in entry}
            yield entry | named


def _move_sides(features: Sequence[_Entry], num_user: int) -> None:
    """Put the first so many features on the user side and the others on the item side."""
    if not 0 <= num_user <= len(features):
        raise ConfigError("--user-tables", num_user, f"0 to {len(features)}")
    for place, feature in enumerate(features):
        feature["side"] = "user" if place < num_user else "item"
