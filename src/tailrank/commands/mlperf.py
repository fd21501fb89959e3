"""`tailrank mlperf`: a live run under the load of MLPerf LoadGen, which also judges it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tailrank.core.sla import SLA
    from tailrank.scheduling.policies import PolicyConfig

# Sizes that are looked at for the largest one, where a distribution has no bound.
_SIZE_DRAWS = 10_000


def mlperf(
    target: str,
    *,
    scenario: Literal["Server", "Offline"],
    qps: float | None = None,
    sla: str | None = None,
    sizes: str = "mlperf",
    out: Path,
    policy: str = "static",
    batch_items: int | None = None,
    delay: str | None = None,
    workers: int | None = None,
    duration: str | None = None,
    profile: Path | None = None,
    scale: float = 1.0,
    user_tables: int | None = None,
    precision: str | None = None,
    data: str | None = None,
    quick: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Serve the queries of MLPerf LoadGen, and compare its figures with ours.

    LoadGen issues queries as MLPerf's DLRM-v2 has it: Server at random times, Offline all at once.
    This is no MLPerf submission, which needs its model, data, accuracy run and rules besides
    (docs/mlperf.md). Needs: pip install 'tailrank[mlperf]'.

    Example: tailrank mlperf preset:dlrm-rmc1 --scenario Server --qps 1000 --quick --out runs/lg

    Args:
        target: Folder of a trained model, or preset:NAME.
        scenario: Server or Offline.
        qps: Server: queries per second to offer. Offline: what is expected, which decides how many
            are issued; default: as a warm-up suggests.
        sla: Server: percentile and limit; default: p99=60ms, as for DLRM-v2.
        sizes: Items per query: fixed:N, normal:MEAN,STD, lognormal:MU,SIGMA, production or mlperf.
        out: Folder for result.json and LoadGen's logs.
        policy: Scheduling policy, such as static or coalescing.
        batch_items: Most items of a batch; default: the largest query over all workers.
        delay: Longest wait of a query for company, under coalescing; default: 1ms.
        workers: Worker threads; default: all cores.
        duration: Shortest run that LoadGen calls valid; default: 600s, as MLPerf has it.
        profile: Service-time table from tailrank profile, for policies that predict.
        scale: Factor on the rows of a preset's tables.
        user_tables: Tables of a preset that belong to the user's side.
        precision: Number formats of a preset: fp32, bf16, int8, or a mix: rows=int4,dense=bf16.
        data: Log whose users and candidates make the queries, as it was named when the model was
            trained, for instance movielens:FOLDER; default: random ones.
        quick: Default to runs of 10s and 100 queries or more, for a first look.
        seed: Seed of sizes, features and a preset's weights; LoadGen's own seeds are MLPerf's.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.loadgen import LoadGenConfig, run_loadgen
    from tailrank.characterization.loadgen_log import LOG_FILES
    from tailrank.characterization.target import TargetConfig, initialise_worker
    from tailrank.commands.evaluate import load_target
    from tailrank.core.errors import RequestError
    from tailrank.core.files import check_output, replace_directory
    from tailrank.core.fleet import Fleet
    from tailrank.core.service_time import ServiceTimeTable
    from tailrank.core.sla import SLA, parse_duration_ns
    from tailrank.inference.precision import Precision
    from tailrank.reporting import loadgen as reported
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.result import Result, write_result
    from tailrank.runtime.live import resolve_workers
    from tailrank.scheduling.policies import POLICIES, static_baseline_batch
    from tailrank.workload.schedule import WorkloadConfig

    typed = command_line(mlperf, locals())
    check_output(out, overwrite=overwrite)
    if scenario == "Offline" and sla is not None:
        raise RequestError("--sla", "Offline has no bound on latency; leave it out")
    bound = SLA.parse(sla or "p99=60ms") if scenario == "Server" else None
    duration = duration or ("10s" if quick else None)
    num_workers = resolve_workers(workers)
    workload = WorkloadConfig(sizes=sizes, size_seed=seed, payload_seed=seed)
    if batch_items is None:
        largest = int(workload.query_sizes().draw(_SIZE_DRAWS, seed).max())
        batch_items = static_baseline_batch(largest, num_workers)
    config = LoadGenConfig(
        scenario=scenario,
        qps=qps,
        sla=bound,
        workload=workload,
        policy=_policy(policy, batch_items, bound, delay),
        num_workers=num_workers,
        seconds=None if duration is None else parse_duration_ns(duration, "--duration") / 1e9,
        num_queries_min=100 if quick else None,
    )
    target_config = TargetConfig(
        target=target,
        scale=scale,
        user_tables=user_tables,
        precision=None if precision is None else Precision.parse(precision),
        data=data,
        seed=seed,
    )
    if profile is None and POLICIES[policy].needs_sla:
        reason = f"{policy} predicts by a service-time table, and none is named; "
        raise RequestError("--profile", reason + "tailrank profile makes one")
    table = None if profile is None else ServiceTimeTable.load(profile)
    console = Console(json=json, quiet=quiet)
    loaded = load_target(target_config, console)
    fleet = None
    if table is not None:
        if table.device != loaded.profile_label:
            reason = f"{profile} is of {table.device}; this run needs a profile of "
            raise RequestError("--profile", reason + loaded.profile_label)
        fleet = Fleet.uniform(table, num_workers, model=loaded.name)
    config = replace(
        config,
        workload=replace(
            workload,
            model=loaded.name,
            ids_per_item=loaded.ids_per_item,
            items_limit=loaded.pool.num_items_max,
        ),
    )
    length = f"{config.seconds or 600:g} s or more"
    console.note(f"LoadGen, {scenario}, {length}, sizes {sizes}, {num_workers} workers")
    with replace_directory(out, overwrite=overwrite) as folder:
        run = run_loadgen(
            config,
            folder,
            loaded.run_batch,
            payload_for=loaded.pool.payload,
            initialise_worker=initialise_worker,
            fleet=fleet,
        )
        metrics = reported.metrics(config, run)
        result = Result(
            command="mlperf",
            command_line=typed,
            config={
                "target": target_config,
                "loadgen": config,
                "ranker": loaded.describe(),
                "told_qps": run.qps,
                "loadgen_version": run.verdict.version,
                "loadgen_result": "VALID" if run.verdict.valid else "INVALID",
            },
            seed=seed,
            metrics=metrics,
            intervals=reported.intervals(config, run),
            validity=reported.validity(run, metrics),
            artifacts=[out / name for name in ("result.json", *LOG_FILES)],
        )
        write_result(folder / "result.json", result)
    console.metrics(metrics)
    console.note(f"LoadGen {run.verdict.version} calls the run {result.config['loadgen_result']}")
    if not run.verdict.bound_met:
        console.warn(f"{bound} was missed at {run.qps:g} queries/s, as LoadGen counts")
    console.finish(result)
    return reported.exit_code(run, result.validity)


def _policy(name: str, batch_items: int, sla: SLA | None, delay: str | None) -> PolicyConfig:
    """The policy with those settings that it has; one that it lacks is refused if it was typed."""
    from tailrank.core.errors import RequestError
    from tailrank.core.sla import parse_duration_ns
    from tailrank.scheduling.policies import POLICIES, PolicyConfig

    has = POLICIES[name].settings if name in POLICIES else frozenset[str]()
    settings: dict[str, Any] = {}
    if delay is not None or "delay_max_ns" in has:
        settings["delay_max_ns"] = parse_duration_ns(delay or "1ms", "--delay")
    if "sla" in has:
        if sla is None:
            raise RequestError("--policy", f"{name} goes by a bound on latency, Offline has none")
        settings["sla"] = sla
    return PolicyConfig(policy=name, batch_items_max=batch_items, **settings)
