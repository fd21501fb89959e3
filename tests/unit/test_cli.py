"""Outcomes become exit codes, and a user's mistake becomes one line without a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrank import __version__
from tailrank.cli import main
from tailrank.commands import report as report_module
from tailrank.commands.train import train
from tailrank.core.errors import ConfigError, DataError
from tailrank.data.registry import KINDS
from tailrank.models.registry import architecture_names


def stand_in(outcome: int | BaseException | None) -> Callable[..., int | None]:
    def report(run: Path) -> int | None:
        """Stand in for a verb. Example: tailrank report runs/x."""
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return report


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (3, 3), (4, 4)])
def test_a_verbs_outcome_is_the_exit_code(
    outcome: int | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "report", stand_in(outcome))
    assert main(["report", "runs/x"]) == code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("--scale", -1, "above 0"), "--scale: got -1; allowed: above 0"),
        (DataError("a.tsv", "38 columns; expected 40", line=7), "a.tsv:7: 38 columns"),
        (PermissionError(13, "Permission denied", "runs"), "Permission denied: 'runs'"),
    ],
)
def test_a_users_error_is_one_line_and_exit_2(
    error: Exception,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report_module, "report", stand_in(error))
    assert main(["report", "runs/x"]) == 2
    line = one_line(capsys)
    assert line.startswith("tailrank: error: ")
    assert text in line


def test_a_bug_is_not_dressed_up_as_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "report", stand_in(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["report", "runs/x"])


def test_an_interrupt_is_one_line_and_exit_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_module, "report", stand_in(KeyboardInterrupt()))
    assert main(["report", "runs/x"]) == 130
    assert one_line(capsys) == "tailrank: interrupted\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["docto"], "doctor"),
        (["doctor", "--colour"], "--colour"),
        (["report"], "--run"),
        (["report", "runs/x", "--out"], "--out"),
    ],
)
def test_a_mistyped_command_is_one_line_and_exit_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    line = one_line(capsys)
    assert text in line
    assert "--help" in line


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_the_help_of_train_names_every_architecture_and_kind_of_data() -> None:
    words = set(re.findall(r"\w+", train.__doc__ or ""))
    assert words >= {*architecture_names(), *KINDS}
