"""`tailrank demo`: the whole way on a synthetic log, in under three minutes."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

_SLA = "p95=10ms"
# Layers wide enough that a large query costs milliseconds, as in production, and still learn in
# seconds; the log is as small as a DLRM needs to come near the attainable AUC.
_BOTTOM_MLP, _TOP_MLP = "256-64", "512-256"
_ROWS, _QUICK_ROWS = 300_000, 56_000


def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: int = 1,
    quick: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Walk the whole way: synthetic clicks, trained DLRM, best operating point, live proof, report.

    Prints and runs the commands that you would type. No data is needed.

    Example: tailrank demo --out runs/demo

    Args:
        out: Folder for model, results and report.html.
        seed: Seed of everything random.
        quick: A smaller log and shorter runs, in under a minute; the intervals are wide.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.commands.train import train
    from tailrank.commands.tune import tune
    from tailrank.core.files import check_output
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.report import write_report
    from tailrank.reporting.report_data import ReportData
    from tailrank.reporting.result import Result, read_result, write_result

    typed = command_line(demo, locals())
    check_output(out, overwrite=overwrite)
    console = Console(json=json, quiet=quiet)
    data = f"synthetic:rows={_QUICK_ROWS if quick else _ROWS},seed={seed}"
    model, tuned = out / "model", out / "tuned"
    training: dict[str, Any] = {
        "model": "dlrm",
        "data": data,
        "out": model,
        "bottom_mlp": _BOTTOM_MLP,
        "top_mlp": _TOP_MLP,
        "seed": seed,
    }
    tuning: dict[str, Any] = {
        "target": str(model),
        "sla": _SLA,
        "out": tuned,
        "budget": "20s" if quick else "90s",
        "seed": seed,
    }
    # The verbs speak to people on standard output, which under --json is not theirs.
    with redirect_stdout(sys.stderr) if json else nullcontext():
        console.note(f"$ {command_line(train, training)}")
        code = train(**training, overwrite=overwrite, quiet=quiet)
        if code:
            return code
        console.note(f"\n$ {command_line(tune, tuning)}")
        code = tune(**tuning, overwrite=overwrite, quiet=quiet)
    trained, found = read_result(model / "result.json"), read_result(tuned / "result.json")
    result = Result(
        command="demo",
        command_line=typed,
        config={"train": trained.config, "tune": found.config},
        seed=seed,
        metrics={**trained.metrics, **found.metrics},
        intervals=found.intervals,
        validity=found.validity,
        artifacts=[out / "result.json", out / "report.html", model, tuned],
    )
    write_result(out / "result.json", result)
    learned, columns = ReportData.load(model), ReportData.load(tuned)
    replace(columns, learning_curve=learned.learning_curve, reliability=learned.reliability).save(
        out
    )
    write_report(out)
    console.note(
        f"\ntest AUC {trained.metrics['auc_test']:.4f} "
        f"of {trained.metrics['auc_attainable']:.4f} attainable"
    )
    console.finish(result)
    return code
