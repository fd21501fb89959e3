"""`tailrank tune`: the batch size that holds the most queries per second inside an SLA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from tailrank.characterization.operating_point import OperatingPoint, OperatingPointConfig
    from tailrank.characterization.target import Target
    from tailrank.core.service_time import ServiceTimeTable
    from tailrank.reporting.console import Console

OUTPUT_FILES = ("result.json", "report.html", "report_data.json", "profile.json")


def tune(
    target: str,
    *,
    sla: str,
    sizes: str = "production",
    out: Path,
    policy: str = "static",
    delay: str | None = None,
    workers: int | None = None,
    duration: str | None = None,
    profile: Path | None = None,
    profile_budget: str | None = None,
    scale: float = 1.0,
    user_tables: int | None = None,
    precision: str | None = None,
    data: str | None = None,
    ids: str = "uniform",
    simulate_only: bool = False,
    quick: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Find the batch size that holds the most queries per second inside an SLA, and prove it live.

    Measures the service times of this host, searches in simulation, then serves the static
    baseline and the best policy for real with the same workload.

    Example: tailrank tune preset:dlrm-rmc1 --scale 0.25 --sla p95=100ms --out runs/rmc1

    Args:
        target: Folder of a trained model, or preset:NAME.
        sla: Percentile and limit, as in p95=10ms.
        sizes: Items per query: fixed:N, normal:MEAN,STD, lognormal:MU,SIGMA, production, mlperf or
            trace:FILE, in the order of the rows.
        out: Folder for result.json, report.html and the profile.
        policy: Policy to tune: static or coalescing.
        delay: Longest wait of a query for company, under coalescing; default: 1ms.
        workers: Worker threads; default: all cores.
        duration: Length of each run, simulated and live; default: 10s.
        profile: Service-time table from tailrank profile; default: measure it now.
        profile_budget: Time for measuring it; default: 20s.
        scale: Factor on the rows of a preset's tables.
        user_tables: Tables of a preset that belong to the user's side.
        precision: Number formats of a preset: fp32, bf16, int8, or a mix: rows=int4,dense=bf16.
        data: Log whose users and candidates make the queries, as it was named when the model was
            trained, for instance movielens:FOLDER; default: random ones.
        ids: Which rows random queries read: uniform; zipf:ALPHA, popular ones more often;
            stack:ROWS=HITS,…, so that a cache of ROWS rows hits that share; or reuse:FILE, as often
            as in a histogram of locality.
        simulate_only: Leave the live runs out.
        quick: Default to runs of 2s and a profile of 4s, for a first look with wide intervals.
        seed: Seed of arrivals, sizes, features and a preset's weights.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.operating_point import OperatingPointConfig
    from tailrank.characterization.target import TargetConfig
    from tailrank.commands.evaluate import load_target
    from tailrank.core.errors import RequestError
    from tailrank.core.files import check_output, replace_directory
    from tailrank.core.service_time import ServiceTimeTable
    from tailrank.core.sla import SLA, parse_duration_ns
    from tailrank.inference.precision import Precision
    from tailrank.reporting import operating_point as reported
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.report import write_report
    from tailrank.reporting.result import Result, write_result
    from tailrank.runtime.live import resolve_workers

    typed = command_line(tune, locals())
    check_output(out, overwrite=overwrite)
    target_config = TargetConfig(
        target=target,
        scale=scale,
        user_tables=user_tables,
        precision=None if precision is None else Precision.parse(precision),
        data=data,
        ids=ids,
        seed=seed,
    )
    if delay is not None and policy == "static":
        raise RequestError("--delay", "the static policy never waits; see --policy coalescing")
    if profile is not None and profile_budget is not None:
        raise RequestError("--profile-budget", "--profile has its times already; leave one out")
    delay = delay or ("0ms" if policy == "static" else "1ms")
    duration = duration or ("2s" if quick else "10s")
    profile_budget = profile_budget or ("4s" if quick else "20s")
    config = OperatingPointConfig(
        sla=SLA.parse(sla),
        sizes=sizes,
        policy=policy,
        delay_ns=parse_duration_ns(delay, "--delay"),
        num_workers=resolve_workers(workers),
        seconds=parse_duration_ns(duration, "--duration") / 1e9,
        profile_seconds=parse_duration_ns(profile_budget, "--profile-budget") / 1e9,
        live=not simulate_only,
        seed=seed,
    )
    table = None if profile is None else ServiceTimeTable.load(profile)
    console = Console(json=json, quiet=quiet)
    loaded = load_target(target_config, console)
    if table is not None and table.device != loaded.profile_label:
        reason = f"{profile} is of {table.device}; this run needs a profile of "
        raise RequestError("--profile", reason + loaded.profile_label)
    point = search(config, loaded, table, console)
    with replace_directory(out, overwrite=overwrite) as folder:
        point.table.save(folder / "profile.json")
        reported.report_data(point).save(folder)
        result = Result(
            command="tune",
            command_line=typed,
            config={
                "target": target_config,
                "operating_point": config,
                "ranker": loaded.describe(),
                "tuned": point.tuned.policy,
            },
            seed=seed,
            metrics=reported.metrics(point),
            intervals=reported.intervals(point),
            validity=reported.validity(point),
            artifacts=[out / name for name in OUTPUT_FILES],
        )
        write_result(folder / "result.json", result)
        write_report(folder, name=out.name)
    console.finish(result)
    return exit_code(point)


def search(
    config: OperatingPointConfig,
    target: Target,
    table: ServiceTimeTable | None,
    console: Console,
) -> OperatingPoint:
    """Find the operating point under a progress bar and print the policy table."""
    from tailrank.characterization.operating_point import find_operating_point
    from tailrank.reporting.operating_point import policy_rows
    from tailrank.reporting.tables import policy_table

    with console.progress("profile" if table is None else "simulate") as progress:
        point = find_operating_point(
            config, target, table=table, on_progress=progress.at, announce=console.note
        )
    console.note(f"\n{config.sla}, sizes {config.sizes}, {config.num_workers} workers")
    console.show(policy_table(policy_rows(point)))
    if point.tuned.live is None or point.baseline.live is None:
        console.note("* simulated only")
    if point.tuned.best.capacity_qps == 0.0 and not point.tuned.best.undecided:
        floor_ms = point.tuned.best.at.summary.percentile(config.sla.percentile).value / 1e6
        console.warn(
            f"no batch size meets {config.sla}: at {point.tuned.best.at.offered_qps:.3g} queries/s "
            f"the percentile is already {floor_ms:.3g} ms"
        )
    return point


def exit_code(point: OperatingPoint) -> int:
    """What the shell is told: 130 interrupted, 3 no load meets the SLA, 4 not to be believed."""
    from tailrank.core.exit_codes import ExitCode
    from tailrank.reporting.operating_point import validity

    if point.interrupted:
        return ExitCode.INTERRUPTED
    if not validity(point).valid:
        return ExitCode.INVALID_MEASUREMENT
    return 0 if point.tuned.best.capacity_qps else ExitCode.BOUND_MISSED
