"""`tailrank compare`: trained models side by side on the same test rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

if TYPE_CHECKING:
    from tailrank.metrics import BinaryMetrics
    from tailrank.reporting.progress import Progress
    from tailrank.reporting.report_data import ComparedMetric, LearningPoint, RunRow


class _Run(NamedTuple):
    """A run as it was read: its name here, each task's test rows scored, its learning curve."""

    name: str
    scored: dict[str, BinaryMetrics]
    rows_fingerprint: str
    curve: list[LearningPoint]


def compare(
    *runs: Path,
    out: Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Compare trained models with the first one, by a paired bootstrap on the same test rows.

    Rows are resampled with replacement, the same ones for every model, so that the luck of the
    draw cancels; where rows belong to users or queries, whole groups are. Runs that scored
    different rows are refused; of several tasks, those that all runs predict are compared.

    Example: tailrank compare runs/factors runs/dlrm --out runs/compared

    Args:
        runs: Folders of trained or exported models; the others are held against the first.
        out: Folder for result.json and report.html; default: print only.
        resamples: Draws of the bootstrap.
        seed: Seed of the draws.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.core.errors import ConfigError, RequestError
    from tailrank.core.files import check_output, replace_directory
    from tailrank.core.names import plain_names
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.quality import certain_metrics, undefined_metrics
    from tailrank.reporting.report import write_report
    from tailrank.reporting.report_data import NamedCurve, ReportData
    from tailrank.reporting.result import Result, write_result
    from tailrank.reporting.tables import comparison_table

    typed = command_line(compare, locals())
    if len(runs) < 2:
        given = "one folder" if runs else "no folder"
        raise RequestError("RUNS", f"{given} is named; name two or more of trained models")
    if resamples < 100:
        raise ConfigError("--resamples", resamples, "at least 100, for a 95 % interval")
    if out is not None:
        check_output(out, overwrite=overwrite)
    console = Console(json=json, quiet=quiet)
    loaded = _load(runs)
    rows = _rows(loaded)
    with console.progress("bootstrap") as progress:
        compared = _differences(loaded, rows, resamples, seed, progress)
    console.show(comparison_table(rows, compared))
    for missing in undefined_metrics(loaded[0].scored):
        console.warn(missing)
    for certain in certain_metrics(loaded[0].scored):
        console.note(certain)
    called = plain_names((run.name for run in loaded), "run")
    named = [(f"{called[row.run]}.{row.metric}_difference", row) for row in compared]
    result = Result(
        command="compare",
        command_line=typed,
        config={
            "runs": dict(zip(called.values(), runs, strict=True)),
            "resamples": resamples,
            "rows_fingerprint": loaded[0].rows_fingerprint,
        },
        seed=seed,
        metrics={
            **{
                f"{called[row.run]}.{name}": value
                for row in rows
                for name, value in row.metrics.items()
            },
            **{name: row.value for name, row in named},
        },
        intervals={name: (row.low, row.high) for name, row in named},
        artifacts=[] if out is None else [out / "result.json", out / "report.html"],
    )
    if out is not None:
        curves = [NamedCurve(name=run.name, points=run.curve) for run in loaded if run.curve]
        with replace_directory(out, overwrite=overwrite) as folder:
            write_result(folder / "result.json", result)
            ReportData(runs=rows, comparison=compared, learning_curves=curves).save(folder)
            write_report(folder, name=out.name)
    console.finish(result)
    return 0


def _load(folders: tuple[Path, ...]) -> list[_Run]:
    """The runs, all on the same rows.

    Raises:
        RequestError: test rows of two runs differ.
        DataError: a folder is not that of a trained model, or is damaged.
    """
    from tailrank.core.errors import RequestError
    from tailrank.reporting.report_data import ReportData
    from tailrank.training.scores import load_scores

    runs: list[_Run] = []
    for folder, name in zip(folders, _names(folders), strict=True):
        scored, rows = load_scores(folder)
        if runs and rows != runs[0].rows_fingerprint:
            raise RequestError(
                "RUNS",
                f"{folder} scored other test rows than {folders[0]}: other data, or the same data "
                "split in another way; only the same rows can be compared",
            )
        runs.append(_Run(name, scored, rows, ReportData.load(folder).learning_curve))
    return _in_common(runs)


def _in_common(runs: list[_Run]) -> list[_Run]:
    """The runs with the tasks that all of them predict, so a model of one task may meet others.

    Raises:
        RequestError: there is no such task.
    """
    from tailrank.core.errors import RequestError

    tasks = [task for task in runs[0].scored if all(task in run.scored for run in runs)]
    if not tasks:
        each = "; ".join(f"{run.name}: {', '.join(run.scored)}" for run in runs)
        raise RequestError("RUNS", f"no task that all of them predict: {each}")
    return [run._replace(scored={task: run.scored[task] for task in tasks}) for run in runs]


def _names(folders: tuple[Path, ...]) -> list[str]:
    """The folders' names, or their paths where names repeat.

    Raises:
        RequestError: a folder is there twice.
    """
    from tailrank.core.errors import RequestError

    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        twice = next(name for name in resolved if resolved.count(name) > 1)
        raise RequestError("RUNS", f"{twice} is named twice")
    names = [folder.name for folder in resolved]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _rows(runs: list[_Run]) -> list[RunRow]:
    """Metrics of every run; those that are undefined (NaN) are left out."""
    from tailrank.metrics import known_by_task
    from tailrank.reporting.report_data import RunRow

    return [RunRow(run=run.name, metrics=known_by_task(run.scored)) for run in runs]


def _differences(
    runs: list[_Run], rows: list[RunRow], resamples: int, seed: int, progress: Progress
) -> list[ComparedMetric]:
    """How every run after the first differs from it, metric by metric."""
    from tailrank.metrics import PairedMetric, paired_bootstraps
    from tailrank.reporting.report_data import ComparedMetric

    first, others = runs[0].scored, runs[1:]
    named = {  # of each task, what the metrics are called that its rows have
        task: {
            metric: name
            for metric in get_args(PairedMetric)
            if (name := f"{task}.{metric}" if len(first) > 1 else metric) in rows[0].metrics
        }
        for task in first
        if len(first[task].scores)
    }
    found: list[ComparedMetric] = []
    compared, total = 0, len(others) * len(named) * resamples

    def drawn(before: int, done: int) -> None:
        progress.count(before + done, total, "draws")

    for run in others:
        for task, names in named.items():
            differences = paired_bootstraps(
                run.scored[task].scores,
                first[task].scores,
                first[task].labels,
                first[task].groups,
                metrics=list(names),
                num_resamples=resamples,
                seed=seed,
                progress=partial(drawn, compared),
            )
            compared += resamples
            found += [
                ComparedMetric(run=run.name, metric=name, value=value, low=low, high=high)
                for name, (value, low, high) in zip(names.values(), differences, strict=True)
            ]
    return found
