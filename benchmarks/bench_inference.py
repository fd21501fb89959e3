"""Scoring a batch: the CPU ranker in each precision beside eager modules and torch's BLASes.

DLRM-RMC1, RMC2 and RMC3 with tables of 0.6 to 1 GB in fp32, uniform ids, every feature on the item
side (the papers' setting), one pinned core. Same weights for all; outputs are compared first.
Candidates take turns of several calls, as a server calls one model again and again, and every call
has features of its own, prepared before. Times are CPU time of the thread, so that other work on
the host counts only where it takes cache and memory bandwidth.

- eager: `nn.EmbeddingBag` per table and `nn.Linear` modules, on the pages that torch allocates
- torch_mkl, torch_onednn: one merged `embedding_bag` on huge pages, MKL or packed oneDNN layers
- native_fp32, native_dense_bf16, native_bf16: the CPU ranker, one native call

Then the user's side once: RMC1 with 6 of 8 tables on the user's side, 128 items of one user, beside
the same items that each carry a copy of the user (whose rows are then in the cache), and beside
items that have ids of their own in all tables (the papers' setting).

    python benchmarks/bench_inference.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from peers.eager_modules import EagerModules
from tailrank.characterization.payloads import QueryPool
from tailrank.core.measurement import Validity
from tailrank.core.query import BatchPart, Query
from tailrank.features import FeatureBatch, SideFeatures
from tailrank.inference.cpu import CpuRanker, place_in_arena
from tailrank.inference.precision import Precision
from tailrank.models import build_model
from tailrank.models.dlrm import DLRM
from tailrank.models.presets import load_preset
from tailrank.reporting.result import Result, to_json, write_result

SCALES = {"dlrm-rmc1": 0.25, "dlrm-rmc2": 0.2, "dlrm-rmc3": 0.25}
BATCHES = (1, 16, 64, 256)
USER_TABLES, USER_ITEMS = 6, 128
# Largest difference of a score to the eager modules'.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}

# Features in, a call on them out: what is made ready before the call is not timed.
Candidate = Callable[[FeatureBatch], Callable[[], Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds, shrink = (4, 0.1) if arguments.quick else (25, 1.0)
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    chosen: dict[str, object] = {}
    with torch.inference_mode():
        for preset, scale in SCALES.items():
            found, bounds, chosen[preset] = measure_model(preset, scale * shrink, rounds)
            metrics |= found
            intervals |= bounds
        found, bounds = measure_user_once(SCALES["dlrm-rmc1"] * shrink, rounds)
    result = Result(
        command="bench_inference",
        config={
            "scales": {name: scale * shrink for name, scale in SCALES.items()},
            "batches": BATCHES,
            "rounds": rounds,
            "core": core,
            "user_tables": USER_TABLES,
            "user_items": USER_ITEMS,
            "chosen": chosen,
        },
        seed=0,
        metrics=metrics | found,
        intervals=intervals | bounds,
        validity=Validity(),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def new_model(preset: str, scale: float, user_tables: int | None, precision: Precision):
    """A model with drawn weights, its tables on huge pages in the format of the precision."""
    config = load_preset(preset, scale=scale, user_tables=user_tables)
    model = build_model(config, None).eval()
    assert isinstance(model, DLRM)
    arena = place_in_arena(model.tables, precision.rows)
    generator = torch.Generator().manual_seed(0)
    model.tables.reset(generator)
    for parameter in model.dense_parameters():
        parameter.normal_(0.0, 0.05, generator=generator)
    return model, arena


def measure_model(preset: str, scale: float, rounds: int):
    """Every candidate at every batch size."""
    fp32, bf16 = Precision(), Precision.parse("bf16")
    dense_bf16 = Precision.parse("dense=bf16")
    model, arena = new_model(preset, scale, None, fp32)
    small, small_arena = new_model(preset, scale, None, bf16)
    modules = EagerModules(model)
    rankers = {
        "torch_mkl": CpuRanker(model, arena, fp32, "mkl", "torch"),
        "torch_onednn": CpuRanker(model, arena, fp32, "onednn", "torch"),
        "native_fp32": CpuRanker(model, arena, fp32, "native", "native"),
        "native_dense_bf16": CpuRanker(model, arena, dense_bf16, "native", "native"),
        "native_bf16": CpuRanker(small, small_arena, bf16, "native", "native"),
    }
    chosen = {
        precision: CpuRanker(model, arena, Precision.parse(f"dense={precision}")).timings_us
        for precision in ("fp32", "bf16")
    }

    def eager(batch: FeatureBatch) -> Callable[[], Tensor]:
        prepared = modules.arguments(batch)
        return lambda: modules(*prepared)

    candidates: dict[str, Candidate] = {"eager": eager}
    candidates |= {name: ranked_by(ranker) for name, ranker in rankers.items()}
    pool = QueryPool.random(model.config.spec, 0)
    compare(preset, candidates, batch_of(pool, 0, 64))
    name = preset.removeprefix("dlrm-")
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for items in BATCHES:
        times = time_in_turns(candidates, lambda at, n=items: batch_of(pool, at, n), items, rounds)
        flops = 2 * rankers["native_fp32"].num_dense_weights * items
        for key, values in times.items():
            label, median = f"{name}.b{items}.{key}", float(np.median(values))
            metrics[f"us.{label}"] = median
            metrics[f"items_per_s.{label}"] = items / median * 1e6
            metrics[f"gflop_per_s.{label}"] = flops / median / 1e3
            if key != "eager":
                ratio = times["eager"] / values
                precision = key.removeprefix("native_")
                metrics[f"speedup_vs_eager.{name}.b{items}.{precision}"] = float(np.median(ratio))
                intervals[f"speedup_vs_eager.{name}.b{items}.{precision}"] = bootstrap_median(ratio)
    return metrics, intervals, chosen


def measure_user_once(scale: float, rounds: int):
    """Items of one user with the user's features once; with a copy for each; with all their own."""
    model, arena = new_model("dlrm-rmc1", scale, USER_TABLES, Precision())
    own = build_model(load_preset("dlrm-rmc1", scale=scale), None).eval()
    own.load_state_dict(model.state_dict(), assign=True)  # the same memory
    ranker, own_ranker = (
        CpuRanker(m, arena, Precision(), "native", "native") for m in (model, own)
    )
    pool, own_pool = (QueryPool.random(m.config.spec, 0) for m in (model, own))

    def copied(batch: FeatureBatch) -> Callable[[], Tensor]:
        copies = FeatureBatch(
            user=SideFeatures.concat([batch.user] * batch.num_items),
            item=batch.item,
            item_to_user_B=torch.arange(batch.num_items),
        )
        return lambda: ranker.rank(copies)

    users: dict[str, Candidate] = {"once": ranked_by(ranker), "copied": copied}
    compare("user once", users, batch_of(pool, 0, USER_ITEMS))
    drawn = iter(range(1_000_000_000))

    def all_items(batch: FeatureBatch) -> Callable[[], Tensor]:
        mine = batch_of(own_pool, next(drawn), USER_ITEMS)
        return lambda: own_ranker.rank(mine)

    times = time_in_turns(
        users | {"all_items": all_items},
        lambda at: batch_of(pool, at, USER_ITEMS),
        USER_ITEMS,
        rounds,
    )
    metrics = {f"us.rmc1_user_{key}.b{USER_ITEMS}": float(np.median(v)) for key, v in times.items()}
    ratios = {
        "user_once_speedup.rmc1": times["all_items"] / times["once"],
        "user_once_speedup_over_copies.rmc1": times["copied"] / times["once"],
    }
    metrics |= {name: float(np.median(ratio)) for name, ratio in ratios.items()}
    return metrics, {name: bootstrap_median(ratio) for name, ratio in ratios.items()}


def ranked_by(ranker: CpuRanker) -> Candidate:
    return lambda batch: lambda: ranker.rank(batch)


def batch_of(pool: QueryPool, choice: int, items: int) -> FeatureBatch:
    """One query of the pool; successive choices have items of their own."""
    query = Query(
        query_id=0,
        model="",
        scheduled_ns=0,
        deadline_ns=None,
        num_items=items,
        num_ids=0,
        payload=pool.payload(choice * items, items),
    )
    return pool.features(BatchPart(query=query, first_item=0, num_items=items))


def time_in_turns(
    candidates: dict[str, Candidate],
    next_batch: Callable[[int], FeatureBatch],
    items: int,
    rounds: int,
) -> dict[str, np.ndarray]:
    """CPU microseconds of a call, the median of each turn; the order moves on by one."""
    calls_per_turn = max(2, math.ceil(64 / items))
    times = {key: np.empty(rounds) for key in candidates}
    order, drawn = list(candidates), 0
    for number in range(rounds):
        for key in order[number % len(order) :] + order[: number % len(order)]:
            calls = []
            for _ in range(calls_per_turn + 1):
                calls.append(candidates[key](next_batch(drawn)))
                drawn += 1
            calls.pop()()  # brings the weights back, as the call before does in a server
            samples = []
            for call in calls:
                started = time.thread_time_ns()
                call()
                samples.append((time.thread_time_ns() - started) / 1e3)
            times[key][number] = np.median(samples)
    return times


def compare(name: str, candidates: dict[str, Candidate], batch: FeatureBatch) -> None:
    """All outputs against the first candidate's."""
    outputs = {key: prepare(batch)() for key, prepare in candidates.items()}
    first = next(iter(outputs.values()))
    for key, output in outputs.items():
        limit = TOLERANCE["bf16" if "bf16" in key else "fp32"]
        difference = float((output - first).abs().max())
        assert difference <= limit, f"{name} {key} differs by {difference}, limit {limit}"


def bootstrap_median(values: np.ndarray) -> list[float]:
    """95 % interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return [float(v) for v in np.percentile(np.median(draws, axis=1), [2.5, 97.5])]


if __name__ == "__main__":
    main()
