"""Sizes of a model from text, by the annotations of its config's `for_spec`. Knows no model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from tailrank.core.errors import ConfigError


class _Form(NamedTuple):
    """How a type is written: what reads it (ValueError if it cannot), and that in words."""

    read: Callable[[str], Any]
    allowed: str


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _names(text: str, separator: str = ",") -> tuple[str, ...]:
    names = tuple(text.split(separator)) if text else ()
    if "" in names:
        raise ValueError(text)
    return names


def _width(text: str) -> int:
    if (width := int(text)) < 1:
        raise ValueError(text)
    return width


_FORMS: dict[Any, _Form] = {
    int: _Form(int, "a whole number"),
    float: _Form(float, "a number"),
    bool: _Form(_yes_or_no, "yes or no"),
    str: _Form(str, "a name"),
    tuple[int, ...]: _Form(
        lambda text: tuple(_width(width) for width in _names(text, "-")),
        "whole numbers from 1 joined by -, as in 512-256",
    ),
    tuple[str, ...]: _Form(_names, "names joined by commas"),
    tuple[tuple[str, ...], ...]: _Form(
        lambda text: tuple(_names(group, "*") for group in _names(text)),
        "names joined by *, and such groups by commas, as in a*b,a*c*d",
    ),
}


def size_types(for_spec: Callable[..., object]) -> dict[str, Any]:
    """The type of each size that a person chooses: the keywords of `for_spec`, in order."""
    hints = get_type_hints(for_spec)
    parameters = inspect.signature(for_spec).parameters.items()
    return {name: hints[name] for name, p in parameters if p.kind is p.KEYWORD_ONLY}


def read_size(name: str, text: str, kind: Any) -> Any:
    """The size `name` from `text`.

    Args:
        name: for the error.
        text: `512-256`, `yes`, `none` where the size may be left open, …
        kind: its type, one of those in `size_types`.

    Raises:
        ConfigError: `text` is no such value; says what is allowed.
    """
    form = _form(kind)
    try:
        return form.read(text)
    except (KeyError, ValueError):
        raise ConfigError(name, text, form.allowed) from None


def _form(kind: Any) -> _Form:
    """How values of that type are written."""
    choices = get_args(kind)
    if get_origin(kind) is Literal:
        return _Form({str(choice): choice for choice in choices}.__getitem__, " or ".join(choices))
    if get_origin(kind) in (Union, UnionType):
        form = _form(next(choice for choice in choices if choice is not NoneType))
        read = form.read
        return _Form(lambda t: None if t == "none" else read(t), f"{form.allowed}; or none")
    return _FORMS[kind]
