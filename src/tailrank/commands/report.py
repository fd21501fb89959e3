"""`tailrank report`: a run's results as one offline HTML file."""

from __future__ import annotations

from pathlib import Path


def report(run: Path, *, out: Path | None = None, quiet: bool = False, json: bool = False) -> int:
    """Draw a run's results as one HTML file that loads nothing from elsewhere.

    Example: tailrank report runs/tuned --out tuned.html

    Args:
        run: Folder that train, compare, export, tune or demo wrote: result.json, and the columns
            beside it.
        out: File to write; default: report.html in that folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the run's own result as JSON on standard output.
    """
    from dataclasses import replace

    from tailrank.reporting.console import Console
    from tailrank.reporting.report import RESULT_NAME, write_report
    from tailrank.reporting.result import read_result

    path = write_report(run, out)
    # The folder's own record stays the truth; only the new file is added to what was written.
    Console(json=json, quiet=quiet).finish(
        replace(read_result(run / RESULT_NAME), artifacts=[path])
    )
    return 0
