"""`tailrank profile`: how long batches take on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def profile(
    target: str,
    *,
    out: Path = Path("profile.json"),
    scale: float = 1.0,
    user_tables: int | None = None,
    precision: str | None = None,
    data: str | None = None,
    ids: str = "uniform",
    workers: int | None = None,
    budget: str | None = None,
    seed: int = 0,
    quick: bool = False,
    report: Path | None = None,
    quiet: bool = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure the service time of batches on this host, cold, with 1 to all workers busy.

    The table it writes is what `tailrank tune --profile` simulates with.

    Example: tailrank profile preset:dlrm-rmc1 --scale 0.25 --out profile.json

    Args:
        target: Folder of a trained model, or preset:NAME.
        out: File for the table; replaced if it exists.
        scale: Factor on the rows of a preset's tables.
        user_tables: Tables of a preset that belong to the user's side.
        precision: Number formats of a preset: fp32, bf16, int8, or a mix: rows=int4,dense=bf16.
        data: Log whose users and candidates make the queries, as it was named when the model was
            trained, for instance movielens:FOLDER; default: random ones.
        ids: Which rows random queries read: uniform; zipf:ALPHA, popular ones more often;
            stack:ROWS=HITS,…, so that a cache of ROWS rows hits that share; or reuse:FILE, as often
            as in a histogram of locality.
        workers: Worker threads; default: all cores.
        budget: Time to spend, as in 30s or 2min; default: 30s.
        seed: Seed of a preset's weights and of the query pool.
        quick: Half the batch sizes, in 2s unless --budget says more, for a first look.
        report: File for a page with charts, as in profile.html.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.load_test import measure_overhead_ns, measure_profile
    from tailrank.characterization.service_time import NUM_ITEMS_GRID, ProfileConfig
    from tailrank.characterization.target import TargetConfig
    from tailrank.commands.evaluate import load_target
    from tailrank.core.files import check_writable
    from tailrank.core.sla import parse_duration_ns
    from tailrank.inference.precision import Precision
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.report import write_page
    from tailrank.reporting.report_data import ReportData, ServiceTime
    from tailrank.reporting.result import Result
    from tailrank.reporting.tables import service_time_table
    from tailrank.runtime.live import resolve_workers

    typed = command_line(profile, locals())
    check_writable(out.parent)
    if report is not None:
        check_writable(report.parent)
    console = Console(json=json, quiet=quiet)
    target_config = TargetConfig(
        target=target,
        scale=scale,
        user_tables=user_tables,
        precision=None if precision is None else Precision.parse(precision),
        data=data,
        ids=ids,
        seed=seed,
    )
    profile_config = ProfileConfig(
        num_workers=resolve_workers(workers),
        budget_s=parse_duration_ns(budget or ("2s" if quick else "30s"), "--budget") / 1e9,
        seed=seed,
        **({"num_items": NUM_ITEMS_GRID[::2], "num_parts": (1, 8)} if quick else {}),
    )
    loaded = load_target(target_config, console)
    with console.progress("profile") as advance:
        table = measure_profile(loaded, profile_config, advance, console.note)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.save(out)
    console.show(service_time_table(table))
    metrics = {"profile.dispatch_overhead_us": measure_overhead_ns() / 1e3}
    for items in (1, 128, 1000):
        nanoseconds = table.lookup_ns(1, items, round(items * loaded.ids_per_item), 1)
        metrics[f"profile.service_time_ms_items_{items}"] = nanoseconds / 1e6
    result = Result(
        command="profile",
        command_line=typed,
        config={"target": target_config, "profile": profile_config, "host": loaded.describe()},
        seed=seed,
        metrics=metrics,
        artifacts=[path for path in (out, report) if path is not None],
    )
    if report is not None:
        write_page(report, result, ReportData(service_time=ServiceTime.of(table)), loaded.name)
    console.finish(result)
    return 0
