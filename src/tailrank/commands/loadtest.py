"""`tailrank loadtest`: a server under a load that was drawn beforehand, over the wire."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from tailrank.core.measurement import Measurement
    from tailrank.core.sla import SLA
    from tailrank.reporting.console import Console
    from tailrank.reporting.result import Result
    from tailrank.serving.load_run import LoadRun
    from tailrank.serving.load_test import ServerLoadTest
    from tailrank.tuning.capacity import Capacity

OUTPUT_FILES = ("result.json", "report.html", "report_data.json", "queries.parquet")


def loadtest(
    *,
    url: str,
    qps: float,
    duration: str | None = None,
    sizes: str = "production",
    arrivals: str = "poisson",
    protocol: str = "json",
    user_features: Path | None = None,
    user_id_column: str | None = None,
    item_features: Path | None = None,
    item_id_column: str | None = None,
    sla: str | None = None,
    find_capacity: bool = False,
    connections: int = 512,
    token_file: Path | None = None,
    tls_ca: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Put a server under load and say what its clients would see.

    Queries are sent when they are due, whatever became of those before; latency counts from then.
    What the server turns away or fails is infinitely late. A run in which this client was the limit
    is not valid.

    Example: tailrank loadtest --url http://127.0.0.1:8000 --qps 500 --duration 60s --sla p99=20ms

    Args:
        url: Address of tailrank serve, as in http://127.0.0.1:8000.
        qps: Queries per second to offer; with --find-capacity the first load that is tried.
        duration: Length of a run; default: 60s, and 10s for each load of --find-capacity, longer
            where the percentile needs more queries.
        sizes: Items per query: fixed:N, normal:MEAN,STD, lognormal:MU,SIGMA, production, mlperf or
            trace:FILE.
        arrivals: When queries come: poisson; mmpp:FACTOR,SHARE,LENGTH, bursts; diurnal:PERIOD,
            AMPLITUDE; trace:FILE; as tailrank simulate has them.
        protocol: What is spoken: json; binary, the Open Inference Protocol with binary tensors; or
            grpc, where the server has a --grpc-port.
        user_features: Parquet file that the server was started with: requests then bring a user_id
            of it in place of features.
        user_id_column: Its column of ids; default: the first.
        item_features: Likewise of items: requests then bring item_ids alone.
        item_id_column: Its column of ids; default: the first.
        sla: Percentile and limit, as in p99=20ms: exit code 3 where it is missed.
        find_capacity: Look for the largest load inside the SLA.
        connections: Most connections at once; a query beyond waits for one while its time runs.
        token_file: File with the token that the server wants.
        tls_ca: Certificates (PEM) to trust, for https.
        out: Folder for result.json, report.html and queries.parquet; default: none is written.
        seed: Seed of arrivals, sizes and features.
        overwrite: Replace what is in the folder.
        quiet: Say nothing but errors and what explains an exit code.
        json: Print the result as JSON on standard output.
    """
    from tailrank.commands.serve import feature_files, read_token
    from tailrank.core.errors import RequestError
    from tailrank.core.files import check_output
    from tailrank.core.sla import SLA, parse_duration_ns
    from tailrank.reporting.command_line import command_line
    from tailrank.reporting.console import Console
    from tailrank.serving.load_queries import read_ids
    from tailrank.serving.load_target import LoadTarget
    from tailrank.serving.load_test import LoadSettings, ServerLoadTest

    typed = command_line(loadtest, locals())
    if out is not None:
        check_output(out, overwrite=overwrite)
    agreement = None if sla is None else SLA.parse(sla)
    if find_capacity and agreement is None:
        raise RequestError("--sla", "missing; --find-capacity looks for the largest load inside it")
    length = duration or ("10s" if find_capacity else "60s")
    settings = LoadSettings(
        qps=qps,
        sizes=sizes,
        arrivals=arrivals,
        seconds=parse_duration_ns(length, "--duration") / 1e9,
        sla=agreement,
        connections_max=connections,
        seed=seed,
        protocol=protocol,
    )
    ids = {
        file.side: read_ids(file.path, file.side, file.id_column)
        for file in feature_files(user_features, user_id_column, item_features, item_id_column)
    }
    token = None if token_file is None else read_token(token_file).decode()
    target = LoadTarget.parse(url, token, tls_ca)
    console = Console(json=json, quiet=quiet)
    test = ServerLoadTest(target, settings, ids)
    by_id = f", {' and '.join(ids)} by id" if ids else ""
    console.note(
        f"{target.url}: {test.about}, sizes {sizes}, arrivals {arrivals}, {protocol}{by_id}"
    )
    found = _search(test, qps, console) if find_capacity else _run(test, qps, console)
    return _finish(found, test, typed, out, console, overwrite=overwrite)


Found = tuple["Measurement", "LoadRun", "Capacity | None", bool]
"""The run that is shown, what a search found besides, and whether Ctrl-C ended it."""


def _run(test: ServerLoadTest, qps: float, console: Console) -> Found:
    """One load."""
    with console.progress("load") as progress:
        at, run = test.run(qps, lambda fraction: progress(fraction, f"{qps:,.0f} queries/s"))
    return at, run, None, run.interrupted


def _search(test: ServerLoadTest, qps: float, console: Console) -> Found:
    """The largest load inside the SLA."""
    with console.progress("search") as progress:
        found = test.find_capacity(
            qps, lambda number, at: progress.note(f"load {number}: {at:,.0f} queries/s")
        )
    for probe in found.capacity.probes:
        console.note(f"{probe.qps:,.0f} queries/s: {_verdict(probe.measurement, probe.verdict)}")
    at = found.capacity.at
    return at, found.runs[id(at)], found.capacity, found.interrupted


def _verdict(at: Measurement, verdict: object) -> str:
    from tailrank.tuning.capacity import Verdict

    words = {Verdict.PASS: "kept", Verdict.MISS: "missed", Verdict.UNDECIDED: "undecided"}
    assert isinstance(verdict, Verdict)
    return f"{words[verdict]}, p99 {at.summary.percentile(99.0).value / 1e6:,.1f} ms"


def _finish(
    found: Found,
    test: ServerLoadTest,
    typed: str,
    out: Path | None,
    console: Console,
    *,
    overwrite: bool,
) -> int:
    """Say what was found, write it, and return the exit code."""
    from tailrank.core.exit_codes import ExitCode
    from tailrank.reporting import load_test as reported
    from tailrank.reporting.result import Result

    at, run, capacity, interrupted = found
    sla = test.settings.sla
    metrics = reported.metrics(at, run.result, sla, capacity)
    metrics |= {
        "client_cpu_fraction": run.cpu_fraction,
        "num_connections": run.num_connections,
    }
    result = Result(
        command="loadtest",
        command_line=typed,
        config={
            "url": test.target.url,
            "protocol": test.settings.protocol,
            "by_id": test.by_id,
            "server": test.about,
            "load": test.settings,
            "interrupted": interrupted,
        },
        seed=test.settings.seed,
        metrics=metrics,
        intervals=reported.intervals(at, sla, capacity),
        validity=reported.validity(at, capacity),
        artifacts=[] if out is None else [out / name for name in OUTPUT_FILES],
    )
    if out is not None:
        _write(out, at, run, sla, result, overwrite=overwrite)
    console.metrics(metrics)
    if run.result.first_error is not None:
        console.warn(f"queries failed; the first: {run.result.first_error}")
    code = reported.exit_code(at, sla, capacity)
    if code == ExitCode.BOUND_MISSED:
        console.warn(f"{sla} is missed at {at.offered_qps:,.4g} queries/s")
    if interrupted:
        console.warn("stopped: this is what was measured until then")
    console.finish(result)
    return ExitCode.INTERRUPTED if interrupted else code


def _write(
    out: Path, at: Measurement, run: LoadRun, sla: SLA | None, result: Result, *, overwrite: bool
) -> None:
    """Write the folder of results."""
    from tailrank.core.files import replace_directory
    from tailrank.reporting.load_test import report_data
    from tailrank.reporting.queries_file import write_queries
    from tailrank.reporting.report import write_report
    from tailrank.reporting.result import write_result

    with replace_directory(out, overwrite=overwrite) as folder:
        report_data(at, run.result, sla).save(folder)
        write_queries(folder, run.result)
        write_result(folder / "result.json", result)
        write_report(folder, name=out.name)
