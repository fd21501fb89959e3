"""Which data sets there are, and how a `--data` text names one.

To add one: a file beside this one, and a branch in `open_dataset`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from tailrank.core.errors import ConfigError
from tailrank.data.criteo import CriteoConfig, CriteoDataset
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.data.vocabulary import Vocabulary

KINDS = ("criteo", "synthetic")
_FORMS = "criteo:PATH or synthetic:rows=N,seed=N,…"


@dataclass(frozen=True, slots=True)
class DatasetName:
    """A `--data` text in two parts: `criteo` and a path, or `synthetic` and settings."""

    kind: str
    rest: str

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """Read `KIND:REST`.

        Raises:
            ConfigError: unknown kind, or a path is missing.
        """
        kind, _, rest = text.partition(":")
        if kind not in KINDS or (kind == "criteo" and not rest):
            raise ConfigError("--data", text, _FORMS)
        return cls(kind, rest)


def open_dataset(
    text: str,
    *,
    embedding_dim: int = 16,
    min_count: int = 2,
    integer_buckets: bool = False,
    scratch: Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> CriteoDataset | SyntheticDataset:
    """The data set that `text` names.

    Args:
        text: `criteo:PATH` or `synthetic:rows=200000,seed=1` (fields of `SyntheticConfig`).
        embedding_dim: dim of every table.
        min_count: see `CriteoConfig`; a synthetic log has no rare categories to drop.
        integer_buckets: see `CriteoConfig`; likewise.
        scratch: see `CriteoConfig`.
        vocabulary: see `CriteoDataset`.

    Raises:
        ConfigError: unknown kind or setting.
        DataError: the file cannot be used.
    """
    name = DatasetName.parse(text)
    if name.kind == "synthetic":
        return SyntheticDataset(_synthetic_config(name.rest, embedding_dim))
    config = CriteoConfig(
        path=Path(name.rest),
        min_count=min_count,
        embedding_dim=embedding_dim,
        integer_buckets=integer_buckets,
        scratch=scratch,
    )
    return CriteoDataset(config, vocabulary)


def _synthetic_config(text: str, embedding_dim: int) -> SyntheticConfig:
    """Read `name=value,…`."""
    kinds = {f.name: float if f.type == "float" else int for f in fields(SyntheticConfig)}
    settings: dict[str, float | int] = {"embedding_dim": embedding_dim}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in kinds or name == "embedding_dim":
            allowed = sorted(kinds.keys() - {"embedding_dim"})
            raise ConfigError("--data synthetic", part, f"name=value with one of {allowed}")
        try:
            settings[name] = kinds[name](value)
        except ValueError:
            raise ConfigError(f"--data synthetic:{name}", value, kinds[name].__name__) from None
    return SyntheticConfig(**settings)  # type: ignore[arg-type]
