"""Which data sets there are, and how a `--data` text names one.

To add one: a file beside this one, and a branch in `open_dataset`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tailrank.core.errors import ConfigError, RequestError, closest
from tailrank.data.adult import FITTED_FILE as ADULT_FILE
from tailrank.data.adult import AdultConfig, AdultDataset, AdultFit
from tailrank.data.amazon import AmazonConfig, AmazonDataset
from tailrank.data.criteo import VOCABULARY_FILE, CriteoConfig, CriteoDataset
from tailrank.data.dataset import Dataset, ReadingProgress
from tailrank.data.movielens import MovieLensConfig, MovieLensDataset
from tailrank.data.ncf import NCFDataConfig, NCFDataset
from tailrank.data.schema import load_schema
from tailrank.data.selection import select_features, select_tasks
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.data.table import TableConfig, TableDataset, load_fitted
from tailrank.data.vocabulary import Vocabulary

KINDS = ("criteo", "adult", "movielens", "ncf", "amazon", "table", "synthetic")
_FORMS = (
    "criteo:PATH, adult:FOLDER, movielens:FOLDER, ncf:FOLDER, amazon:FOLDER/CATEGORY, table:FILE "
    "or synthetic:rows=N,seed=N,…"
)
_WITH_NEGATIVES = ("ncf", "amazon")
WITH_UNKNOWN_IDS = ("criteo", "adult", "table")
"""Kinds of data whose tables keep a row for categories that are rare or new."""


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
        if kind not in KINDS or (kind != "synthetic" and not rest):
            raise ConfigError("--data", text, _FORMS + closest(KINDS, kind))
        return cls(kind, rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """How rows become features; an artifact remembers it, so that other rows are read alike.

    Args:
        embedding_dim: dim of every table.
        min_count: categories seen fewer times become *unknown*; for data that has rare ones.
        integer_buckets: whether Criteo's integers are also categories; 13 more tables.
        features: names of the features to use; None: all.
        num_negatives: rows drawn beside each positive one to train on; for data of likes alone.
        tasks: names of the tasks to predict; None: all.
    """

    embedding_dim: int = 16
    min_count: int = 2
    integer_buckets: bool = False
    features: tuple[str, ...] | None = None
    num_negatives: int = 4
    tasks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "min_count", "num_negatives"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "at least 1")
        for name in ("features", "tasks"):
            if getattr(self, name) == ():
                raise ConfigError(name, [], "at least one name")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> DataSettings:
        """Read what `to_dict` wrote."""
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in record.items()
        }
        return cls(**values)


def open_dataset(
    text: str,
    settings: DataSettings | None = None,
    *,
    fitted: Path | None = None,
    schema: Path | None = None,
    scratch: Path | None = None,
    progress: ReadingProgress | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """The data set that `text` names.

    Args:
        text: `criteo:PATH`, `adult:FOLDER`, `movielens:FOLDER`, `ncf:FOLDER` (or FOLDER/PREFIX),
            `amazon:FOLDER/CATEGORY`, `table:FILE` or `synthetic:rows=200000,seed=1` (fields of
            `SyntheticConfig`).
        settings: how rows become features.
        fitted: folder of a trained model, whose vocabulary is then used; None: fit one.
        schema: what the columns of a table mean; for data that needs to be told.
        scratch: folder for temporary columns; None: the system's.
        progress: told how far reading is.
        announce: told where temporary columns lie, where that is the system's choice.

    Raises:
        ConfigError: unknown kind or setting.
        RequestError: a schema is missing, or a setting has no use.
        DataError: the file cannot be used.
    """
    name, settings = DatasetName.parse(text), settings or DataSettings()
    _refuse_unused(name.kind, settings)
    if scratch is None and name.kind in ("criteo", "table"):
        announce(f"columns lie in nameless files in {tempfile.gettempdir()} (see TMPDIR) meanwhile")
    if name.kind == "table":
        dataset: Dataset = _open_table(name, settings, fitted, schema, scratch, progress)
    elif schema is not None:
        raise RequestError("--schema", f"{name.kind} needs none; leave it out")
    else:
        dataset = _open(name, settings, fitted, scratch, progress)
    if settings.tasks is not None:
        dataset = select_tasks(dataset, settings.tasks)
    return dataset if settings.features is None else select_features(dataset, settings.features)


def _refuse_unused(kind: str, settings: DataSettings) -> None:
    """Refuse settings that this kind of data would ignore."""
    if settings.integer_buckets and kind != "criteo":
        raise RequestError("--integer-buckets", f"{kind} has no Criteo integers; leave it out")
    if settings.min_count != DataSettings().min_count and kind not in WITH_UNKNOWN_IDS:
        raise RequestError("--min-count", f"{kind} knows every id; leave it out")
    if settings.num_negatives != DataSettings().num_negatives and kind not in _WITH_NEGATIVES:
        raise RequestError("--num-negatives", f"{kind} has negative rows of its own; leave it out")


def _open(
    name: DatasetName,
    settings: DataSettings,
    fitted: Path | None,
    scratch: Path | None,
    progress: ReadingProgress | None,
) -> Dataset:
    """The data set with all its features."""
    if name.kind == "synthetic":
        return SyntheticDataset(_synthetic_config(name.rest, settings.embedding_dim))
    if name.kind == "movielens":
        return MovieLensDataset(
            MovieLensConfig(path=Path(name.rest), embedding_dim=settings.embedding_dim)
        )
    if name.kind == "ncf":
        return NCFDataset(
            NCFDataConfig(
                path=Path(name.rest),
                embedding_dim=settings.embedding_dim,
                num_negatives=settings.num_negatives,
            )
        )
    if name.kind == "amazon":
        return AmazonDataset(
            AmazonConfig(
                path=Path(name.rest),
                embedding_dim=settings.embedding_dim,
                num_negatives=settings.num_negatives,
            )
        )
    if name.kind == "adult":
        return AdultDataset(
            AdultConfig(
                path=Path(name.rest),
                min_count=settings.min_count,
                embedding_dim=settings.embedding_dim,
            ),
            None if fitted is None else AdultFit.load(fitted / ADULT_FILE),
        )
    config = CriteoConfig(
        path=Path(name.rest),
        min_count=settings.min_count,
        embedding_dim=settings.embedding_dim,
        integer_buckets=settings.integer_buckets,
        scratch=scratch,
    )
    vocabulary = None if fitted is None else Vocabulary.load(fitted / VOCABULARY_FILE)
    return CriteoDataset(config, vocabulary, progress)


def _open_table(
    name: DatasetName,
    settings: DataSettings,
    fitted: Path | None,
    schema: Path | None,
    scratch: Path | None,
    progress: ReadingProgress | None,
) -> Dataset:
    """A table, read as its schema or a trained model's says."""
    if fitted is not None:
        meaning, known = load_fitted(fitted, schema)
    elif schema is not None:
        meaning, known = load_schema(schema), None
    else:
        propose = f"tailrank schema {name.rest} --out schema.toml"
        raise RequestError("--schema", f"missing; `{propose}` proposes one")
    config = TableConfig(
        path=Path(name.rest),
        schema=meaning,
        min_count=settings.min_count,
        embedding_dim=settings.embedding_dim,
        scratch=scratch,
    )
    return TableDataset(config, known, progress)


def _synthetic_config(text: str, embedding_dim: int) -> SyntheticConfig:
    """Read `name=value,…`."""
    kinds = {f.name: float if f.type == "float" else int for f in fields(SyntheticConfig)}
    values: dict[str, float | int] = {"embedding_dim": embedding_dim}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in kinds or name == "embedding_dim":
            allowed = sorted(kinds.keys() - {"embedding_dim"})
            raise ConfigError("--data synthetic", part, f"name=value with one of {allowed}")
        try:
            values[name] = kinds[name](value)
        except ValueError:
            raise ConfigError(f"--data synthetic:{name}", value, kinds[name].__name__) from None
    return SyntheticConfig(**values)  # type: ignore[arg-type]
