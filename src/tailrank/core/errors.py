"""The exceptions that tailrank raises on purpose.

    TailrankError
    ├── ConfigError          a setting is wrong: names the field, its value and what is allowed
    ├── RequestError         what was asked for does not fit what is there: says what to do instead
    ├── DataError            a file is wrong: names path, line, column, value and reason
    ├── BackendUnavailable   this host or build cannot do what was asked for
    ├── OutsideProfile       a service time was asked for that nobody measured
    └── ServingError
        ├── Overloaded       a bounded queue is full, or an answer would come too late
        ├── SwapUnderWay     models are being changed, and only one change goes on at a time
        └── WorkerDied       a worker ended before its batch did

An SLA that cannot be met is a result, not an exception. `assert` guards our own invariants only.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

# Nobody types a longer name; to compare one of megabytes would take seconds.
_TYPED_MAX = 200


class TailrankError(Exception):
    """Base of every error that a user can cause or mend; its text is one line for the user."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle text and attributes: the arguments of a constructor are not what it was told."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(TailrankError):
    """A setting is wrong.

    Args:
        field: name of the setting, as the user wrote it.
        value: what was given; None or an empty list: nothing.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        if value is None or (isinstance(value, list) and not value):
            super().__init__(f"{field}: missing; expected {allowed}")
        else:
            super().__init__(f"{field}: got {readable(value)}; allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


class RequestError(TailrankError):
    """What was asked for lacks something, or does not fit what is there.

    Args:
        field: name of the setting, as the user wrote it or would have to.
        reason: what is missing or in the way, and what to do.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class DataError(TailrankError):
    """A file cannot be used.

    Args:
        path: the file.
        reason: what is wrong and what was expected.
        line: 1-based line number, where the fault has one.
        column: name of the column, where the fault lies in one.
        value: what stands there; long ones are shown in part.
        row: 1-based row number, in a file that has rows but no lines.
    """

    def __init__(
        self,
        path: str | Path,
        reason: str,
        line: int | None = None,
        *,
        column: str | None = None,
        value: object = None,
        row: int | None = None,
    ) -> None:
        place = f"{path}:{line}" if line is not None else str(path)
        if row is not None:
            place += f": row {row}"
        if column is not None:
            place += f": column {column!r}"
        if value is not None:
            shown = ascii(value)
            place += f"{':' if column is None else ','} value {shown[:60]}"
            place += "…" if len(shown) > 60 else ""
        super().__init__(f"{place}: {reason}")
        self.path = str(path)
        self.line = line
        self.column = column
        self.value = value
        self.row = row
        self.reason = reason


def one_of(names: Sequence[str], given: str) -> str:
    """What is allowed where a name is, in words: all of them, and the one that was likely meant."""
    *most, last = names
    return (f"{', '.join(most)} or {last}" if most else last) + closest([*most, last], given)


def readable(value: object) -> str:
    """A value as an error shows it."""
    try:
        return repr(value)
    except RecursionError:  # as a client may send it
        return f"a {type(value).__name__} nested too deeply"


def closest(names: Iterable[str], given: str) -> str:
    """The question whether the most similar name was meant; empty where none is similar."""
    if len(given) > _TYPED_MAX:
        return ""
    found = difflib.get_close_matches(given, list(names), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


class BackendUnavailable(TailrankError):
    """This host or build lacks what was asked for; the text says what and what to do instead."""


class OutsideProfile(TailrankError):
    """A service time outside the measured range was asked for; tables do not extrapolate."""


class ServingError(TailrankError):
    """Something went wrong while queries were being served."""


class Overloaded(ServingError):
    """A query is turned away: a bounded queue is full, or its answer would come too late.

    Args:
        reason: a short code, such as `queue_full` or `too_late`.
        text: why, in words.
        retry_after_ns: when the same query would probably be taken; >= 0.
    """

    def __init__(self, reason: str, text: str, retry_after_ns: int = 0) -> None:
        super().__init__(text)
        self.reason = reason
        self.retry_after_ns = retry_after_ns


class SwapUnderWay(ServingError):
    """The models of a server are being changed already."""


class WorkerDied(ServingError):
    """A worker ended before its batch did."""
