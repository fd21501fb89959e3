"""Tables from a result of `bench_server.py`, written beside it.

python benchmarks/server_report.py RESULT.json
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inference_report import table, write_page
from policies_report import in_words, verdict
from tailrank.core.sla import SLA
from tailrank.reporting.result import Result

# Metric, words, whether at least or at most, the aim.
AIMS = (
    ("overhead_ms_p50", "128 items by ids over JSON at a light load, less the ranker, ms", "<=", 1),
    (
        "binary_over_in_process",
        "binary tensors, 500 items by ids, over the ranker in-process",
        ">=",
        0.67,
    ),
    (
        "binary_features_over_in_process",
        "the same with the features in the request, 909 kB",
        ">=",
        0.67,
    ),
    ("capacity_over_fastapi", "capacity over plain FastAPI", ">=", 5),
    ("capacity_over_fastapi_tuned", "capacity over tuned FastAPI", ">=", 2.5),
    ("goodput_fraction_at_2x", "at twice the capacity: answered in time, of it", ">=", 0.9),
    ("recovery_seconds_after_kill", "longest time after a kill, s", "<=", 2),
    ("lost_queries", "queries lost by kills", "<=", 0),
)


def lines_of(result: Result, path: Path) -> list[str]:
    """The page."""
    host, config, metrics = result.host, result.config, result.metrics
    peers = ", ".join(f"{name} {version}" for name, version in config["peer_versions"].items())
    lines = [
        "# A server beside FastAPI, and what the wire costs",
        "",
        f"`python benchmarks/bench_server.py --json …` · {host['cpu_model']}, "
        f"{host['cores']['usable']} cores shared by server and client, {peers}. "
        f"{config['preset']} with {config['user_tables']} tables of users, scale "
        f"{config['scale']:g}, {config['workers']} workers. Settings, host: "
        f"[{path.name}]({path.name}); names: [docs/results.md](../../docs/results.md). "
        f"Load average before: {config['load_average_before'][0]:.1f}."
        + ("" if "ray_serve" in config["rounds"] else " Not measured: Ray Serve."),
        *(f"**Not valid**: {reason}." for reason in result.validity.reasons),
        "",
        *table(("", "aim", "measured", ""), aim_rows(metrics, SLA.parse(config["sla"]))),
    ]
    if config["rounds"]["tailrank"]:
        rows = [
            (who, f"**{in_words(metrics[f'capacity_qps.{who}'])}**", in_order(rounds))
            for who, rounds in config["rounds"].items()
            if rounds  # the overload part alone needs no peers
        ]
        lines += ["", f"Queries/s inside {config['sla']}, production sizes, ids over JSON:", ""]
        lines += table(("server", "median", "rounds"), rows)
    rates = {name: rate for name, rate in metrics.items() if name.startswith("items_per_s.")}
    if rates:
        lines += ["", "Items/s of queries of 500 items, nobody ever waits:", ""]
        lines += table(
            ("", "items/s"),
            ((name.removeprefix("items_per_s."), in_words(rate)) for name, rate in rates.items()),
        )
    return lines


def aim_rows(metrics: Mapping[str, float], sla: SLA) -> list[tuple[str, ...]]:
    """What was aimed at and what was measured; what was not measured is left out."""
    limit_ms = sla.latency_ns / 1e6
    late = ("accepted_latency_ms_p99_at_2x", "p99 of what was taken in, ms", "<=", limit_ms)
    return [
        (
            words,
            f"{bound} {aim:g}",
            f"**{in_words(metrics[name])}**",
            verdict(metrics[name] >= aim if bound == ">=" else metrics[name] <= aim),
        )
        for name, words, bound, aim in (*AIMS[:5], late, *AIMS[5:])
        if name in metrics
    ]


def in_order(rounds: list[float]) -> str:
    """The rounds' figures, as they were measured."""
    return ", ".join(map(in_words, rounds))


if __name__ == "__main__":
    write_page(__doc__, lines_of)
