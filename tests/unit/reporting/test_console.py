"""The terminal of a verb: a real one through a pty, a pipe, and what quiet and NO_COLOR leave."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from tailrank.core.measurement import Validity
from tailrank.reporting.console import Console
from tailrank.reporting.result import Result

VERB = """
import time
from tailrank.reporting.console import Console
from rich.table import Table
console = Console()
console.note("reads 3 [files]")
table = Table("[red]policy[/]", box=None)
table.add_row("[green]tuned[/]")
console.show(table)
with console.progress("train") as progress:
    for step in range(25):
        time.sleep(0.1)
        progress.count(step + 1, 25, "samples")
"""
COLORS = re.compile(r"\x1b\[[0-9;]*?(?:3[0-9]|4[0-9]|9[0-7])[;m]")


def on_a_terminal(**environment: str) -> str:
    """What the verb prints on a terminal of 80 columns, escapes and all."""
    leader, follower = pty.openpty()
    named = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", VERB],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=clean | named | environment,
    )
    os.close(follower)
    said = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux says EIO when the other end has gone
            break
        if not piece:
            break
        said += piece
    os.close(leader)
    assert process.wait() == 0
    return said.decode()


def test_a_terminal_shows_a_bar_with_rate_and_time_left_in_colour() -> None:
    said = on_a_terminal()
    assert "reads 3 [files]" in said
    assert COLORS.search(said)
    assert re.search(
        r"train .* \d+ % \d s, \d s left \d+ samples/s",
        re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", said),
    )
    assert said.count("\r") > 10
    assert said.rstrip().endswith("s")
    assert "train: took" in said


def test_no_color_leaves_no_colour_on_a_terminal() -> None:
    said = on_a_terminal(NO_COLOR="1")
    assert "samples/s" in said
    assert not COLORS.search(said)


def test_a_pipe_gets_plain_lines_without_control_characters() -> None:
    done = subprocess.run([sys.executable, "-c", VERB], capture_output=True, text=True, check=True)
    assert [line.strip() for line in done.stdout.splitlines()] == [
        "reads 3 [files]",
        "policy",
        "tuned",
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stdout + done.stderr)
    first, last = done.stderr.splitlines()
    assert re.fullmatch(r"train: \d+%, 2 s, \d\.?\d? s left, \d+ samples/s", first)
    assert re.fullmatch(r"train: took [23] s", last)


def finish(capsys: pytest.CaptureFixture[str], **switches: bool) -> tuple[str, str]:
    console = Console(**switches)
    console.note("note")
    console.metrics({"auc_test": 0.75, "train_samples_per_s": 151_234.4})
    console.warn("no batch size meets the SLA")
    console.finish(
        Result(
            command="tune",
            config={},
            metrics={},
            validity=Validity(("generator_late",)),
            artifacts=["runs/x"],
        )
    )
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_people_read_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = finish(capsys)
    assert err == ""
    assert out.splitlines() == [
        "note",
        "auc_test             0.7500",
        "train_samples_per_s  151,234",
        "no batch size meets the SLA",
        "not valid: generator_late",
        "wrote runs/x",
    ]


def test_beside_json_people_read_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = finish(capsys, json=True)
    assert out.startswith("{")
    assert "wrote runs/x" in err


def test_quiet_leaves_what_explains_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = finish(capsys, quiet=True)
    assert out == ""
    assert err.splitlines() == ["no batch size meets the SLA", "not valid: generator_late"]


def test_quiet_json_is_still_json(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = finish(capsys, quiet=True, json=True)
    assert out.startswith("{")
    assert "wrote" not in err
