"""The body of `POST /v1/rank`: read, checked and encoded; and its answer.

    {"user": {"age": 31, "history": ["a", "b"]},
     "items": {"movie": ["a", "b"], "price": [1.5, 2]}   or   [{"movie": "a", "price": 1.5}, …],
     "item_ids": ["a", "b"], "top_k": 10, "deadline_ms": 20}

With feature tables, `user_id` stands for `user`, and `item_ids` without `items` for both;
`"unknown_ids": "default"` gives those that no table knows the default row.

Knows no transport.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from tailrank.core.errors import ConfigError, RequestError, closest, readable
from tailrank.data.row_encoder import CategoryColumn, NumberColumns, Rows
from tailrank.features import Side
from tailrank.serving.candidates import Candidates, Ids
from tailrank.serving.model import ServedModel
from tailrank.serving.ranking import Ranked, Timing

KEYS = ("user", "items", "item_ids", "top_k", "deadline_ms", "user_id", "unknown_ids")
Columns = Mapping[str, CategoryColumn | NumberColumns]
DEADLINE_MS_MAX = 3_600_000
_SHOWN_MAX = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one client may ask for.

    Args:
        body_bytes_max: of one request.
        body_seconds_max: for a body to arrive.
        items_max: candidates of one query.
    """

    body_bytes_max: int = 16 << 20
    body_seconds_max: float = 10.0
    items_max: int = 10_000

    def __post_init__(self) -> None:
        for name in ("body_bytes_max", "body_seconds_max", "items_max"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, getattr(self, name), "a number above 0")


class RankRequest(NamedTuple):
    """A request that was understood.

    Args:
        candidates: its user and items.
        item_ids: what the answer calls its items; None: their places, from 0.
        top_k: most items of the answer.
        deadline_ns: the time that it gives, from its arrival; None: the server's.
    """

    candidates: Candidates
    item_ids: Sequence[object] | None
    top_k: int
    deadline_ns: int | None


def parse_rank(body: bytes, models: Sequence[ServedModel], limits: RequestLimits) -> RankRequest:
    """Read a body.

    Args:
        body: of the request.
        models: that will score, one after the other; a request holds the features of all of them.
        limits: what it may ask for.

    Raises:
        RequestError: it is no JSON object with these keys, or lacks or exceeds something.
        ConfigError: a value is not allowed; names field, value and what is.
    """
    try:
        asked = orjson.loads(body)
    except ValueError as error:
        raise RequestError("body", f"not JSON: {error}") from None
    if not isinstance(asked, dict):
        raise RequestError("body", f"expected an object with {', '.join(KEYS)}")
    _refuse_unknown("body", asked, KEYS)
    tables = {side for model in models for side in model.tables}
    default = wants_default(asked.get("unknown_ids"))
    by_id = asked.get("items") is None and asked.get("item_ids") is not None
    if by_id and "item" in tables:
        num_items = _id_count(asked["item_ids"], limits)
        items: Rows | Ids = Ids("item", asked["item_ids"], "item_ids", default)
    else:
        items = _items(asked.get("items"), columns_of(models, "item"), limits)
        num_items = items.num_rows
    return RankRequest(
        candidates=Candidates(_user(asked, models, "user" in tables, default), items),
        item_ids=_item_ids(asked.get("item_ids"), num_items),
        top_k=_top_k(asked.get("top_k"), num_items),
        deadline_ns=_deadline_ns(asked.get("deadline_ms")),
    )


def columns_of(models: Sequence[ServedModel], side: Side) -> Columns:
    """The columns that one of the models reads, at least."""
    return {
        name: source
        for model in reversed(models)
        for name, source in model.encoder.columns[side].items()
    }


def answer(request: RankRequest, ranked: Ranked) -> bytes:
    """The answer: items best first (by the first task, where there are several).

    Of items with equal scores the one that was named first comes first.
    """
    # In NumPy, of which a call costs a loop that is not busy a third of one of torch.
    scores, model = ranked.scores.float().numpy(), ranked.model
    first_B = scores if scores.ndim == 1 else scores[:, 0]
    best = np.argsort(-first_B, kind="stable")[: request.top_k]
    kept, ids, places = ranked.places, request.item_ids, best.tolist()
    if kept is not None:
        places = [kept[place] for place in places]
    names = places if ids is None else [ids[place] for place in places]
    found: list[dict[str, object]] = [
        {"id": name, "score": score}
        for name, score in zip(names, first_B[best].tolist(), strict=True)
    ]
    if scores.ndim > 1:
        for item, row in zip(found, scores[best].tolist(), strict=True):
            item["scores"] = dict(zip(model.tasks, row, strict=True))
    told: dict[str, object] = {
        "items": found,
        "model": model.name,
        "model_version": model.version,
        "timing_ms": _milliseconds(ranked.timing),
    }
    if ranked.stages:
        told["stages"] = [
            {
                "model": stage.model.name,
                "model_version": stage.model.version,
                "items": stage.num_items,
                "timing_ms": _milliseconds(stage.timing),
            }
            for stage in ranked.stages
        ]
    return orjson.dumps(told)


def _milliseconds(timing: Timing) -> dict[str, float]:
    return {
        "queue": timing.queue_ns / 1e6,
        "compute": timing.compute_ns / 1e6,
        "total": timing.total_ns / 1e6,
    }


def fault(error: ConfigError | RequestError) -> dict[str, str]:
    """A bad request in words: the field, and what is wrong with it."""
    if isinstance(error, RequestError):
        return {"field": error.field, "reason": error.reason}
    if error.value is None:
        return {"field": error.field, "reason": f"missing; expected {error.allowed}"}
    return {"field": error.field, "reason": f"got {shown(error.value)}; allowed: {error.allowed}"}


def fault_text(error: Mapping[str, Any]) -> str:
    """A fault, or another reason, as one text."""
    field = error.get("field")
    return str(error["reason"]) if field is None else f"{field}: {error['reason']}"


def shown(value: object) -> str:
    """A value as an error shows it: in ASCII, and not all of a long one."""
    text = readable(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."


def _user(
    asked: Mapping[str, Any], models: Sequence[ServedModel], has_table: bool, default: bool
) -> Rows | Ids:
    """The user, by features or by id."""
    user_id, user = asked.get("user_id"), asked.get("user")
    if user_id is not None:
        if user is not None:
            raise RequestError("user_id", "stands for `user`; leave one of them out")
        if not has_table:
            raise RequestError("user_id", "there is no feature table of users; bring `user`")
        return Ids("user", [user_id], "user_id", default)
    user = {} if user is None else user
    if not isinstance(user, dict):
        raise ConfigError("user", user, "an object of features")
    columns = columns_of(models, "user")
    _check_names("user", user, columns)
    return Rows("user", {name: [user[name]] for name in columns}, 1)


def _id_count(value: object, limits: RequestLimits) -> int:
    """How many candidates are named by ids alone."""
    if not isinstance(value, list):
        raise ConfigError("item_ids", value, "a list of texts or whole numbers")
    if not 1 <= len(value) <= limits.items_max:
        reason = f"{len(value)} candidates; expected 1 to {limits.items_max}"
        raise RequestError("item_ids", reason)
    return len(value)


def wants_default(value: object) -> bool:
    """Whether ids that no table knows are to have the default row, by a request's `unknown_ids`.

    Raises:
        ConfigError: it says neither.
    """
    if value not in (None, "error", "default"):
        raise ConfigError("unknown_ids", value, "error or default")
    return value == "default"


def _items(value: object, columns: Columns, limits: RequestLimits) -> Rows:
    """Candidates as columns, from columns or from rows."""
    if isinstance(value, dict):
        found = _columns(value, columns)
    elif isinstance(value, list):
        found = _transposed(value, columns)
    else:
        raise ConfigError("items", value, "a list of objects, or an object of columns")
    num_items = len(next(iter(found.values()))) if found else len(value)
    if not num_items:
        raise RequestError("items", f"no candidate; expected 1 to {limits.items_max}")
    if num_items > limits.items_max:
        reason = f"{num_items} candidates; expected 1 to {limits.items_max}"
        raise RequestError("items", reason)
    return Rows("item", found, num_items)


def _columns(value: dict[str, Any], columns: Columns) -> dict[str, Sequence[object]]:
    _check_names("items", value, columns)
    lengths = {}
    for name, column in value.items():
        if not isinstance(column, list):
            raise ConfigError(f"items.{name}", column, "a list, with a value for each candidate")
        lengths[name] = len(column)
    if len(set(lengths.values())) > 1:
        (first, length), *others = lengths.items()
        name, other = next(pair for pair in others if pair[1] != length)
        raise RequestError(f"items.{name}", f"{other} values; items.{first} has {length}")
    return value


def _transposed(rows: list[Any], columns: Columns) -> dict[str, Sequence[object]]:
    for number, row in enumerate(rows):
        if type(row) is not dict:
            raise ConfigError(f"items[{number}]", row, "an object of features")
        if row.keys() != columns.keys():
            _check_names(f"items[{number}]", row, columns)
    return {name: [row[name] for row in rows] for name in columns}


def _check_names(place: str, given: Mapping[str, object], columns: Columns) -> None:
    """Refuse features that the model does not have, and the lack of one that it has."""
    _refuse_unknown(place, given, list(columns))
    for name, source in columns.items():
        if name not in given:
            raise RequestError(f"{place}.{name}", f"missing; expected {source.allowed}")


def _refuse_unknown(place: str, given: Mapping[str, object], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            allowed = ", ".join(names) or "nothing"
            where = name if place == "body" else f"{place}.{name}"
            raise RequestError(
                where[:_SHOWN_MAX], f"unknown; expected {allowed}{closest(names, name)}"
            )


def _item_ids(value: object, num_items: int) -> Sequence[object] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise ConfigError("item_ids", value, "a list of texts or whole numbers")
    if len(value) != num_items:
        raise RequestError("item_ids", f"{len(value)} ids; there are {num_items} candidates")
    if not set(map(type, value)) <= {str, int}:
        place = next(place for place, given in enumerate(value) if type(given) not in (str, int))
        raise ConfigError(f"item_ids[{place}]", value[place], "a text or a whole number")
    return value


def _top_k(value: object, num_items: int) -> int:
    if value is None:
        return num_items
    if type(value) is not int or value < 1:
        raise ConfigError("top_k", value, "a whole number from 1")
    return min(value, num_items)


def _deadline_ns(value: object) -> int | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value <= DEADLINE_MS_MAX:  # type: ignore[operator]
        raise ConfigError("deadline_ms", value, f"a number above 0, up to {DEADLINE_MS_MAX}")
    return max(1, round(value * 1e6))  # type: ignore[operator]
