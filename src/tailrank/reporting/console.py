"""Where a verb's words go: people read standard output, or standard error beside `--json`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import rich.console
from rich.console import RenderableType

from tailrank.reporting.progress import Progress
from tailrank.reporting.result import Result, to_json


class Console:
    """The output of one verb.

    Args:
        json: whether standard output is for the result's JSON alone.
        quiet: leave out everything but warnings and that JSON.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self._json, self._quiet = json, quiet
        self._human = rich.console.Console(stderr=json, highlight=False, quiet=quiet)
        self._error = rich.console.Console(stderr=True, highlight=False)
        self._progress = rich.console.Console(stderr=True, highlight=False, quiet=quiet)

    def note(self, text: str) -> None:
        """A line of what is going on."""
        self._human.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that explains an exit code other than 0; said even when quiet."""
        (self._error if self._quiet else self._human).print(text, markup=False, soft_wrap=True)

    def show(self, table: RenderableType) -> None:
        """A table or anything else that rich can draw."""
        self._human.print(table)

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Metrics, one a line."""
        width = max((len(name) for name in metrics), default=0)
        for name, value in metrics.items():
            whole = isinstance(value, int) or abs(value) > 1000
            self.note(
                f"{name:<{width}}  {value:,.0f}" if whole else f"{name:<{width}}  {value:.4f}"
            )

    def progress(self, stage: str) -> Progress:
        """How far the verb is, beginning with `stage`; to be entered as a context."""
        return Progress(self._progress, stage)

    def finish(self, result: Result) -> None:
        """The end of the verb: the result as JSON where that was asked for; else where it lies."""
        if self._json:
            sys.stdout.write(to_json(result))
        for reason in result.validity.reasons:
            self.warn(f"not valid: {reason}")
        for path in result.artifacts:
            self.note(f"wrote {Path(path)}")
