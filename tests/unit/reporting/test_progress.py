"""Progress: plain lines, and few of them, without a terminal; on one, a bar with the time left."""

from __future__ import annotations

import io

import pytest
import rich.console

from tailrank.reporting.progress import Progress, format_duration


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(seconds: float, *, step_s: float = 0.01, quiet: bool = False) -> list[str]:
    """What a stage of that length prints into a file."""
    file, clock = io.StringIO(), Clock()
    with Progress(rich.console.Console(file=file, quiet=quiet), "train", clock=clock) as progress:
        while clock.now < seconds - step_s / 2:
            clock.now += step_s
            progress(clock.now / seconds, "9 samples/s")
    return file.getvalue().splitlines()


def test_what_is_over_within_two_seconds_prints_nothing() -> None:
    assert lines(1.9) == []


def test_lines_come_after_two_seconds_and_then_every_ten() -> None:
    assert lines(40.0) == [
        "train: 5%, 2 s, 38 s left, 9 samples/s",
        "train: 30%, 12 s, 28 s left, 9 samples/s",
        "train: 55%, 22 s, 18 s left, 9 samples/s",
        "train: 80%, 32 s, 8 s left, 9 samples/s",
        "train: took 40 s",
    ]


def test_a_run_of_ten_hours_prints_less_than_a_hundred_lines() -> None:
    printed = lines(36_000.0, step_s=1.0)
    assert 50 < len(printed) < 100
    assert printed[-1] == "train: took 10 h 00 min"


def test_quiet_prints_nothing() -> None:
    assert lines(40.0, quiet=True) == []


def test_a_resumed_stage_reckons_with_what_it_did_itself() -> None:
    file, clock = io.StringIO(), Clock()
    with Progress(rich.console.Console(file=file), "read", clock=clock) as progress:
        progress.at("train", 0.5, first=0.5)
        clock.now = 10.0
        progress.at("train", 0.6, first=0.6)
    assert file.getvalue().splitlines()[0] == "train: 60%, 10 s, 40 s left"


def test_the_next_stage_has_a_clock_of_its_own() -> None:
    file, clock = io.StringIO(), Clock()
    with Progress(rich.console.Console(file=file), "read", clock=clock) as progress:
        clock.now = 5.0
        progress.begin("train")
        clock.now = 9.0
        progress.count(100, 200, "rows")
    assert file.getvalue().splitlines() == [
        "read: took 5 s",
        "train: 50%, 4 s, 4 s left, 25 rows/s",
        "train: took 4 s",
    ]


def test_what_gets_no_further_says_what_it_does() -> None:
    file, clock = io.StringIO(), Clock()
    with Progress(rich.console.Console(file=file), "train", clock=clock) as progress:
        progress(0.25)
        clock.now = 3.0
        progress.note("scoring validation rows")
    assert file.getvalue().splitlines()[0] == "train: 25%, 3 s, 9 s left, scoring validation rows"


def test_a_terminal_gets_a_bar_that_vanishes_and_the_remark_is_cut_to_fit() -> None:
    file, clock = io.StringIO(), Clock()
    console = rich.console.Console(
        file=file, force_terminal=True, width=80, color_system=None, legacy_windows=False
    )
    with Progress(console, "train", clock=clock) as progress:
        for _ in range(1000):
            clock.now += 0.01
            progress(clock.now / 20.0, "152,000 samples/s, and more than fits on the line")
    frames = file.getvalue().split("\r")
    assert 90 <= sum("samples/s" in frame for frame in frames) <= 110  # ten a second, not a hundred
    assert "50 %" in file.getvalue()
    assert "10 s, 10 s left" in file.getvalue()
    assert "…" in file.getvalue()
    assert "\x1b[2K" in file.getvalue()
    assert file.getvalue().endswith("train: took 10 s\n")


def test_a_dumb_terminal_gets_lines() -> None:
    file, clock = io.StringIO(), Clock()
    console = rich.console.Console(
        file=file, force_terminal=True, _environ={"TERM": "dumb"}, color_system=None
    )
    with Progress(console, "train", clock=clock) as progress:
        clock.now = 3.0
        progress(0.5)
    assert file.getvalue() == "train: 50%, 3 s, 3 s left\ntrain: took 3 s\n"


def test_an_error_leaves_no_line_that_says_done() -> None:
    file, clock = io.StringIO(), Clock()

    def fail() -> None:
        with Progress(rich.console.Console(file=file), "train", clock=clock):
            clock.now = 60.0
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (12.4, "12 s"),
        (59.7, "1 min 00 s"),
        (125, "2 min 05 s"),
        (4320, "1 h 12 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
