"""Sizes as people write them, by the types that a config's `for_spec` names."""

import contextlib
from typing import Literal

import pytest

from tailrank.core.errors import ConfigError
from tailrank.models.registry import architecture_names, size_from_text, size_names
from tailrank.models.sizes import read_size, size_types


def for_spec(
    spec: object,
    *,
    count: int = 1,
    rate: float = 0.5,
    exact: bool = False,
    form: Literal["low", "full"] = "full",
    widths: tuple[int, ...] = (),
    names: tuple[str, ...] = (),
    crosses: tuple[tuple[str, ...], ...] = (),
    rank: int | None = None,
) -> None: ...


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "12", 12),
        ("rate", "1e-3", 1e-3),
        ("exact", "yes", True),
        ("exact", "no", False),
        ("form", "low", "low"),
        ("widths", "512-256", (512, 256)),
        ("widths", "", ()),
        ("names", "a,b", ("a", "b")),
        ("crosses", "a*b,a*c*d", (("a", "b"), ("a", "c", "d"))),
        ("crosses", "", ()),
        ("rank", "3", 3),
        ("rank", "none", None),
    ],
)
def test_every_type_reads(name: str, text: str, expected: object) -> None:
    value = read_size(name, text, size_types(for_spec)[name])
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("count", "1.5", "a whole number"),
        ("rate", "much", "a number"),
        ("exact", "True", "yes or no"),
        ("form", "half", "low or full"),
        ("widths", "512,256", "512-256"),
        ("widths", "512--256", "512-256"),
        ("crosses", "a**b", "a*b"),
        ("rank", "few", "a whole number; or none"),
    ],
)
def test_another_value_is_refused_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_size(f"--size {name}", text, size_types(for_spec)[name])
    assert (error.value.field, error.value.value) == (f"--size {name}", text)
    assert allowed in error.value.allowed


@pytest.mark.parametrize("architecture", architecture_names())
def test_every_size_of_every_architecture_has_a_form(architecture: str) -> None:
    for name in size_names(architecture):
        with contextlib.suppress(ConfigError):  # a KeyError would say that its type has none
            size_from_text(architecture, name, "1", f"--size {name}")
