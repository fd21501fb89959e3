"""`tailrank simulate`: what a host would do, from its profile alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from tailrank.characterization.what_if import (
        ProfiledWorkers,
        WhatIf,
        WhatIfFleet,
        WhatIfResult,
    )
    from tailrank.reporting.console import Console
    from tailrank.reporting.result import Result
    from tailrank.scheduling.policies import PolicyConfig

OUTPUT_FILES = ("result.json", "report.html", "report_data.json", "queries.parquet")
# Loads that a search usually tries; only for telling progress.
_USUAL_PROBES = 10
_DELAY_NS = 1_000_000


def simulate(
    *,
    profile: list[str],
    sla: str,
    sizes: str | None = None,
    arrivals: str = "poisson",
    qps: str | None = None,
    workers: int | None = None,
    extrapolate_workers: bool = False,
    policy: str = "static",
    batch_items: int | None = None,
    delay: str | None = None,
    offload_threshold: int | None = None,
    reject_lost: bool = False,
    duration: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Ask what a host would do with other workers or traffic, from its profile: nothing is run.

    Finds the largest load inside the SLA, or with --qps the latencies at one load. The answer is
    simulated, not measured; tailrank tune measures.

    Example: tailrank simulate --profile profile.json --sla p95=10ms --arrivals mmpp:4,0.1,2s

    Args:
        profile: Service-time table from tailrank profile. For several devices once for each, as
            DEVICE=FILE:COUNT.
        sla: Percentile and limit, as in p95=10ms.
        sizes: Items per query: fixed:N, normal:MEAN,STD, lognormal:MU,SIGMA, production, mlperf or
            trace:FILE; default: those of the trace that queries arrive by, else production.
        arrivals: When queries come: poisson; mmpp:FACTOR,SHARE,LENGTH, bursts that are FACTOR times
            as fast, take SHARE of the time and last LENGTH on average; diurnal:PERIOD,AMPLITUDE or
            diurnal:PERIOD,RATE,RATE,…; trace:FILE, Parquet or CSV with columns time and size;
            legacy-deeprecsys.
        qps: Offered load in queries per second, or recorded: the trace's own; default: the largest
            inside the SLA.
        workers: Worker threads; default: as many as the profile had busy at once.
        extrapolate_workers: Allow more workers than that, as if contention grew no further.
        policy: Policy, such as static or coalescing.
        batch_items: Most items of a batch; default: under static the largest query spread over all
            workers, else the largest batch that was profiled.
        delay: Longest wait of a query for company, under coalescing; default: 1ms.
        offload_threshold: Query size from which a query goes to the accelerator as a whole, under
            policies that have one.
        reject_lost: Turn queries away that can no longer be in time, under policies that can.
        duration: Length of a run; default: 10s, or as long as whole periods or several bursts
            take after the warm-up, its first tenth; or the whole trace.
        out: Folder for result.json, report.html and queries.parquet; default: none is written.
        seed: Seed of arrivals, sizes and service times.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.characterization.what_if import ProfiledWorkers, WhatIf, WhatIfFleet, ask_what_if
    from tailrank.core.files import check_output, replace_directory
    from tailrank.core.sla import SLA, parse_duration_ns
    from tailrank.reporting import what_if as reported
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.reporting.queries_file import write_queries
    from tailrank.reporting.report import write_report
    from tailrank.reporting.result import Result, write_result
    from tailrank.workload.trace import TRACE_PREFIX

    typed = command_line(simulate, locals())
    if out is not None:
        check_output(out, overwrite=overwrite)
    agreement = SLA.parse(sla)
    sizes = sizes or (arrivals if arrivals.startswith(TRACE_PREFIX) else "production")
    fleet = WhatIfFleet.load(
        _with_count([ProfiledWorkers.parse(text) for text in profile], workers),
        extrapolate_workers=extrapolate_workers,
    )
    settings = {
        "sla": agreement,
        "delay_max_ns": None if delay is None else parse_duration_ns(delay, "--delay"),
        "offload_threshold_items": offload_threshold,
        "reject_lost": reject_lost or None,
    }
    question = WhatIf(
        sla=agreement,
        sizes=sizes,
        arrivals=arrivals,
        policy=_policy(policy, fleet, sizes, batch_items, settings),
        qps=_load(qps, arrivals),
        seconds=None if duration is None else parse_duration_ns(duration, "--duration") / 1e9,
        seed=seed,
    )
    console = Console(json=json, quiet=quiet)
    with console.progress("simulate") as progress:
        found = ask_what_if(
            question,
            fleet,
            lambda number, at: progress.at(
                "simulate", number / max(number + 1, _USUAL_PROBES), f"{at:,.0f} queries/s"
            ),
        )
    result = Result(
        command="simulate",
        command_line=typed,
        config={
            "simulated": True,
            "notes": list(found.notes),
            "what_if": question,
            "profiles": profile,
            "fleet": fleet.describe(),
        },
        seed=seed,
        metrics=reported.metrics(question, found),
        intervals=reported.intervals(question, found),
        validity=reported.validity(found),
        artifacts=[] if out is None else [out / name for name in OUTPUT_FILES],
    )
    if out is not None:
        with replace_directory(out, overwrite=overwrite) as folder:
            reported.report_data(question, found).save(folder)
            write_queries(folder, found.run)
            write_result(folder / "result.json", result)
            write_report(folder, name=out.name)
    _show(console, question, fleet, result)
    console.finish(result)
    return _exit_code(question, found, result)


def _with_count(profiles: list[ProfiledWorkers], workers: int | None) -> list[ProfiledWorkers]:
    """The profiles with the number of workers that was asked for."""
    from tailrank.core.errors import ConfigError, RequestError

    unnamed = [own for own in profiles if own.count is None]
    if len(profiles) > 1 and unnamed:
        reason = f"{unnamed[0].profile} is one of several; name each as DEVICE=FILE:COUNT"
        raise RequestError("--profile", reason)
    if workers is None:
        return profiles
    if not unnamed:
        raise RequestError("--workers", "DEVICE=FILE:COUNT names them already; leave it out")
    if workers < 1:
        raise ConfigError("--workers", workers, "at least 1")
    return [replace(unnamed[0], count=workers)]


def _policy(
    name: str,
    fleet: WhatIfFleet,
    sizes: str,
    batch_items: int | None,
    settings: Mapping[str, object],
) -> PolicyConfig:
    """The policy with what it can use of these settings; None: it has its default.

    Raises:
        ConfigError: there is no such policy, or it cannot honour a setting that was asked for.
    """
    from tailrank.core.errors import ConfigError, one_of
    from tailrank.scheduling.policies import POLICIES, PolicyConfig, static_baseline_batch
    from tailrank.workload.query_sizes import parse_query_sizes

    if name not in POLICIES:
        raise ConfigError("--policy", name, one_of(sorted(POLICIES), name))
    own = POLICIES[name].settings
    if "sla" not in own:
        settings = {**settings, "sla": None}  # everybody is held to it, few policies look at it
    if "delay_max_ns" in own and settings["delay_max_ns"] is None:
        settings = {**settings, "delay_max_ns": _DELAY_NS}
    if batch_items is None and name == "static":
        items_max = parse_query_sizes(sizes).items_max or fleet.items_max
        batch_items = static_baseline_batch(items_max, len(fleet.fleet.devices))
    return PolicyConfig(
        policy=name,
        batch_items_max=fleet.items_max if batch_items is None else batch_items,
        batch_parts_max=fleet.parts_max,
        **{name: value for name, value in settings.items() if value is not None},  # type: ignore[arg-type]
    )


def _load(qps: str | None, arrivals: str) -> float | None:
    """The offered load in queries/s; None where the capacity is wanted."""
    from tailrank.core.errors import ConfigError, RequestError
    from tailrank.workload.arrivals import parse_arrivals

    if qps is None:
        return None
    if qps == "recorded":
        own_qps = parse_arrivals(arrivals).own_qps
        if own_qps is None:
            raise RequestError("--qps", "only a trace has a recorded rate; see --arrivals trace:")
        return own_qps
    try:
        return float(qps)
    except ValueError:
        raise ConfigError("--qps", qps, "a number of queries per second, or recorded") from None


def _show(console: Console, question: WhatIf, fleet: WhatIfFleet, result: Result) -> None:
    """The answer for people, beginning and ending with what it is not."""
    workers = " and ".join(f"{of['workers']} x {of['profiled']}" for of in fleet.describe())
    console.note(f"\nSimulated, not measured: workers {workers}")
    policy = question.policy
    console.note(
        f"{question.sla}, sizes {question.sizes}, arrivals {question.arrivals}, "
        f"{policy.policy} with batches of up to {policy.batch_items_max:,} items"
    )
    console.metrics(result.metrics)
    for note in result.config["notes"]:
        console.warn(f"note: {note}")


def _exit_code(question: WhatIf, found: WhatIfResult, result: Result) -> int:
    """What the shell is told: 3 the SLA is missed, at this load or at every one, 4 no verdict."""
    from tailrank.core.exit_codes import ExitCode
    from tailrank.tuning.capacity import Verdict, judge_probe

    reasons = result.validity.reasons
    if found.capacity is not None:
        missed = not found.capacity.capacity_qps
    else:
        verdict = judge_probe(found.measurement, question.sla, certain=False)
        missed = verdict is Verdict.MISS
        if all(reason.startswith("unstable") for reason in reasons):
            reasons = ()  # more load than the workers can do is a verdict, whatever the latencies
    if reasons:
        return ExitCode.INVALID_MEASUREMENT
    return ExitCode.BOUND_MISSED if missed else ExitCode.DONE
