"""What a model's queries suffer from another model's load, and who should have which workers.

Two pairs, as in HPCA 2020: RMC1 beside RMC3 (both read rows, RMC3 multiplies more) and RMC2 beside
NCF (the most rows of all beside almost none). For each: latency and service time of either against
the other's load, workers divided and shared, in rounds; then the largest load of an even mix at
which both keep their SLAs, by sharing, simulated and live. All features per item. Takes about 25
minutes on 2 cores, on an idle host; what the live runs and contention take is said before them.

    python benchmarks/bench_colocation.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from tailrank.characterization.colocation import JointLoad, JointLoadConfig, Tenant
from tailrank.characterization.contention import measure_contention
from tailrank.characterization.target import TargetConfig, open_target
from tailrank.characterization.worker_division import find_division
from tailrank.core.measurement import Validity
from tailrank.core.sla import SLA
from tailrank.reporting import colocation as reported
from tailrank.reporting.console import Console
from tailrank.reporting.result import Result, to_json, write_result

WORKERS, SIZES = 2, "normal:128,16"
# Scales at which each pair fits into 8 GB and no model into a cache; SLAs are the papers' targets.
PAIRS = (
    (("rmc1", "dlrm-rmc1", 0.25, "p95=100ms"), ("rmc3", "dlrm-rmc3", 0.25, "p95=100ms")),
    (("rmc2", "dlrm-rmc2", 0.25, "p95=400ms"), ("ncf", "ncf", 1.0, "p95=5ms")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long things take.

    Args:
        seconds: of each run.
        profile_seconds: for the tables of a pair.
        rounds: runs of each case of contention.
        scale: factor on the pairs' scales.
        live: whether the best plans are served.
        percentile: of the SLAs; None: the papers'. A low one needs few queries, for a first look.
    """

    seconds: float
    profile_seconds: float
    rounds: int
    scale: float = 1.0
    live: bool = True
    percentile: float | None = None


QUICK = Effort(seconds=0.25, profile_seconds=12.0, rounds=1, scale=0.1, live=False, percentile=50.0)
FULL = Effort(seconds=5.0, profile_seconds=80.0, rounds=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    reasons: list[str] = []
    described: dict[str, object] = {}
    for pair in PAIRS:
        load = open_pair(pair, effort)
        found, bounds, doubts = measure_pair(load, effort)
        first, second = (name for name, *_ in pair)
        metrics |= {f"colocation.{named(name, first, second)}": found[name] for name in found}
        intervals |= {f"colocation.{named(name, first, second)}": bounds[name] for name in bounds}
        reasons += [f"{first} and {second}: {reason}" for reason in doubts.reasons]
        described |= {tenant.name: tenant.target.describe() for tenant in load.tenants}
    result = Result(
        command="bench_colocation",
        config={"effort": effort, "pairs": PAIRS, "sizes": SIZES, "rankers": described},
        seed=0,
        metrics=metrics,
        intervals=intervals,
        validity=Validity(tuple(reasons)),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def open_pair(pair: tuple[tuple[str, str, float, str], ...], effort: Effort) -> JointLoad:
    """Both models of a pair, an even mix of their queries."""
    tenants = []
    for _, preset, scale, text in pair:
        config = TargetConfig(target=f"preset:{preset}", scale=scale * effort.scale)
        target = open_target(config, print)
        sla = SLA.parse(text)
        sla = SLA(effort.percentile or sla.percentile, sla.latency_ns)
        tenants.append(Tenant(target=target, sla=sla, share=1.0 / len(pair), sizes=SIZES))
    return JointLoad(JointLoadConfig(num_workers=WORKERS, seconds=effort.seconds), tenants)


def measure_pair(
    load: JointLoad, effort: Effort
) -> tuple[dict[str, float], dict[str, tuple[float, float]], Validity]:
    """Metrics of one pair with their intervals, and what speaks against them."""
    with Console().progress("profile") as progress:
        found = find_division(
            load.tenants,
            load.config,
            profile_seconds=effort.profile_seconds,
            live=effort.live,
            on_progress=progress.at,
            announce=print,
        )
        progress.begin("contention")
        contended = measure_contention(
            load, found.tables, rounds=effort.rounds, on_progress=progress, announce=print
        )
    ratios, bounds = reported.contention_metrics(load, contended)
    return (
        reported.metrics(load, found) | ratios,
        reported.intervals(found) | bounds,
        reported.validity(found, contended),
    )


def named(metric: str, first: str, second: str) -> str:
    """A metric of a pair by whose it is: `rmc1_with_rmc3.…` of RMC1's latency, as the case may be.

    Contention at the largest load of divided workers, where only caches and memory are shared, is
    the headline, and has no more words than that.
    """
    words = metric.removeprefix("contention.").split(".")
    own = {"dlrm_rmc1": "rmc1", "dlrm_rmc2": "rmc2", "dlrm_rmc3": "rmc3", "ncf": "ncf"}
    for position, word in enumerate(words):
        if word in own:
            other = second if own[word] == first else first
            rest = words[:position] + words[position + 1 :]
            if rest[:2] == ["divided", "others_60"]:
                rest = rest[2:]
            return ".".join([f"{own[word]}_with_{other}", *rest])
    return ".".join([f"{first}_and_{second}", *words])


if __name__ == "__main__":
    main()
