"""Scoring a batch: the CPU ranker in each precision beside every peer that can be installed.

The presets with uniform ids and with Zipf ids (exponent 1.05, frequent rows anywhere in a table),
batches of 1 to 1024 items, every feature on the item side (the papers' setting). Weights and inputs
are the same for all and come from a seed; all outputs are compared first. Candidates live in three
processes (ours, peers as shipped, peers with huge pages) that take turns on one pinned core, in an
order that moves on, several calls a turn as a server calls one model again and again, each call on
features of its own. Times are CPU time of the process: other work on the host counts only where it
takes cache and memory bandwidth.

- eager_modules, compiled: `nn.EmbeddingBag` and `nn.Linear` modules, and `torch.compile` of them
- compiled_frozen: one merged table, frozen and packed weights, huge pages
- expert_torch (oneDNN), expert_torch_mkl: torch's operators by hand, packed layers, huge pages
- onnx_runtime, fbgemm: see `peers/`; `_tuned` has huge pages (and packed layers)
- tailrank: an artifact of that precision, loaded as users load it
- floor: one bare read of each row, at the best prefetch distance of the sweep of `bench_lookup`

Then two cores, uniform ids: two streams of batches, wall time, as two threads of one process and as
two processes that share the tables; each candidate has the better of both. `thread_scaling.w2` is
threads over processes of ours. Then the user's side once (`inference_user_once.py`), apart from all
that. Where each of the eight models spends its time is a part of its own, `--operators`
(`inference_operators.py`). A precision passes the gate if the AUC, expected for labels that are 1
with the probability that the fp32 model says, drops by no more than 0.1 %, relative.

    python benchmarks/bench_inference.py [--quick] [--operators] [--only MODEL] [--json PATH]

Peers that are not installed are listed in the result: `pip install --group bench`. Tables and a
figure of a result: `inference_report.py`. All processes together take some 11 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from inference_cases import SCALES, Case, IdsFrom
from inference_metrics import Figures, Floats, Measured, Model, figures_of, validity
from inference_operators import SCALES as OPERATOR_SCALES
from inference_operators import operators_result
from inference_rounds import (
    TOLERANCES,
    compare,
    model_of,
    one_core,
    started,
    thread_scaling,
    two_cores,
)
from inference_user_once import measure_movielens, measure_rmc1, movielens_folder
from inference_workers import Candidate, Role
from tailrank.reporting.result import Result, to_json, write_result

PRECISIONS = (
    "fp32",
    "dense=bf16",
    "dense=int8",
    "bf16",
    "rows=int8,dense=bf16",
    "int8",
    "rows=int4,dense=bf16",
    "rows=int4,dense=int8",
)
OURS = tuple(Candidate(role="ours", precision=precision) for precision in PRECISIONS)
FLOORS = tuple(
    Candidate(role="ours", precision=rows, module="inference_floor")
    for rows in ("fp32", "bf16", "int8", "int4")
)


def peers(
    role: Role, module: str, precisions: Sequence[str], suffix: str = "", **options: object
) -> tuple[Candidate, ...]:
    """One peer in several precisions."""
    return tuple(
        Candidate(
            role=role,
            precision=precision,
            module=f"peers.{module}",
            suffix=suffix,
            options=tuple(options.items()),
        )
        for precision in precisions
    )


PEERS = (
    *peers("stock", "eager_modules", ("fp32", "bf16")),
    *peers("stock", "compiled", ("fp32", "bf16")),
    *peers("stock", "onnx_runtime", ("fp32", "dense=int8")),
    *peers("stock", "fbgemm", ("fp32",)),
    *peers("tuned", "expert_torch", PRECISIONS),
    *peers("tuned", "expert_torch", ("fp32",), suffix="_mkl", mkl=True),
    *peers("tuned", "compiled", ("fp32", "bf16"), suffix="_frozen"),
    *peers("tuned", "onnx_runtime", ("fp32", "dense=int8"), suffix="_tuned"),
    *peers("tuned", "fbgemm", ("fp32", "bf16", "int8", "rows=int4,dense=int8"), suffix="_tuned"),
)
PEER_PACKAGES = ("torch", "onnxruntime", "onnx", "fbgemm-gpu-cpu")
MAX_AUC_DROP = 0.001  # as `tailrank export` has it
SCALING_ITEMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured.

    Args:
        models: presets.
        shrink: factor on the rows of `SCALES`.
        ids: where ids come from.
        batches: items of a batch, one core.
        w2_batches: items of a batch, two cores.
        rounds: turns of each candidate for one case: at least and at most.
        case_s: seconds for one case, between these bounds.
        w2_rounds: rounds on two cores.
        w2_s: seconds of each of their streams.
        gate_batches: batches of 256 items for comparison and quality gate.
        left_out: modules of peers that are not measured.
    """

    models: tuple[str, ...]
    shrink: float = 1.0
    ids: tuple[IdsFrom, ...] = ("uniform", "zipf")
    batches: tuple[int, ...] = (1, 16, 64, 256, 1024)
    w2_batches: tuple[int, ...] = (1, 64, 256)
    rounds: tuple[int, int] = (5, 25)
    case_s: float = 15.0
    w2_rounds: int = 3
    w2_s: float = 0.15
    gate_batches: int = 32
    left_out: tuple[str, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--operators", action="store_true", help="just where models spend time")
    parser.add_argument("--only", choices=[name.removeprefix("dlrm-") for name in OPERATOR_SCALES])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    models = [n for n in OPERATOR_SCALES if arguments.only in (None, n.removeprefix("dlrm-"))]
    if arguments.operators:
        finish(operators_result(models, quick=arguments.quick, say=say), arguments.json)
        return
    models = tuple(name for name in models if name in SCALES)
    if not models:
        parser.error(f"{arguments.only} has no peers here, only --operators")
    settings = Settings(models=models)
    if arguments.quick:
        settings = Settings(
            models=models if arguments.only else ("dlrm-rmc1",),
            shrink=0.1,
            ids=("uniform",),
            batches=(1, 64),
            w2_batches=(64,),
            rounds=(3, 5),
            case_s=2.0,
            w2_rounds=1,
            w2_s=0.05,
            gate_batches=4,
            left_out=("peers.compiled",),  # compiling alone takes longer
        )
    finish(measure(settings), arguments.json)


def finish(result: Result, json_path: Path | None) -> None:
    """Print the result, and write it where the user wants it."""
    if json_path:
        write_result(json_path, result)
    print(to_json(result))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found about one model.

    Args:
        model: what one item asks for.
        measured: its cases.
        scaling: threads over processes of ours in fp32, two cores.
        differences: to the reference, by label.
        drops: of the AUC, by label.
        missing: why a candidate is not there, by label.
        described: what our rankers chose, by label.
        busy_fractions: see `Running`.
    """

    model: Model
    measured: list[Measured]
    scaling: Floats | None
    differences: dict[str, float]
    drops: dict[str, float]
    missing: Mapping[str, str]
    described: Mapping[str, object]
    busy_fractions: list[float]


def measure(settings: Settings) -> Result:
    """Everything, as a result."""
    load_average = os.getloadavg()
    cores = sorted(os.sched_getaffinity(0), reverse=True)[:2]
    torch.set_num_threads(1)
    candidates = [c for c in (*OURS, *FLOORS, *PEERS) if c.module not in settings.left_out]
    users = Figures({}, {}, {})
    measure_users(users, settings, cores)
    found = {
        outcome.model.name: outcome
        for outcome in (
            measure_model(name, settings, candidates, cores) for name in settings.models
        )
    }
    missing = {who: why for outcome in found.values() for who, why in outcome.missing.items()}
    if movielens_folder() is None:
        missing["user once, movielens"] = "no data in TAILRANK_DATA or ../shared/data"
    measured = [case for outcome in found.values() for case in outcome.measured]
    passing = {
        model: {label for label, drop in outcome.drops.items() if drop <= MAX_AUC_DROP}
        for model, outcome in found.items()
    }
    figures = figures_of(measured, candidates, passing)
    figures.add("thread_scaling.w2", [o.scaling for o in found.values() if o.scaling is not None])
    busy_fractions = [fraction for o in found.values() for fraction in o.busy_fractions]
    figures.metrics["host_busy_fraction"] = float(np.median(busy_fractions))
    for model, outcome in found.items():
        for label, drop in outcome.drops.items():
            figures.metrics[f"auc_drop_fraction.{model}.{label}"] = drop
    figures.metrics |= users.metrics
    figures.intervals |= users.intervals
    return Result(
        command="bench_inference",
        config={
            "settings": settings,
            "scales": {name: SCALES[name] * settings.shrink for name in settings.models},
            "cores": cores,
            "load_average_before": load_average,
            "max_auc_drop": MAX_AUC_DROP,
            "tolerances": TOLERANCES,
            "models": [outcome.model for outcome in found.values()],
            "candidates": {c.label: c.precision for c in candidates if c.label not in missing},
            "missing": missing,
            "peer_versions": {name: version_of(name) for name in PEER_PACKAGES},
            "described": {model: outcome.described for model, outcome in found.items()},
            "largest_difference": {model: outcome.differences for model, outcome in found.items()},
            "rounds": {case.key: case.num_rounds for case in measured},
            "chosen": figures.chosen,
        },
        seed=0,
        metrics=figures.metrics,
        intervals=figures.intervals,
        validity=validity(figures.metrics["host_busy_fraction"]),
    )


def measure_model(
    preset: str, settings: Settings, candidates: Sequence[Candidate], cores: Sequence[int]
) -> Outcome:
    """One model on one core, then on two."""
    case = Case(preset=preset, scale=SCALES[preset] * settings.shrink)
    measured: list[Measured] = []
    scaling: Floats | None = None
    say(f"{case.name}: build and compare")
    with started(case, candidates, cores[0]) as running:
        differences, drops = compare(running, settings.gate_batches)
        model = model_of(running)
        for ids_from in settings.ids:
            for items in settings.batches:
                limits = {"rounds": settings.rounds, "seconds": settings.case_s}
                measured.append(one_core(running, model, ids_from, items, **limits))
                say(f"{measured[-1].key}: {measured[-1].num_rounds} rounds")
        if len(cores) > 1:
            seconds, rounds = settings.w2_s, settings.w2_rounds
            for items in settings.w2_batches:
                both = two_cores(running, model, items, cores, rounds=rounds, seconds=seconds)
                measured.append(both)
                say(f"{both.key}: {both.num_rounds} rounds")
            rounds, ours = settings.rounds[1], (OURS[0].label, SCALING_ITEMS)
            scaling = thread_scaling(running, *ours, cores, rounds=rounds, seconds=seconds)
    return Outcome(
        model=model,
        measured=measured,
        scaling=scaling,
        differences=differences,
        drops=drops,
        missing=running.missing,
        described=running.described,
        busy_fractions=running.busy_fractions,
    )


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def say(what: str) -> None:
    """Progress, beside the result."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def measure_users(figures: Figures, settings: Settings, cores: Sequence[int]) -> None:
    """The user's side once, on one core."""
    if "dlrm-rmc1" not in settings.models:
        return
    say("user once")
    usable, movielens = os.sched_getaffinity(0), movielens_folder()
    os.sched_setaffinity(0, {cores[0]})
    with torch.inference_mode():
        measure_rmc1(figures, SCALES["dlrm-rmc1"] * settings.shrink, settings.rounds[1])
        if movielens is not None:
            measure_movielens(figures, movielens, settings.rounds[1])
    os.sched_setaffinity(0, usable)


if __name__ == "__main__":
    main()
