"""A call of a verb becomes the words that repeat it, which the command line itself understands."""

from __future__ import annotations

import shlex
from pathlib import Path

from tailrank.cli import build_app
from tailrank.commands.train import train
from tailrank.commands.tune import tune
from tailrank.reporting.command_line import command_line


def test_what_was_given_is_said_and_defaults_are_not() -> None:
    given = {
        "target": "runs/a b",
        "sla": "p95=10ms",
        "out": Path("runs/x"),
        "scale": 1.0,
        "seed": 3,
    }
    assert command_line(tune, given) == (
        "tailrank tune 'runs/a b' --sla p95=10ms --out runs/x --seed 3"
    )


def test_flags_are_named_and_those_of_the_output_are_left_out() -> None:
    given = {"model": "dlrm", "data": "synthetic:", "out": Path("x"), "refit": True}
    shown = {"json": True, "quiet": True, "overwrite": True, "resume": True}
    assert command_line(train, given | shown) == (
        "tailrank train dlrm --data synthetic: --out x --refit"
    )


def test_a_flag_that_was_turned_off_says_so_and_the_parser_reads_it_back() -> None:
    given = {"model": "dlrm", "data": "criteo:x", "out": Path("x"), "integer_buckets": False}
    words = shlex.split(command_line(train, given))
    assert "--no-integer-buckets" in words
    _, bound, _ = build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
    assert bound.arguments == given


def test_a_flag_given_twice_is_said_twice_and_the_parser_reads_it_back() -> None:
    given = {"model": "dlrm", "data": "criteo:x", "out": Path("x"), "size": ["a=1", "b=2-3"]}
    words = shlex.split(command_line(train, given))
    assert words[-4:] == ["--size", "a=1", "--size", "b=2-3"]
    _, bound, _ = build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
    assert bound.arguments == given


def test_any_number_of_words() -> None:
    def compare(*runs: Path, json: bool = False) -> None: ...

    assert command_line(compare, {"runs": (Path("a"), Path("b"))}) == "tailrank compare a b"
