"""`tailrank colocate`: how several models best share one machine, each inside its own SLA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrank.characterization.colocation import JointLoad, Tenant
    from tailrank.characterization.contention import Contention
    from tailrank.characterization.worker_division import Colocation
    from tailrank.reporting.console import Console

_FORM = "TARGET=pPERCENTILE=LIMIT or TARGET=pPERCENTILE=LIMIT@SHARE, as in preset:ncf=p95=5ms@0.6"


def colocate(
    *models: str,
    sizes: str = "production",
    scale: float = 1.0,
    workers: int | None = None,
    duration: str | None = None,
    profile_budget: str | None = None,
    contention: bool = False,
    simulate_only: bool = False,
    quick: bool = False,
    seed: int = 0,
    out: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Find how several models best share the workers of this machine, each inside its own SLA.

    Measures each model's service times while the other workers run the others, simulates all
    workers for all and the divisions of the workers, and serves the best of both for real. The load
    is that of all models together, in the given shares.

    Example: tailrank colocate preset:dlrm-rmc1=p95=100ms@0.7 preset:dlrm-rmc3=p95=100ms --scale 0.1

    Args:
        models: TARGET=SLA@SHARE each: a trained model's folder or preset:NAME, percentile and limit
            of its latency, share of all queries; who names none has an equal part of what is left.
        sizes: Items per query: fixed:N, normal:MEAN,STD, lognormal:MU,SIGMA, production or mlperf.
        scale: Factor on the rows of the presets' tables.
        workers: Worker threads; default: all cores.
        duration: Length of each run, simulated and live; default: 10s. Longer where a model has too
            few queries in it to bound its percentile; the live runs' length is said before them.
        profile_budget: Time for measuring service times; default: 20s for each model.
        contention: Measure each model's latency and service time against the others' load, too.
        simulate_only: Leave the live runs out.
        quick: Default to runs of 1s and a profile of 8s a model, for a first look.
        seed: Seed of arrivals, sizes, features and a preset's weights.
        out: File for the result, as in runs/shared.json; default: print only.
        overwrite: Replace the file.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.colocation import JointLoad, JointLoadConfig
    from tailrank.characterization.worker_division import find_division
    from tailrank.core.errors import ConfigError, RequestError
    from tailrank.core.files import check_output_file
    from tailrank.core.sla import parse_duration_ns
    from tailrank.reporting import colocation as reported
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.result import Result, write_result
    from tailrank.runtime.live import resolve_workers

    typed = command_line(colocate, locals())
    if out is not None:
        check_output_file(out, ".json", overwrite=overwrite)
    if len(models) < 2:
        raise ConfigError("models", list(models), f"two or more: {_FORM}")
    if contention and simulate_only:
        raise RequestError("--contention", "is measured live; leave --simulate-only out")
    config = JointLoadConfig(
        num_workers=resolve_workers(workers),
        seconds=parse_duration_ns(duration or ("1s" if quick else "10s"), "--duration") / 1e9,
        seed=seed,
    )
    budget = profile_budget or f"{len(models) * (8 if quick else 20)}s"
    profile_seconds = parse_duration_ns(budget, "--profile-budget") / 1e9
    if not profile_seconds > 0:
        raise ConfigError("--profile-budget", profile_budget, "a time above 0")
    if contention and config.num_workers < len(models):
        raise RequestError("--contention", f"needs {len(models)} workers, one for each model")
    console = Console(json=json, quiet=quiet)
    load = JointLoad(config, _load_tenants(models, sizes, scale, seed, console))
    with console.progress("profile") as progress:
        found = find_division(
            load.tenants,
            config,
            profile_seconds=profile_seconds,
            live=not simulate_only,
            on_progress=progress.at,
            announce=console.note,
        )
    _show(load, found, sizes, console)
    contended = None
    if contention and not found.interrupted:
        contended = _contention(load, found, 2 if quick else 5, console)
    more, bounds = ({}, {}) if contended is None else reported.contention_metrics(load, contended)
    result = Result(
        command="colocate",
        command_line=typed,
        config={
            "models": {
                tenant.name: {
                    "sla": tenant.sla,
                    "share": tenant.share,
                    "sizes": tenant.sizes,
                    "ranker": tenant.target.describe(),
                }
                for tenant in load.tenants
            },
            "load": config,
            "plans": {one.plan.name: one.plan.policy for one in found.plans},
        },
        seed=seed,
        metrics=reported.metrics(load, found) | more,
        intervals=reported.intervals(found) | bounds,
        validity=reported.validity(found, contended),
        artifacts=[] if out is None else [out],
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_result(out, result)
    console.finish(result)
    return _exit_code(found, contended)


def parse_models(models: tuple[str, ...]) -> list[tuple[str, str, float]]:
    """Target, SLA and share of each model, as they were typed; the shares add up to 1.

    Raises:
        ConfigError: a text is not of that form, or the shares leave nothing for one.
    """
    import re

    from tailrank.core.errors import ConfigError

    form = re.compile(r"(?P<target>.+?)=(?P<sla>p[\d.]+=[^=@]+)(?:@(?P<share>[\d.]+))?")
    parsed: list[tuple[str, str, float | None]] = []
    for text in models:
        match = form.fullmatch(text)
        try:
            share = None if match is None or match["share"] is None else float(match["share"])
        except ValueError:
            match = None
        if match is None:
            raise ConfigError("models", text, _FORM)
        parsed.append((match["target"], match["sla"], share))
    left = 1.0 - sum(share for *_, share in parsed if share is not None)
    open_shares = sum(share is None for *_, share in parsed)
    given = [share for *_, share in parsed if share is not None]
    whole = left > 1e-9 if open_shares else abs(left) <= 1e-9
    if not whole or 0.0 in given:
        raise ConfigError("shares", given, "numbers above 0 that add up to 1, or leave some over")
    return [
        (target, sla, left / open_shares if share is None else share)
        for target, sla, share in parsed
    ]


def _load_tenants(
    models: tuple[str, ...], sizes: str, scale: float, seed: int, console: Console
) -> list[Tenant]:
    """Every model, loaded; all settings are checked before the first one is."""
    from dataclasses import replace

    from tailrank.characterization.colocation import Tenant
    from tailrank.characterization.target import PRESET_PREFIX, TargetConfig
    from tailrank.commands.evaluate import load_target
    from tailrank.core.sla import SLA
    from tailrank.workload.query_sizes import parse_query_sizes

    parse_query_sizes(sizes)
    parsed = [
        (
            TargetConfig(
                target=target,
                scale=scale if target.startswith(PRESET_PREFIX) else 1.0,
                seed=seed,
            ),
            SLA.parse(sla, "models"),
            share,
        )
        for target, sla, share in parse_models(models)
    ]
    tenants: list[Tenant] = []
    for config, sla, share in parsed:
        target = load_target(config, console)
        copies = sum(it.target.name.partition("#")[0] == target.name for it in tenants)
        if copies:  # two of a kind are a case of their own
            target = replace(target, name=f"{target.name}#{copies + 1}")
        tenants.append(Tenant(target=target, sla=sla, share=share, sizes=sizes))
    return tenants


def _show(load: JointLoad, found: Colocation, sizes: str, console: Console) -> None:
    """What was found, in a table."""
    from tailrank.reporting.colocation import plan_table

    shares = ", ".join(f"{it.share:.0%} {it.name} {it.sla}" for it in load.tenants)
    console.note(f"\n{shares}; sizes {sizes}, {load.config.num_workers} workers")
    console.show(plan_table(load, found))
    console.note("dedicated: the machine's time divided among the models, none beside another")
    if found.plans and not found.plans[0].best.capacity_qps and not found.plans[0].best.undecided:
        console.warn("no plan keeps every model's SLA, at any load")


def _contention(load: JointLoad, found: Colocation, rounds: int, console: Console) -> Contention:
    """Measure and show the contention."""
    from tailrank.characterization.contention import measure_contention
    from tailrank.reporting.colocation import contention_table

    with console.progress("contention") as progress:
        contended = measure_contention(
            load, found.tables, rounds=rounds, on_progress=progress, announce=console.note
        )
    console.note("\nagainst the load of the others, as ratios to none")
    console.show(contention_table(contended))
    return contended


def _exit_code(found: Colocation, contended: Contention | None) -> int:
    """What the shell is told: 130 interrupted, 3 no load meets every SLA, 4 not to be believed."""
    from tailrank.core.exit_codes import ExitCode
    from tailrank.reporting.colocation import validity

    if found.interrupted or (contended is not None and contended.interrupted):
        return ExitCode.INTERRUPTED
    if not validity(found).valid:
        return ExitCode.INVALID_MEASUREMENT
    return 0 if found.plans[0].best.capacity_qps else ExitCode.BOUND_MISSED
