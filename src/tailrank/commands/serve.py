"""`tailrank serve`: a model behind HTTP, under the policy that was tuned for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from tailrank.characterization.target import TargetConfig
    from tailrank.core.sla import SLA
    from tailrank.features import Side
    from tailrank.inference.cascade import StageName
    from tailrank.reporting.tuned_point import TunedPoint
    from tailrank.scheduling.policies import PolicyConfig
    from tailrank.serving.engine_setup import KnownTimes
    from tailrank.serving.model import FeatureFile

# The largest query of DeepRecSys' production sizes, which all workers rank together by default.
_LARGEST_QUERY = 1000


def serve(
    target: str | None = None,
    *,
    stage: list[str] | None = None,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    sla: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    grpc_port: int | None = None,
    policy: str | None = None,
    batch_items: int | None = None,
    delay: str | None = None,
    workers: int | None = None,
    executor: str | None = None,
    profile: Path | None = None,
    user_features: Path | None = None,
    user_id_column: str | None = None,
    item_features: Path | None = None,
    item_id_column: str | None = None,
    scale: float = 1.0,
    user_tables: int | None = None,
    precision: str | None = None,
    seed: int = 0,
    token_file: Path | None = None,
    model_dir: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    max_body: int = 16 << 20,
    max_items: int = 10_000,
    max_open_items: int = 200_000,
    max_connections: int = 1000,
    ray: bool = False,
    ray_address: str | None = None,
    replicas: int | None = None,
    quiet: bool = False,
) -> int:
    """Serve a model over HTTP until SIGTERM or Ctrl-C, then answer what has come and end.

    POST /v1/rank ranks candidates; / is a page that shows what goes on; /health/live,
    /health/ready, /metrics (Prometheus) and /openapi.json say the rest (docs/serving.md).
    Needs: pip install 'tailrank[serve]'. Several models rank in stages: --stage light:keep=256
    --stage heavy. SIGHUP reads the models again and lets them take over without a pause.
    With --ray replicas on several machines rank.

    Example: tailrank serve preset:dlrm-rmc1 --scale 0.01 --sla p99=20ms

    Example: tailrank serve runs/mine --sla p99=20ms --ray --ray-address 10.0.0.1:6379

    Args:
        target: Folder of a trained model, or preset:NAME with random weights; default: the tuned.
        stage: In place of a target, several: MODEL:keep=K passes its K best candidates on to the
            next, and MODEL ranks those that are left, all within one deadline.
        from_: Folder that tailrank tune wrote: its policy, workers, SLA and profile are taken.
        sla: Percentile and limit, as in p99=20ms: a query that would be answered later is turned
            away, unless it brings a deadline of its own.
        host: Address to listen on; the default is open to this machine alone.
        port: Port to listen on; 0 takes any that is free.
        grpc_port: Port for the Open Inference Protocol over gRPC, beside HTTP; default: none.
        policy: Scheduling policy: static, coalescing, deeprecsched or slack; default: static.
        batch_items: Most items of a batch; default: 1000 over all workers.
        delay: Longest wait of a query for company, under coalescing; default: 1ms.
        workers: Worker threads; default: all cores.
        executor: Where workers compute: threads, or processes, one each; default: where they rank
            more, by a measurement of a second at the start.
        profile: Service-time table from tailrank profile, for policies that predict, and by which
            queries that would be late are known; default: a few calls are timed.
        user_features: Parquet file with the features of known users, an id first in each row: a
            request then brings user_id in place of user.
        user_id_column: Its column of ids; default: the first.
        item_features: Likewise of items: a request then brings item_ids alone.
        item_id_column: Its column of ids; default: the first.
        scale: Factor on the rows of a preset's tables.
        user_tables: Tables of a preset that belong to the user's side.
        precision: Number formats of a preset: fp32, bf16, int8, or a mix: rows=int4,dense=bf16.
        seed: Seed of a preset's weights.
        token_file: File with the token that clients have to bring as Authorization: Bearer TOKEN.
        model_dir: Folder inside which POST /v2/repository/models/NAME/load may name another model
            to serve; default: it may only have what was named here read again, as SIGHUP does.
        tls_cert: Certificate chain (PEM), for HTTPS.
        tls_key: Its key (PEM).
        max_body: Bytes of a request's body.
        max_items: Candidates of a query.
        max_open_items: Candidates of all queries that wait or are being ranked.
        max_connections: Open connections.
        ray: Have replicas rank, one on a node, which Ray Serve starts and replaces. Needs on all
            nodes: pip install 'tailrank[ray]', and the models at the same path.
        ray_address: The cluster, HOST:PORT or auto; default: one of this machine alone.
        replicas: Replicas, at most one on each node; default: one on each that has the cores.
        quiet: Say nothing but errors.
    """
    from tailrank.core.errors import RequestError
    from tailrank.core.exit_codes import ExitCode
    from tailrank.reporting.console import Console
    from tailrank.reporting.tuned_point import read_tuned
    from tailrank.runtime.live import resolve_workers
    from tailrank.serving.buffers import keep_freed_memory
    from tailrank.serving.engine_config import EngineConfig, server_policy
    from tailrank.serving.engine_setup import EngineSetup, check_has_times, open_engine, shown
    from tailrank.serving.executors import parse_executor
    from tailrank.serving.http import build_app
    from tailrank.serving.rank_request import RequestLimits
    from tailrank.serving.repository_http import Repository
    from tailrank.serving.server import (
        ServerConfig,
        address,
        hold_grpc_port,
        is_private,
        listen,
        run_server,
    )
    from tailrank.serving.swap import Swaps, reopener

    tuned = None if from_ is None else read_tuned(from_)
    server = ServerConfig(
        host=host,
        port=port,
        grpc_port=grpc_port,
        connections_max=max_connections,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    limits = RequestLimits(body_bytes_max=max_body, items_max=max_items)
    token = None if token_file is None else read_token(token_file)
    if model_dir is not None and not model_dir.is_dir():
        raise RequestError("--model-dir", f"{model_dir}: no such folder")
    _check_ray(
        ray,
        {"--ray-address": ray_address, "--replicas": replicas},
        {"--executor": executor, "--grpc-port": grpc_port, "--model-dir": model_dir},
    )
    names = _stage_names(stage, target)
    targets = [
        _target_config(name.target or None, tuned, scale, user_tables, precision, seed)
        for name in names
    ]
    bound = _sla(sla, tuned)
    num_workers = resolve_workers(tuned.num_workers if tuned and workers is None else workers)
    chosen = _policy(policy, batch_items, delay, num_workers, bound, tuned)
    files = feature_files(user_features, user_id_column, item_features, item_id_column)
    config = EngineConfig(
        policy=server_policy(replace(chosen, queue_items_max=max_open_items), bound),
        num_workers=num_workers,
        sla=bound,
        executor="threads" if ray else parse_executor(executor),
    )
    console = Console(quiet=quiet)
    keep_freed_memory()  # before workers are forked, for they do as they were told here
    if len(names) > 1:
        _check_stages(chosen, profile)
    else:
        check_has_times(chosen, profile or (tuned and tuned.profile))
    setup = EngineSetup(
        targets=targets,
        keeps=[name.keep or 1 for name in names[:-1]],
        files=files,
        config=config,
        times=_times(profile, tuned, in_stages=len(names) > 1),
    )
    served_how = f"{bound}: {chosen.policy}, batches of up to {chosen.batch_items_max} items"
    with listen(server) as sock, hold_grpc_port(server) as held:
        if ray:
            from tailrank.serving.front import build_front
            from tailrank.serving.ray_serving import RayConfig, deployed

            cluster = RayConfig(
                address=ray_address, num_replicas=replicas, open_max=max_connections
            )
            with deployed(setup, limits, token, cluster) as away:
                console.note(
                    f"{address(sock, server)} serves {away.shown()}, {served_how}, "
                    f"replicas: {away.num_replicas}, workers of each: {num_workers} threads"
                )
                hint = "nothing was changed: replicas read models when they start"
                front = build_front(away, limits, token)
                run_server(front, sock, server, on_hangup=lambda: console.warn(hint))
            console.note("stopped")
            return ExitCode.DONE
        with console.progress("load") as progress:
            engine = open_engine(
                setup, console.note, progress.count_bytes, lambda: progress.begin("features")
            )
        engine.start()
        served = dict(zip((one.name for one in engine.models), targets, strict=True))
        swaps = Swaps(engine, reopener(served, files, console.note), console.note, console.warn)
        repository = Repository(
            swaps=swaps, folder=model_dir, is_open=token is not None or is_private(sock)
        )
        try:
            beside, number = None, None
            if held is not None:
                from tailrank.serving.grpc_server import GrpcServer

                beside = GrpcServer(engine, limits, token, server, held)
                number = held.getsockname()[1]
            also = "" if number is None else f", gRPC: port {number}"
            console.note(
                f"{address(sock, server)} serves {shown(engine)}, {served_how}, "
                f"workers: {num_workers} {engine.placed}{also}"
            )
            app = build_app(engine, limits, token, number, repository)
            run_server(app, sock, server, beside, swaps.begin_quietly)
        finally:
            engine.drain()
            swaps.close()
    stats = engine.stats
    console.note(f"stopped: {stats.queries:,} queries answered, {stats.shed.total():,} turned away")
    return ExitCode.DONE


def _check_ray(ray: bool, goes: dict[str, object], goes_not: dict[str, object]) -> None:
    """Refuse flags that mean nothing with replicas, or without them."""
    from tailrank.core.errors import RequestError

    for flag, value in (goes_not if ray else goes).items():
        if value is None or (flag, value) == ("--executor", "threads"):
            continue
        if not ray:
            raise RequestError(flag, "goes with --ray")
        why = {
            "--executor": "workers of replicas are threads",
            "--grpc-port": "replicas are asked over HTTP",
            "--model-dir": "replicas read models when they start",
        }[flag]
        raise RequestError(flag, f"{why}; leave it out with --ray")


def _stage_names(stages: list[str] | None, target: str | None) -> tuple[StageName, ...]:
    """The stages that were named; a target is the only one, and none is what was tuned."""
    from tailrank.core.errors import RequestError
    from tailrank.inference.cascade import StageName, parse_stages

    if not stages:
        return (StageName(target=target or ""),)
    if target is not None:
        raise RequestError("TARGET", "name one model, or several by --stage")
    return parse_stages(stages)


def _check_stages(chosen: PolicyConfig, profile: Path | None) -> None:
    """Refuse what needs service times of every stage: a profile is of one model."""
    from tailrank.core.errors import RequestError
    from tailrank.scheduling.policies import POLICIES

    if profile is not None:
        raise RequestError("--profile", "is of one model; leave it out of stages")
    if POLICIES[chosen.policy].needs_sla:
        reason = f"`{chosen.policy}` predicts by a profile, which is of one model; name another"
        raise RequestError("--policy", reason)


def feature_files(
    users: Path | None, user_ids: str | None, items: Path | None, item_ids: str | None
) -> list[FeatureFile]:
    """The files of features that were named."""
    from tailrank.core.errors import RequestError
    from tailrank.serving.model import FeatureFile

    found = []
    named: tuple[tuple[Side, Path | None, str | None], ...] = (
        ("user", users, user_ids),
        ("item", items, item_ids),
    )
    for side, path, column in named:
        if path is not None:
            found.append(FeatureFile(side=side, path=path, id_column=column))
        elif column is not None:
            raise RequestError(f"--{side}-id-column", f"goes with --{side}-features; name its file")
    return found


def read_token(file: Path) -> bytes:
    """The token in a file, without the newline that editors put behind it."""
    from tailrank.core.errors import RequestError

    try:
        token = file.read_bytes().strip()
    except OSError as error:
        raise RequestError("--token-file", f"{file}: {error.strerror}") from None
    if not token or not token.isascii() or len(token.split()) != 1:
        raise RequestError("--token-file", f"{file} holds no token: one word of ASCII")
    return token


def _sla(sla: str | None, tuned: TunedPoint | None) -> SLA:
    from tailrank.core.errors import RequestError
    from tailrank.core.sla import SLA

    if sla is not None:
        return SLA.parse(sla)
    if tuned is None:
        raise RequestError("--sla", "missing; expected percentile and limit, as in p99=20ms")
    return tuned.sla


def _target_config(
    target: str | None,
    tuned: TunedPoint | None,
    scale: float,
    user_tables: int | None,
    precision: str | None,
    seed: int,
) -> TargetConfig:
    """What to load: what was named, else what was tuned."""
    from tailrank.characterization.target import TargetConfig
    from tailrank.core.errors import RequestError
    from tailrank.inference.precision import Precision

    if target is not None:
        return TargetConfig(
            target=target,
            scale=scale,
            user_tables=user_tables,
            precision=None if precision is None else Precision.parse(precision),
            seed=seed,
        )
    if tuned is None:
        raise RequestError("TARGET", "missing; expected a model's folder, preset:NAME, or --from")
    if (scale, user_tables, precision, seed) != (1.0, None, None, 0):
        reason = "--scale, --user-tables, --precision and --seed go with a target that is named"
        raise RequestError("TARGET", f"missing; {reason}")
    return tuned.target


def _policy(
    name: str | None,
    batch_items: int | None,
    delay: str | None,
    num_workers: int,
    bound: SLA,
    tuned: TunedPoint | None,
) -> PolicyConfig:
    """The tuned policy, or the one that was named, with those settings that were typed."""
    from tailrank.core.sla import parse_duration_ns
    from tailrank.scheduling.policies import POLICIES, PolicyConfig, static_baseline_batch

    if tuned is not None and name in (None, tuned.policy.policy):
        chosen = tuned.policy
    else:
        settings = POLICIES[name].settings if name in POLICIES else frozenset()
        chosen = PolicyConfig(
            policy=name or "static",
            batch_items_max=static_baseline_batch(_LARGEST_QUERY, num_workers),
            delay_max_ns=1_000_000 if "delay_max_ns" in settings else 0,
            sla=bound if "sla" in settings else None,
        )
    if batch_items is not None:
        chosen = replace(chosen, batch_items_max=batch_items)
    if delay is not None:
        chosen = replace(chosen, delay_max_ns=parse_duration_ns(delay, "--delay"))
    return chosen


def _times(profile: Path | None, tuned: TunedPoint | None, *, in_stages: bool) -> KnownTimes | None:
    """Service times to predict with: those named, or else those of the tuned point."""
    from tailrank.core.service_time import ServiceTimeTable
    from tailrank.serving.engine_setup import KnownTimes

    file = profile if profile is not None or tuned is None else tuned.profile
    if file is None or in_stages:
        return None
    table = ServiceTimeTable.load(file)
    return KnownTimes(table=table, file=file, is_asked_for=profile is not None)
