"""What the columns of a table of clicks mean, and the TOML file that says so.

Knows no rows. A schema is small and strict: an unknown key, a wrong type or two features that
disagree about a table they share is an error that names the place.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tailrank.core.errors import ConfigError, DataError, closest
from tailrank.features import SIDES, Kind, Side

Encode = Literal["vocabulary", "hash", "id"]
Transform = Literal["none", "log1p", "standardise"]
KINDS: tuple[Kind, ...] = ("dense", "bag", "sequence")
ENCODES: tuple[Encode, ...] = ("vocabulary", "hash", "id")
_NAME = re.compile(r"[a-z0-9_]+")
TRANSFORMS: tuple[Transform, ...] = ("none", "log1p", "standardise")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumn:
    """The column to predict.

    Args:
        column: its name.
        at_least: numbers from here up are label 1; None: the column holds 0 and 1, or booleans.
    """

    column: str
    at_least: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureColumn:
    """One feature and the column it is read from.

    Args:
        name: unique in its schema; lower case letters, digits and _.
        column: where it stands; None: the column of the feature's name.
        side: `user` (same in all rows of a query) or `item`.
        kind: `dense` (a number), `bag` (one category, or a list whose order means nothing) or
            `sequence` (a list in time order, the latest last).
        encode: how a category becomes a row of its table: `vocabulary` (fitted on training rows),
            `hash` (of the text, into buckets) or `id` (the whole number that it is).
        buckets: categories that a table of `hash` or `id` can tell apart.
        min_count: of a vocabulary, categories seen fewer times are *unknown*; None: as the run
            says.
        table: name of the embedding table, which features may share; None: the feature's name.
        max_length: only the last so many ids of a list count; None: all.
        separator: what stands between the ids of a list in one cell of text; lists in a Parquet
            file need none.
        transform: of a number x: `none`, `log1p` (sign(x) * log(1 + |x|)) or `standardise` (zero
            mean and unit spread on the training rows).
    """

    name: str
    column: str | None = None
    side: Side = "item"
    kind: Kind = "bag"
    encode: Encode = "vocabulary"
    buckets: int | None = None
    min_count: int | None = None
    table: str | None = None
    max_length: int | None = None
    separator: str | None = None
    transform: Transform = "none"

    def __post_init__(self) -> None:
        self._check_choices()
        if self.kind == "dense":
            self._refuse(("encode", "buckets", "min_count", "table", "max_length", "separator"))
            return
        self._refuse(("transform",))
        if self.encode == "vocabulary":
            self._refuse(("buckets",))
        else:
            self._refuse(("min_count",))
            if self.buckets is None:
                raise self._error("buckets", f"a number, which encode = {self.encode!r} needs")
        for field in ("buckets", "min_count", "max_length"):
            value = getattr(self, field)
            if value is not None and not 1 <= value < 2**31 - 2:
                raise self._error(field, "1 to 2147483645")

    @property
    def source(self) -> str:
        """The column."""
        return self.name if self.column is None else self.column

    @property
    def table_name(self) -> str:
        """The table."""
        return self.name if self.table is None else self.table

    def _check_choices(self) -> None:
        """Refuse empty texts and words that are none of the choices."""
        for field in ("column", "separator"):
            if getattr(self, field) == "":
                raise self._error(field, "a text that is not empty")
        for field in ("name", "table"):
            # They name metrics and files, and stand in lists on the command line.
            value = getattr(self, field)
            if value is not None and not _NAME.fullmatch(value):
                raise self._error(field, "lower case letters, digits and _ (column may be any)")
        choices: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("side", SIDES),
            ("kind", KINDS),
            ("encode", ENCODES),
            ("transform", TRANSFORMS),
        )
        for field, allowed in choices:
            if getattr(self, field) not in allowed:
                raise self._error(field, " or ".join(allowed))

    def _refuse(self, names: Sequence[str]) -> None:
        """Refuse settings that this kind or encoding has no use for."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                what = self.kind if name == "transform" or self.kind == "dense" else self.encode
                raise self._error(name, f"nothing: {what} has no use for it")

    def _error(self, field: str, allowed: str) -> ConfigError:
        """The error of one setting."""
        return ConfigError(f"feature {self.name!r}: {field}", getattr(self, field), allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a table's columns mean.

    Args:
        label: what to predict.
        features: what to predict it from.
        query_id: column whose equal values make a query: rows that share the user side, are
            ranked against one another and are never split over train, validation and test.
        time: column of numbers or dates that orders rows before they are split; None: file order.
    """

    label: LabelColumn
    features: tuple[FeatureColumn, ...]
    query_id: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise ConfigError("feature", twice or names, "at least one, each with its own name")
        for feature in self.features:
            if feature.source == self.label.column:
                raise ConfigError(
                    f"feature {feature.name!r}: column",
                    feature.source,
                    "any but the label's, which a feature would give away",
                )
        for key in ("query_id", "time"):
            if getattr(self, key) == self.label.column:
                raise ConfigError(key, self.label.column, "any column but the label's")
        self._check_tables()

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once, the label first."""
        others = [name for name in (self.query_id, self.time) if name is not None]
        features = [feature.source for feature in self.features]
        return tuple(dict.fromkeys([self.label.column, *others, *features]))

    @property
    def tables(self) -> dict[str, FeatureColumn]:
        """Each table with the first feature that reads it."""
        first: dict[str, FeatureColumn] = {}
        for feature in self.features:
            if feature.kind != "dense":
                first.setdefault(feature.table_name, feature)
        return first

    def _check_tables(self) -> None:
        """Refuse features that share a table and disagree about its rows."""
        first = self.tables
        for feature in self.features:
            other = first.get(feature.table_name, feature)
            if feature.kind == "dense":
                continue
            for name in ("encode", "buckets", "min_count"):
                if getattr(feature, name) != getattr(other, name):
                    raise ConfigError(
                        f"feature {feature.name!r}: {name}",
                        getattr(feature, name),
                        f"{getattr(other, name)!r}, as feature {other.name!r} has it for the "
                        f"same table {feature.table_name!r}",
                    )

    def to_dict(self) -> dict[str, Any]:
        """The record that the TOML file holds; settings at their default are left out."""
        label = self.label
        record: dict[str, Any] = {
            "label": label.column if label.at_least is None else asdict(label),
        }
        record |= {
            name: getattr(self, name)
            for name in ("query_id", "time")
            if getattr(self, name) is not None
        }
        record["feature"] = [
            {
                field.name: getattr(feature, field.name)
                for field in fields(feature)
                # Side and kind are what a reader looks for, so they always stand there.
                if field.name in ("side", "kind") or getattr(feature, field.name) != field.default
            }
            for feature in self.features
        ]
        return record

    def to_toml(
        self, comments: Mapping[str, Iterable[str]] | None = None, end: Iterable[str] = ()
    ) -> str:
        """The schema as text that `parse_schema` reads.

        Args:
            comments: lines to put above `label`, `query_id`, `time` and features, by name, those of
                a feature under `feature NAME`; an empty text is an empty line.
            end: lines of comment at the end.
        """
        comments, record, lines = comments or {}, self.to_dict(), []
        features = record.pop("feature")
        for key, value in record.items():
            lines += [f"# {line}" if line else "" for line in comments.get(key, ())]
            lines.append(f"{key} = {_toml(value)}")
        for feature in features:
            lines += ["", *(f"# {line}" for line in comments.get(f"feature {feature['name']}", ()))]
            lines.append("[[feature]]")
            lines += [f"{key} = {_toml(value)}" for key, value in feature.items()]
        last = [f"# {line}" for line in end]
        return "\n".join([*lines, *([""] if last else []), *last]) + "\n"


def load_schema(path: Path) -> Schema:
    """Read a schema file.

    Raises:
        DataError: there is no such file, or it is not TOML.
        ConfigError: a key or value is wrong; names the file too.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(path, error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 text ({error.reason})") from None
    return parse_schema(text, path)


def parse_schema(text: str, path: str | Path) -> Schema:
    """Read the text of a schema file; see `load_schema`.

    Args:
        text: TOML.
        path: what errors call it.
    """
    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(path, f"not TOML: {error}") from None
    try:
        return _schema(record)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.field}", error.value, error.allowed) from None


def _schema(record: dict[str, Any]) -> Schema:
    """The schema of a parsed file."""
    _check_keys("", record, {"label": (str, dict), "query_id": str, "time": str, "feature": list})
    label = record.get("label")
    if label is None:
        raise ConfigError("label", None, "the name of a column of 0 and 1")
    if isinstance(label, dict):
        _check_keys("label.", label, {"column": str, "at_least": (int, float)})
        if len(label) < 2:
            raise ConfigError("label", label, 'as in { column = "rating", at_least = 4 }')
    else:
        label = {"column": label}
    features = []
    for index, feature in enumerate(record.get("feature", []), start=1):
        if not isinstance(feature, dict) or not isinstance(feature.get("name"), str):
            raise ConfigError(f"feature {index}: name", feature, "a text")
        _check_keys(f"feature {feature['name']!r}: ", feature, _FEATURE_TYPES)
        features.append(FeatureColumn(**feature))
    return Schema(
        label=LabelColumn(**label),
        features=tuple(features),
        query_id=record.get("query_id"),
        time=record.get("time"),
    )


_FEATURE_TYPES: dict[str, Any] = {
    field.name: int if field.name in ("buckets", "min_count", "max_length") else str
    for field in fields(FeatureColumn)
}


def _check_keys(place: str, record: dict[str, Any], types: Mapping[str, Any]) -> None:
    """Refuse unknown keys and values of another type."""
    for key, value in record.items():
        if key not in types:
            allowed = f"no such key; one of {', '.join(types)}{closest(types, key)}"
            raise ConfigError(f"{place}{key}", value, allowed)
        # A boolean is an int in Python, but not in a schema.
        if not isinstance(value, types[key]) or isinstance(value, bool):
            several = types[key] if isinstance(types[key], tuple) else (types[key],)
            words = {str: "a text", int: "a whole number", float: "a number", list: "a list"}
            allowed = " or ".join(words.get(kind, "a table") for kind in several)
            raise ConfigError(f"{place}{key}", value, allowed)


def _toml(value: object) -> str:
    """A value as TOML has it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the one control character that JSON lets stand.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
