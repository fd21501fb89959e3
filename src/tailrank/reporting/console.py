"""Where a verb's words go: people read standard output, or standard error beside `--json`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import rich.console
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tailrank.reporting.result import Result, to_json


class Console:
    """The output of one verb.

    Args:
        json: whether standard output is for the result's JSON alone.
    """

    def __init__(self, *, json: bool = False) -> None:
        self._json = json
        self._human = rich.console.Console(stderr=json, highlight=False)
        self._progress = rich.console.Console(stderr=True)

    def note(self, text: str) -> None:
        """A line of what is going on."""
        self._human.print(text, markup=False, soft_wrap=True)

    def show(self, table: RenderableType) -> None:
        """A table or anything else that rich can draw."""
        self._human.print(table)

    @contextmanager
    def progress(self, label: str, total: float) -> Iterator[Callable[..., None]]:
        """A progress bar; yields `advance(completed, remark)`. Drawn on a terminal only."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}"),
        )
        # No refresh by itself: its thread would take the interpreter from the workers ten times a
        # second, in the middle of what is being measured.
        with Progress(*columns, console=self._progress, transient=True, auto_refresh=False) as bar:
            task = bar.add_task(label, total=total, remark="")

            def advance(completed: float, remark: str = "") -> None:
                bar.update(task, completed=completed, remark=remark, refresh=True)

            yield advance

    def finish(self, result: Result) -> None:
        """The end of the verb: the result as JSON where that was asked for; else where it lies."""
        if self._json:
            sys.stdout.write(to_json(result))
        for reason in result.validity.reasons:
            self.note(f"not valid: {reason}")
        for path in result.artifacts:
            self.note(f"wrote {Path(path)}")
