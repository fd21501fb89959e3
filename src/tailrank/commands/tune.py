"""`tailrank tune`: the policy and settings that hold the most queries per second inside an SLA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from tailrank.characterization.operating_point import OperatingPoint, OperatingPointConfig
    from tailrank.characterization.stages import Stages
    from tailrank.characterization.target import Target, TargetConfig
    from tailrank.core.service_time import ServiceTimeTable
    from tailrank.reporting.console import Console
    from tailrank.reporting.result import Result

OUTPUT_FILES = ("result.json", "report.html", "report_data.json", "profile.json")


def tune(
    target: str,
    *,
    sla: str,
    also: list[str] | None = None,
    sizes: str = "production",
    out: Path,
    budget: str = "60s",
    policy: list[str] | None = None,
    search: str = "halving",
    delay: str | None = None,
    workers: int | None = None,
    devices: str = "cpu",
    threads: int = 1,
    profile: Path | None = None,
    scale: float = 1.0,
    user_tables: int | None = None,
    precision: str | None = None,
    data: str | None = None,
    ids: str = "uniform",
    simulate_only: bool = False,
    resume: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Find the policy and settings that hold the most queries per second, and prove it live.

    Measures the service times of this host, searches the settings of every policy in simulation,
    then serves the static baseline and the best of each policy for real with the same workload.
    Ctrl-C keeps what is known; --resume goes on from the last finished stage.

    Example: tailrank tune preset:dlrm-rmc1 --scale 0.25 --sla p95=100ms --out runs/rmc1

    Args:
        target: Folder of a trained model, or preset:NAME.
        sla: Percentile and limit, as in p95=10ms.
        also: A further percentile and limit to keep, as in p99=30ms; may be repeated.
        sizes: Items per query: fixed:N, normal:MEAN,STD, lognormal:MU,SIGMA, production, mlperf or
            trace:FILE, in the order of the rows.
        out: Folder for result.json, report.html and the profile.
        budget: Wall time of everything once the model is loaded: up to a fifth for the profile, up
            to half until all is simulated, the rest live.
        policy: Policies to hold against the static baseline, repeated or with commas: deeprecsched,
            static, slack, coalescing, and with a GPU offload or kairos in place of slack; default:
            the first three, or deeprecsched, static, offload and kairos.
        search: How settings are searched in simulation: halving, grid (every one), hill-climb or
            optuna. DeepRecSched is always searched as its paper does.
        delay: Longest wait of a query for company, under coalescing; default: 1ms.
        workers: Worker threads; default: 1, 2, 4, … and all cores are tried.
        devices: What ranks: cpu; or cpu,cuda, a further worker that drives this host's GPU and gets
            large queries whole.
        threads: Threads of each worker: 1, as one query is split over workers instead.
        profile: Service-time table from tailrank profile; default: measure it now.
        scale: Factor on the rows of a preset's tables.
        user_tables: Tables of a preset that belong to the user's side.
        precision: Number formats of a preset: fp32, bf16, int8, or a mix: rows=int4,dense=bf16.
        data: Log whose users and candidates make the queries, as it was named when the model was
            trained, for instance movielens:FOLDER; default: random ones.
        ids: Which rows random queries read: uniform; zipf:ALPHA, popular ones more often;
            stack:ROWS=HITS,…, so that a cache of ROWS rows hits that share; or reuse:FILE, as often
            as in a histogram of locality.
        simulate_only: Leave the live runs out.
        resume: Go on with an interrupted search of the same settings.
        seed: Seed of arrivals, sizes, features and a preset's weights.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.operating_point import OperatingPointConfig
    from tailrank.characterization.target import TargetConfig
    from tailrank.commands.evaluate import load_target
    from tailrank.core.errors import RequestError
    from tailrank.core.files import check_output, locked_directory
    from tailrank.core.service_time import ServiceTimeTable
    from tailrank.core.sla import SLA, parse_duration_ns
    from tailrank.inference.precision import Precision
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.stages_file import FileStages
    from tailrank.runtime.live import resolve_workers

    typed = command_line(tune, locals())
    check_output(out, overwrite=overwrite or resume)
    target_config = TargetConfig(
        target=target,
        scale=scale,
        user_tables=user_tables,
        precision=None if precision is None else Precision.parse(precision),
        data=data,
        ids=ids,
        seed=seed,
        devices=_devices(devices, profile),
    )
    if threads != 1:
        reason = "the kernels run on one thread, and a query is split over workers instead; 1 only"
        raise RequestError("--threads", reason)
    config = OperatingPointConfig(
        sla=SLA.parse(sla),
        bounds=tuple(SLA.parse(text, "--also") for text in also or ()),
        sizes=sizes,
        search=search,
        num_workers=resolve_workers(workers),
        fewer_workers=workers is None,
        budget_s=parse_duration_ns(budget, "--budget") / 1e9,
        live=not simulate_only,
        seed=seed,
        accelerators=target_config.devices[1:],
        **_policies(policy, delay, accelerated=len(target_config.devices) > 1),
    )
    table = None if profile is None else ServiceTimeTable.load(profile)
    console = Console(json=json, quiet=quiet)
    partial = out.with_name(out.name + ".partial")
    with locked_directory(partial, "--out"):
        settings = _settings(target_config, config, profile)
        stages = FileStages(partial, settings, resume=resume, overwrite=overwrite)
        loaded = load_target(target_config, console)
        if table is not None and table.device != loaded.profile_label:
            reason = f"{profile} is of {table.device}; this run needs a profile of "
            raise RequestError("--profile", reason + loaded.profile_label)
        point = find(config, loaded, table, stages, console)
        described = {"target": target_config, "ranker": loaded.describe()}
        result = _write(point, described, typed, out, overwrite=overwrite or resume)
        if point.interrupted:
            console.warn(f"stopped; finished stages are in {partial}. Go on with --resume")
        else:
            stages.remove()
    console.finish(result)
    return exit_code(point)


def _devices(words: str, profile: Path | None) -> tuple[str, ...]:
    """The kinds of workers, the cores first.

    Raises:
        ConfigError: other devices than those.
        RequestError: this host has no GPU that ranks, or a profile of the cores alone was named.
    """
    from tailrank.core.errors import ConfigError, RequestError
    from tailrank.core.fleet import CPU

    devices = tuple(word.strip() for word in words.split(","))
    if devices == (CPU,):
        return devices
    if devices != (CPU, "cuda"):
        raise ConfigError("--devices", words, "cpu, or cpu,cuda")
    from tailrank.kernels import cuda

    if reason := cuda.why_unavailable():
        raise RequestError("--devices", f"no cuda here: {reason}; leave it out, or {cuda.FIX}")
    if profile is not None:
        raise RequestError("--profile", "is of one device; leave it out, and both are measured")
    return devices


def _policies(policy: list[str] | None, delay: str | None, *, accelerated: bool) -> dict[str, Any]:
    """The policies that compete, and the delay of the one that has it, as settings.

    Raises:
        RequestError: a delay was named, and no policy that waits.
    """
    from tailrank.characterization.contenders import ACCELERATED_CONTENDERS, DEFAULT_CONTENDERS
    from tailrank.core.errors import RequestError
    from tailrank.core.sla import parse_duration_ns

    words = [word.strip() for words in policy or () for word in words.split(",")]
    default = ACCELERATED_CONTENDERS if accelerated else DEFAULT_CONTENDERS
    policies = tuple(dict.fromkeys(words)) or default
    if delay is None:
        return {"policies": policies}
    if "coalescing" not in policies:
        raise RequestError("--delay", "none of these policies waits; see --policy coalescing")
    return {"policies": policies, "delay_ns": parse_duration_ns(delay, "--delay")}


def _settings(
    target: TargetConfig, config: OperatingPointConfig, profile: Path | None
) -> dict[str, object]:
    """What must be the same where a search is taken up again: not how long it may take."""
    settings: dict[str, object] = {"profile": profile}
    for part in (target, config):
        settings |= {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in settings.items() if name not in ("budget_s", "live")}


def find(
    config: OperatingPointConfig,
    target: Target,
    table: ServiceTimeTable | None,
    stages: Stages,
    console: Console,
) -> OperatingPoint:
    """Find the operating point under a progress bar and print the policy table."""
    from tailrank.characterization.bench import TargetBench
    from tailrank.characterization.operating_point_search import find_operating_point
    from tailrank.core.fleet import CPU
    from tailrank.reporting.operating_point import policy_rows
    from tailrank.reporting.tables import policy_table

    config = replace(config, items_limit=target.pool.num_items_max)
    parts = [f"all is simulated by {config.simulate_share * config.budget_s:.3g} s"]
    if table is None:
        parts.insert(0, f"{config.profile_share * config.budget_s:.3g} s for the profile at most")
    if config.live:
        parts.append("the rest is live")
    console.note(f"budget {config.budget_s:g} s: {', '.join(parts)}")
    with console.progress("profile" if table is None else "simulate") as progress:
        point = find_operating_point(
            config,
            TargetBench(target),
            tables=None if table is None else {CPU: table},
            stages=stages,
            on_progress=progress.at,
            announce=console.note,
        )
    kept = " and ".join(map(str, (config.sla, *config.bounds)))
    console.note(f"\n{kept}, sizes {config.sizes}, workers at most: {config.num_workers}")
    console.show(policy_table(policy_rows(point)))
    tuned = point.tuned
    threshold = tuned.candidate.offload_threshold_items
    offload = f", {config.devices[-1]} from {threshold} items" if threshold is not None else ""
    console.note(
        f"tuned: {tuned.name}, batches of up to {tuned.candidate.batch_items_max:,} items, "
        f"workers: {tuned.candidate.num_workers}{offload}"
    )
    if any(contender.live is None for contender in point.contenders):
        console.note("* simulated only")
    if tuned.best.capacity_qps == 0.0 and not tuned.invalid_reasons:
        floor_ms = tuned.best.at.summary.percentile(config.sla.percentile).value / 1e6
        console.warn(
            f"no policy meets {kept}: at {tuned.best.at.offered_qps:.3g} queries/s "
            f"p{config.sla.percentile:g} is already {floor_ms:.3g} ms"
        )
    return point


def _write(
    point: OperatingPoint, config: Mapping[str, Any], typed: str, out: Path, *, overwrite: bool
) -> Result:
    """Write the folder of results."""
    from tailrank.core.files import replace_directory
    from tailrank.reporting import operating_point as reported
    from tailrank.reporting.queries_file import write_contenders
    from tailrank.reporting.report import write_report
    from tailrank.reporting.result import Result, write_result
    from tailrank.reporting.stages_file import profile_name

    with replace_directory(out, overwrite=overwrite) as folder:
        profiles = [profile_name(device) for device in point.tables]
        for name, table in zip(profiles, point.tables.values(), strict=True):
            table.save(folder / name)
        reported.report_data(point).save(folder)
        runs = {each.name: each.run for each in point.contenders if each.run is not None}
        names = [*dict.fromkeys((*OUTPUT_FILES, *profiles))]
        if runs:
            names.append(write_contenders(folder, runs).name)
        result = Result(
            command="tune",
            command_line=typed,
            config={
                **config,
                "operating_point": point.config,
                "tuned": point.tuned.policy,
                "tuned_contender": point.tuned.name,
                "interrupted": point.interrupted,
            },
            seed=point.config.seed,
            metrics=reported.metrics(point),
            intervals=reported.intervals(point),
            validity=reported.validity(point),
            artifacts=[out / name for name in names],
        )
        write_result(folder / "result.json", result)
        write_report(folder, name=out.name)
    return result


def exit_code(point: OperatingPoint) -> int:
    """What the shell is told: 130 interrupted, 3 no load meets the SLA, 4 not to be believed."""
    from tailrank.core.exit_codes import ExitCode
    from tailrank.reporting.operating_point import validity

    if point.interrupted:
        return ExitCode.INTERRUPTED
    if not validity(point).valid:
        return ExitCode.INVALID_MEASUREMENT
    return ExitCode.DONE if point.tuned.best.capacity_qps else ExitCode.BOUND_MISSED
