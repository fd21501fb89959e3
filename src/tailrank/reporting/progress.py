"""How far a verb is: a bar with the time left on a terminal, plain lines elsewhere.

Drawn by whoever reports progress and never by a thread of its own, which would take the
interpreter from the workers ten times a second in the middle of what is being measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import rich.console
import rich.progress
from rich.progress import BarColumn, TextColumn
from rich.table import Column

_REDRAW_S = 0.1
_FIRST_LINE_S = 2.0  # what is over sooner needs no line
_LINE_S, _LINE_FRACTION = 10.0, 0.1


class Progress:
    """The stages of one verb, one after another.

    Without a terminal a stage prints its first line after two seconds, then one every ten seconds
    and, once it has run for long, one per tenth of the time that it has taken so far.

    Args:
        console: where to draw; bars need a terminal.
        stage: name of the first stage.
        clock: seconds from any start, for tests.
    """

    def __init__(
        self,
        console: rich.console.Console,
        stage: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock = console, clock
        self._due = 0.0
        self._bar: rich.progress.Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
            self._bar = _bar(console)
            self._task = self._bar.add_task("", total=1.0, times="", remark="")
        self._start(stage, 0.0)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            self._end()

    def begin(self, stage: str, fraction: float = 0.0) -> None:
        """Start the next stage.

        Args:
            stage: its name.
            fraction: how much of it had been done before, by a run that is resumed.
        """
        self._end()
        self._start(stage, fraction)

    def at(self, stage: str, fraction: float, remark: str = "", *, first: float = 0.0) -> None:
        """Say how far `stage` is, which begins now unless it is running; see `begin`."""
        self.enter(stage, first)
        self(fraction, remark)

    def enter(self, stage: str, first: float = 0.0) -> None:
        """Start `stage` unless it is running; see `begin`."""
        if stage != self._stage:
            self.begin(stage, first)

    def note(self, remark: str) -> None:
        """Say what the stage does where it gets no further meanwhile."""
        self(self._fraction, remark)

    def __call__(self, fraction: float, remark: str = "") -> None:
        """Say how far the stage is.

        Args:
            fraction: finished, 0 to 1.
            remark: a rate, with its unit, or what is being done.
        """
        self._fraction = fraction
        now = self._clock()
        elapsed_s = now - self._started
        times = format_duration(elapsed_s)
        if 0.0 < fraction < 1.0 and fraction > self._first:
            left_s = elapsed_s * (1.0 - fraction) / (fraction - self._first)
            times += f", {format_duration(left_s)} left"
        if now < self._due:
            return
        if self._bar is not None:
            self._bar.start()  # now, and not sooner, so that lines before it stay whole
            self._due = now + _REDRAW_S
            self._bar.update(
                self._task, completed=fraction, refresh=True, times=times, remark=remark
            )
            return
        self._due = now + max(_LINE_S, _LINE_FRACTION * elapsed_s)
        parts = (f"{self._stage}: {fraction:.0%}", times, remark)
        self._line(", ".join(part for part in parts if part))

    def count(self, done: float, total: float, unit: str) -> None:
        """Say how many of `total` are done, and how many a second.

        Args:
            done: since the stage began.
            total: of the stage, above 0.
            unit: what is counted, such as `rows`.
        """
        elapsed_s = max(self._clock() - self._started, 1e-9)
        self(done / total, f"{done / elapsed_s:,.0f} {unit}/s")

    def count_bytes(self, done: int, total: int) -> None:
        """Say how many of `total` bytes are done, and how many a second; see `count`."""
        self.count(done / 1e6, total / 1e6, "MB")

    def _start(self, stage: str, fraction: float) -> None:
        """Begin a stage's clock."""
        self._stage, self._first, self._started = stage, fraction, self._clock()
        self._fraction = fraction
        self._due = self._started + (_FIRST_LINE_S if self._bar is None else 0.0)
        if self._bar is not None:
            self._bar.update(self._task, description=stage, completed=fraction, times="", remark="")

    def _end(self) -> None:
        """Leave a line of a stage that took a while: the bar vanishes."""
        elapsed_s = self._clock() - self._started
        if elapsed_s >= _FIRST_LINE_S:
            self._line(f"{self._stage}: took {format_duration(elapsed_s)}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def format_duration(seconds: float) -> str:
    """A time as people say it: `0.4 s`, `12 s`, `2 min 05 s`, `1 h 12 min`."""
    if seconds < 1.0:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _bar(console: rich.console.Console) -> rich.progress.Progress:
    """Stage, bar, share, times and remark on one line, the remark cut where the line ends."""
    return rich.progress.Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[times]}", markup=False, table_column=Column(no_wrap=True)),
        TextColumn(
            "{task.fields[remark]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=console,
        transient=True,
        auto_refresh=False,
        expand=True,
    )
