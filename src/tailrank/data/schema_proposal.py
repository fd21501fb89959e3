"""Proposes what the columns of a table of clicks mean, and says why, for a person to correct.

The rules are plain and their reasons stand as comments beside each feature. They look at names
only where values cannot tell: a label, a query, a time, or whether a whole number is an id. A query
without a known name is found by its rows, which stand together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailrank.core.errors import ConfigError, RequestError
from tailrank.core.names import plain_names
from tailrank.data.column_profile import (
    DISTINCT_MAX,
    ColumnProfile,
    profile_columns,
    profile_lists_and_queries,
)
from tailrank.data.dataset import ReadingProgress
from tailrank.data.schema import FeatureColumn, LabelColumn, Schema
from tailrank.data.table_file import open_table, require_columns
from tailrank.features import Side

_LABELS = ("label", "clicked", "click", "is_click", "is_clicked", "target", "y", "converted",
           "conversion", "is_booked", "purchased", "bought", "liked")  # fmt: skip
_QUERIES = ("query_id", "qid", "query", "session_id", "session", "request_id", "request",
            "impression_id", "impression", "search_id", "srch_id", "visit_id", "slate_id",
            "list_id")  # fmt: skip
_TIMES = ("time", "timestamp", "ts", "datetime", "date", "event_time", "date_time", "created_at",
          "unix_time", "at")  # fmt: skip
_ID = re.compile(r"(^|.*_)(id|ids|code|key|zip|no|nr|hash|uuid|category|type)$")
_CATEGORIES_MAX = (
    100  # a whole number with so few values has a row for each: any curve can be learnt
)
_SKEWED = 2.0  # that of an exponential distribution
_UNIQUE = 0.95  # different values a row from which on none comes often enough to be learnt
_QUERY_ROWS_MAX = 1000  # rows a query; more is a file sorted by something else
_EPOCH_S = 1e8  # whole numbers that rise from here up are seconds, or finer, since 1970
_DAYS = (19_700_101, 21_001_231)  # and between these, days as in 20260131
_BUCKETS = 1 << 20
_BY_ROWS = (
    "Taken for the query because its equal values stand together, not for its name: see that",
    "it is one request, or one user, with its candidates.",
)
_LIST_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A schema and the reasons for it.

    Args:
        schema: ready to train with.
        num_rows: of the file.
        comments: reasons, as `Schema.to_toml` takes them.
        left_out: columns that are not used, and why.
    """

    schema: Schema
    num_rows: int
    comments: dict[str, list[str]]
    left_out: dict[str, str]

    def to_toml(self) -> str:
        """The schema file."""
        end = [f"left out: {_printable(name)}: {why}" for name, why in self.left_out.items()]
        return self.schema.to_toml(self.comments, end)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "schema": self.schema.to_dict(),
            "comments": self.comments,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user says about the columns; what is None is guessed.

    Args:
        label: column to predict.
        at_least: numbers from here up are label 1.
        query_id: column whose equal values make a query.
        time: column that orders the rows.
    """

    label: str | None = None
    at_least: float | None = None
    query_id: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        if self.at_least is not None and self.label is None:
            raise RequestError("--at-least", "name the column that it cuts: --label COLUMN")


def propose_schema(
    path: Path, wishes: Wishes | None = None, progress: ReadingProgress | None = None
) -> Proposal:
    """Look at a table and propose its schema.

    Args:
        path: Parquet or CSV file.
        wishes: what is known already.
        progress: told how far reading is.

    Raises:
        ConfigError: no column can be the label, or several could, or a wish cannot be fulfilled.
        DataError: the file cannot be read, or a column that was named is not there.
    """
    wishes, report = wishes or Wishes(), progress or (lambda _fraction, _remark: None)
    file = open_table(path)
    named = (wishes.label, wishes.query_id, wishes.time)
    require_columns(file, [name for name in named if name is not None])
    profiles = profile_columns(file, report)
    label = _label(path, profiles, wishes)
    others = {name: profile for name, profile in profiles.items() if name != label.column}
    named_query = _query_id(others, wishes.query_id)
    query_id = named_query or _query_by_rows(others)
    profile_lists_and_queries(file, profiles, query_id, report)
    time = _time({n: p for n, p in others.items() if n != query_id}, wishes.time)
    features, comments, left_out = [], {}, {}
    names = plain_names(profiles, "column")
    for name, profile in others.items():
        if name in (query_id, time):
            continue
        judged = _feature(profile, names[name])
        if isinstance(judged, str):
            left_out[name] = judged
        else:
            feature, why = judged
            features.append(feature)
            comments[f"feature {feature.name}"] = [_seen(profile), why]
    if not features:
        raise ConfigError(str(path), left_out, "a table with a column to predict from")
    num_rows = profiles[label.column].num_rows
    comments |= _head_comments(path, num_rows, profiles, label, query_id, time)
    if query_id != named_query:
        comments["query_id"] += _BY_ROWS
    return Proposal(
        schema=Schema(label=label, features=tuple(features), query_id=query_id, time=time),
        num_rows=num_rows,
        comments=comments,
        left_out=left_out,
    )


def _label(path: Path, profiles: dict[str, ColumnProfile], wishes: Wishes) -> LabelColumn:
    """The column to predict."""
    binary = [name for name, profile in profiles.items() if profile.is_binary]
    if wishes.label is not None:
        profile = profiles[wishes.label]
        numbers = profile.kind in ("whole", "number")
        if wishes.at_least is not None and numbers:
            if not profile.minimum < wishes.at_least <= profile.maximum:
                allowed = f"above {profile.minimum:g}, up to {profile.maximum:g}"
                raise ConfigError("--at-least", wishes.at_least, allowed)
            return LabelColumn(column=wishes.label, at_least=wishes.at_least)
        if wishes.at_least is not None or wishes.label not in binary:
            allowed = "a column of 0 and 1, or numbers with --at-least"
            raise ConfigError("--label", wishes.label, allowed)
        return LabelColumn(column=wishes.label)
    called = sorted((_LABELS.index(n.lower()), n) for n in binary if n.lower() in _LABELS)
    if called:
        return LabelColumn(column=called[0][1])
    if len(binary) == 1:
        return LabelColumn(column=binary[0])
    if binary:
        raise ConfigError("--label", None, f"the column to predict, one of {', '.join(binary)}")
    columns = ", ".join(profiles)
    allowed = f"a column of 0 and 1, which {path} lacks, or numbers with --at-least; of {columns}"
    raise ConfigError("--label", None, allowed)


def _query_id(profiles: dict[str, ColumnProfile], wish: str | None) -> str | None:
    """The column that makes queries."""
    if wish is not None:
        profile = profiles.get(wish)
        if profile is None or profile.num_missing or profile.kind not in ("whole", "text"):
            allowed = "a column of texts or whole numbers, none missing, that is not the label"
            raise ConfigError("--query-id", wish, allowed)
        return wish
    for called in _QUERIES:
        for name, profile in profiles.items():
            usable = profile.kind in ("whole", "text") and not profile.num_missing
            several = profile.distinct.count > 1 and not profile.distinct.all_different
            if name.lower() == called and usable and several:
                return name
    return None


def _query_by_rows(profiles: dict[str, ColumnProfile]) -> str | None:
    """The finest column whose equal values stand in rows that follow one another."""
    together = {
        name: profile.distinct.count
        for name, profile in _repeating(profiles).items()
        if profile.distinct.lies_together
    }
    return max(together, key=lambda name: together[name], default=None)


def _repeating(profiles: dict[str, ColumnProfile]) -> dict[str, ColumnProfile]:
    """The columns of ids that have some rows each: queries, users or items."""
    return {
        name: profile
        for name, profile in profiles.items()
        if not profile.num_missing
        and (profile.kind == "text" or (profile.kind == "whole" and _is_category(profile)))
        and profile.distinct.count > _CATEGORIES_MAX
        and 2.0 <= profile.distinct.num_seen / profile.distinct.count <= _QUERY_ROWS_MAX
        and name.lower() not in _TIMES
        and not _is_clock(profile)
    }


def _is_clock(profile: ColumnProfile) -> bool:
    """Whether whole numbers that never fall are a time."""
    if profile.kind != "whole" or not profile.is_rising or _ID.match(profile.name.lower()):
        return False
    days = _DAYS[0] <= profile.minimum and profile.maximum <= _DAYS[1]
    return days or profile.minimum >= _EPOCH_S


def _time(profiles: dict[str, ColumnProfile], wish: str | None) -> str | None:
    """The column that orders rows."""
    if wish is not None:
        profile = profiles.get(wish)
        ordered = ("moment", "whole", "number")
        if profile is None or profile.num_missing or profile.kind not in ordered:
            allowed = "a column of dates or numbers, none missing, that is neither label nor query"
            raise ConfigError("--time", wish, allowed)
        return wish
    usable = {
        name: profile
        for name, profile in profiles.items()
        if not profile.num_missing and profile.distinct.count > 1
    }
    by_name = [
        name
        for called in _TIMES
        for name, profile in usable.items()
        if name.lower() == called and profile.kind in ("moment", "whole", "number")
    ]
    moments = [name for name, profile in usable.items() if profile.kind == "moment"]
    rising = [name for name, profile in usable.items() if _is_clock(profile)]
    return next(iter([*by_name, *moments, *rising]), None)


def _feature(profile: ColumnProfile, name: str) -> tuple[FeatureColumn, str] | str:
    """The feature of a column and the reason, or why it is left out."""
    unused = _why_unused(profile)
    if unused is not None:
        return unused
    side: Side = "user" if profile.constant_in_queries else "item"
    why = " One value in every query: a user feature." if side == "user" else ""
    column = None if name == profile.name else profile.name
    if profile.kind == "number" or (profile.kind == "whole" and not _is_category(profile)):
        far = profile.minimum >= 0 and profile.skewness > _SKEWED
        return (
            FeatureColumn(
                name=name,
                column=column,
                side=side,
                kind="dense",
                transform="log1p" if far else "standardise",
            ),
            ("Numbers, a few far larger than most." if far else "Numbers.") + why,
        )
    many = profile.distinct.count >= DISTINCT_MAX
    is_list = profile.kind == "list"
    reason = "Lists of categories." if is_list else "Categories."
    if many:
        reason += " Too many for a vocabulary: hashed."
    return (
        FeatureColumn(
            name=name,
            column=column,
            side=side,
            kind="bag",
            encode="hash" if many else "vocabulary",
            buckets=_BUCKETS if many else None,
            separator=profile.separator,
            max_length=_LIST_MAX if is_list and profile.longest > _LIST_MAX else None,
        ),
        reason + why,
    )


def _why_unused(profile: ColumnProfile) -> str | None:
    """Why a column says nothing, or nothing that a schema can name; None: it may be used."""
    if profile.kind == "empty":
        return "no value in any row"
    if profile.kind == "other":
        return "holds vectors, nested or other values that are no categories"
    if profile.kind == "moment":
        return "another time; make numbers or categories of it to use it"
    if profile.distinct.count == 1 and not profile.num_missing:
        return "the same value in every row"
    is_key = profile.kind == "text" or (
        profile.kind == "whole" and (profile.is_rising or _ID.match(profile.name.lower()))
    )
    if is_key and profile.distinct.all_different:
        return "another value in every row"
    distinct, is_name = profile.distinct, profile.kind == "text" or _is_category(profile)
    if profile.kind not in ("text", "whole") or not is_name or distinct.count <= _CATEGORIES_MAX:
        return None
    # The first million of many more tell nothing: a user of a long log may well come back later.
    if distinct.is_full or distinct.count < _UNIQUE * distinct.num_seen:
        return None
    seen = f"{distinct.count:,} different values in {distinct.num_seen:,} rows, too few of each"
    amount = "; an amount, not an id? Make it a feature of kind dense"
    return f"{seen} to learn from{amount if profile.kind == 'whole' else ''}"


def _is_category(profile: ColumnProfile) -> bool:
    """Whether whole numbers are names of something rather than amounts."""
    few = profile.distinct.count <= _CATEGORIES_MAX
    # Amounts are mostly small and sometimes large; ids lie anywhere in their range.
    return few or bool(_ID.match(profile.name.lower())) or profile.skewness < _SKEWED / 2


def _seen(profile: ColumnProfile) -> str:
    """What the column holds, in words."""
    more = "over " if profile.distinct.is_full else ""
    of_lists = " in lists" if profile.kind == "list" else ""
    parts = [f"{more}{profile.distinct.count:,} different{of_lists}"]
    if profile.num_missing:
        parts.append(f"{profile.num_missing / profile.num_rows:.2%} missing")
    if profile.kind in ("whole", "number"):
        parts.append(f"{_number(profile.minimum)} to {_number(profile.maximum)}")
    return f"{', '.join(parts)}, as in {', '.join(profile.examples)}"


def _head_comments(
    path: Path,
    num_rows: int,
    profiles: dict[str, ColumnProfile],
    label: LabelColumn,
    query_id: str | None,
    time: str | None,
) -> dict[str, list[str]]:
    """Comments above the features."""
    lines = [
        f"Proposed for {_printable(path.name)}, {num_rows:,} rows. Look it over:",
        "what was not known before the click must not be a feature, and values do not tell.",
    ]
    if query_id is None:
        lines.append("No query: name one with query_id, or all features stay on the item side.")
        some = ", ".join(
            f"{_printable(name)} ({_rows_each(profile)})"
            for name, profile in _repeating(profiles).items()
            if name != label.column
        )
        lines += [f"Columns with several rows of each value: {some}."] if some else []
    if time is None:
        lines.append("No time: rows are split in the order of the file.")
    comments = {"label": [*lines, "", _seen(profiles[label.column])]}
    if query_id is not None:
        profile = profiles[query_id]
        rows = f", {_rows_each(profile)}" if not profile.distinct.is_full else ""
        comments["query_id"] = ["", f"{_seen(profile)}{rows}"]
    if time is not None:
        comments["time"] = ["", _seen(profiles[time]), "The oldest rows train, the newest test."]
    return comments


def _rows_each(profile: ColumnProfile) -> str:
    """How many rows each value has, as far as was counted."""
    return f"{profile.distinct.num_seen / max(1, profile.distinct.count):.1f} rows each"


def _number(value: float) -> str:
    """A number as people read it."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _printable(text: str) -> str:
    """A name as a comment can hold it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
