"""Scoring a batch on a GPU: the cuda ranker beside eager modules and `torch.compile` on the GPU.

The presets with uniform ids, every feature on the item side (the papers' setting). All start from
features on the host and end with scores on the host, wall time of one thread; weights and inputs
are the same, and outputs are compared first. Candidates take turns of several calls, each call on
features of its own.

- eager: `nn.EmbeddingBag` and `nn.Linear` modules; inputs wait in pinned memory, ids in one tensor
- compiled: `torch.compile` of them with CUDA graphs (`reduce-overhead`), once for each batch size
- cuda: an artifact of that precision, loaded as users load it; inputs come from pageable memory

Then what a batch of ours is made of: packing and sending it (`send_us`), and its lookups alone on
ids that lie on the GPU (`lookup_us`), in a CUDA graph over batches of ids of their own. Their rows'
bytes over that time are held against a copy of two large blocks in the same run (`hbm_fraction`);
a table's share in the L2 cache counts for them, so that small tables or batches can exceed 1.

    python benchmarks/bench_cuda.py [--quick] [--only MODEL] [--sweep] [--json PATH]

`--sweep` measures the lookups of 256 items with other tiles, to choose the default by. Without a
GPU nothing is measured, and that is said.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench_lookup import bootstrap_median
from inference_cases import Case, Prepare, batch_of, ids_by_table
from peers.eager_modules import EagerModules
from tailrank.core.measurement import Validity
from tailrank.features import FeatureBatch, SideFeatures
from tailrank.inference import load
from tailrank.inference.artifact import save_artifact
from tailrank.inference.precision import Precision
from tailrank.inference.static_batch import BatchShape, StaticBatch
from tailrank.kernels import cuda
from tailrank.kernels.row_formats import RowFormat, row_bytes, write_rows
from tailrank.models.dlrm import DLRM
from tailrank.reporting.result import Result, to_json, write_result

MODELS = ("dlrm-rmc2", "dlrm-rmc1", "dlrm-rmc3")
BATCHES = (1, 16, 64, 256, 1024, 4096)
QUICK_BATCHES = (1, 64, 1024)
PRECISIONS = ("fp32", "bf16")
ROW_FORMATS: tuple[RowFormat, ...] = ("fp32", "bf16", "int8", "int4")
# Largest difference of a score to eager modules in fp32.
TOLERANCES = {"fp32": 1e-5, "bf16": 0.02}
SWEEP_ITEMS, SWEEP_IDS, SWEEP_WARPS = 256, (4, 8, 16, 32, 64), (1, 2, 4, 8)
LOOKUPS_IN_GRAPH = 8
GPU = torch.device("cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if reason := cuda.why_unavailable():
        print(f"bench_cuda: NOTHING WAS MEASURED: {reason}", file=sys.stderr)
        return
    models = (arguments.only,) if arguments.only else MODELS[:1] if arguments.quick else MODELS
    scale, rounds = (0.1, 5) if arguments.quick else (1.0, 25)
    batches = QUICK_BATCHES if arguments.quick else BATCHES
    copy_gb_per_s = measure_copy(1 << 30 if arguments.quick else 4 << 30)
    metrics = {"hbm_copy_gb_per_s": copy_gb_per_s}
    intervals: dict[str, list[float]] = {}
    with torch.inference_mode():
        for preset in models:
            case = Case(preset=preset, scale=scale)
            model, pool = case.model(), case.pool("uniform")
            found, bounds = measure_batches(case.name, model, pool, batches, rounds)
            metrics |= found | measure_lookups(case.name, model, pool, batches, copy_gb_per_s)
            intervals |= bounds
            if arguments.sweep:
                metrics |= sweep_tiles(case.name, model, pool)
    result = Result(
        command="bench_cuda",
        config={
            "models": models,
            "scale": scale,
            "batches": batches,
            "rounds": rounds,
            "gpu": cuda.device_name(),
            "cuda": torch.version.cuda,
            "triton": cuda.triton_version(),
        },
        seed=0,
        metrics=metrics,
        intervals=intervals,
        validity=Validity(),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def measure_batches(
    name: str, model: DLRM, pool: SideFeatures, batches: tuple[int, ...], rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Whole batches of every candidate, and the packing and sending of ours."""
    candidates = candidates_of(model)
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for items in batches:
        compare(name, candidates, batch_of(pool, 0, items))
        times = time_in_turns(candidates, pool, items, rounds)
        for key, samples in times.items():
            median = float(np.median(samples))
            metrics[f"us.{name}.b{items}.{key}"] = median
            metrics[f"items_per_s.{name}.b{items}.{key}"] = items / median * 1e6
        for precision, peer in product(PRECISIONS, ("eager", "compiled")):
            ratio = times[f"{peer}_{precision}"] / times[f"cuda_{precision}"]
            label = f"speedup_vs_{peer}.{name}.b{items}.{precision}"
            metrics[label] = float(np.median(ratio))
            intervals[label] = bootstrap_median(ratio)
        metrics[f"send_us.{name}.b{items}"] = measure_send(model, batch_of(pool, 0, items))
    return metrics, intervals


def candidates_of(model: DLRM) -> dict[str, Prepare]:
    """Everything that scores, by name."""
    # A size for each batch and format; the default would fall back to eager after eight.
    torch._dynamo.config.recompile_limit = 64
    found: dict[str, Prepare] = {}
    on_gpu = gpu_copy(model)
    for precision in PRECISIONS:
        modules = EagerModules(on_gpu, precision).to(GPU)
        compiled = torch.compile(modules, mode="reduce-overhead", dynamic=False)
        found[f"eager_{precision}"] = on_pinned_inputs(modules, modules)
        found[f"compiled_{precision}"] = on_pinned_inputs(modules, compiled)
        with tempfile.TemporaryDirectory() as folder:
            save_artifact(Path(folder), model, training={}, precision=Precision.parse(precision))
            ranker, _ = load(Path(folder), device="cuda")
        found[f"cuda_{precision}"] = lambda batch, rank=ranker.rank: lambda: rank(batch)
    return found


def gpu_copy(model: DLRM) -> DLRM:
    """The same model on the GPU; the one on the host stays."""
    from tailrank.inference.cuda import place_on
    from tailrank.models import build_model

    copied = build_model(model.config, None)
    assert isinstance(copied, DLRM)
    place_on(copied.tables, "fp32", GPU)
    copied.load_state_dict(model.state_dict())
    return copied.to(GPU).eval()


def on_pinned_inputs(modules: EagerModules, call: Callable[..., Tensor]) -> Prepare:
    """Modules on features that wait in pinned memory, their ids in one tensor."""

    def prepare(batch: FeatureBatch) -> Callable[[], Tensor]:
        dense_BN, _, offsets = modules.arguments(batch)
        ids_FL = ids_by_table(batch, len(modules.bags))
        waiting = [tensor.contiguous().pin_memory() for tensor in (dense_BN, ids_FL, offsets)]

        def run() -> Tensor:
            dense_BN, ids_FL, offsets = (t.to(GPU, non_blocking=True) for t in waiting)
            return call(dense_BN, list(ids_FL), offsets).float().cpu()

        return run

    return prepare


def compare(name: str, candidates: dict[str, Prepare], batch: FeatureBatch) -> None:
    """All outputs against eager modules in fp32; compiles and records what has to be."""
    expected = candidates["eager_fp32"](batch)()
    for key, prepare in candidates.items():
        limit = TOLERANCES[key.rsplit("_", 1)[1]]
        run = prepare(batch)
        for _ in range(3):  # a compiled graph is recorded in its second run
            difference = float((run() - expected).abs().max())
            assert difference <= limit, f"{name} {key} differs by {difference}, limit {limit}"


def time_in_turns(
    candidates: dict[str, Prepare], pool: SideFeatures, items: int, rounds: int
) -> dict[str, np.ndarray]:
    """Wall microseconds of a call, the median of each turn; the order moves on by one."""
    calls_in_turn = max(3, 256 // items)
    times = {key: np.empty(rounds) for key in candidates}
    order, drawn = list(candidates), 0
    for number in range(rounds):
        for key in order[number % len(order) :] + order[: number % len(order)]:
            calls = []
            for _ in range(calls_in_turn + 1):
                calls.append(candidates[key](batch_of(pool, drawn, items)))
                drawn += 1
            calls.pop()()  # what the candidate before left in caches is not this one's to pay
            samples = []
            for call in calls:
                started = time.perf_counter_ns()
                call()
                samples.append((time.perf_counter_ns() - started) / 1e3)
            times[key][number] = np.median(samples)
    return times


def measure_send(model: DLRM, batch: FeatureBatch, repeats: int = 20) -> float:
    """Microseconds to pack a batch and have it on the GPU."""
    static = StaticBatch(model.config.spec, BatchShape.holding(batch), GPU)
    samples = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter_ns()
        static.send(batch)
        torch.cuda.synchronize()
        samples.append((time.perf_counter_ns() - started) / 1e3)
    return float(np.median(samples))


def measure_lookups(
    name: str,
    model: DLRM,
    pool: SideFeatures,
    batches: tuple[int, ...],
    copy_gb_per_s: float,
) -> dict[str, float]:
    """Lookups alone, of rows in every format."""
    metrics: dict[str, float] = {}
    dim = model.tables.embedding_dim
    for row_format in ROW_FORMATS:
        rows_VK = write_rows(model.tables.weight_VD.detach(), row_format).to(GPU)
        for items in batches:
            label = f"{name}.b{items}.{row_format}"
            microseconds = time_lookups(model, rows_VK, row_format, pool, items)
            num_bytes = batch_of(pool, 0, items).num_ids * row_bytes(row_format, dim)
            gb_per_s = num_bytes / microseconds / 1e3
            metrics[f"lookup_us.{label}"] = microseconds
            metrics[f"lookup_gb_per_s.{label}"] = gb_per_s
            metrics[f"hbm_fraction.{label}"] = gb_per_s / copy_gb_per_s
    return metrics


def sweep_tiles(name: str, model: DLRM, pool: SideFeatures) -> dict[str, float]:
    """Microseconds of lookups with other tiles than the default."""
    metrics: dict[str, float] = {}
    for row_format in ROW_FORMATS:
        rows_VK = write_rows(model.tables.weight_VD.detach(), row_format).to(GPU)
        for tile in product(SWEEP_IDS, SWEEP_WARPS):
            label = f"{name}.b{SWEEP_ITEMS}.{row_format}.tile_{tile[0]}x{tile[1]}"
            metrics[f"lookup_us.{label}"] = time_lookups(
                model, rows_VK, row_format, pool, SWEEP_ITEMS, tile
            )
    return metrics


def time_lookups(
    model: DLRM,
    rows_VK: Tensor,
    row_format: RowFormat,
    pool: SideFeatures,
    items: int,
    tile: tuple[int, int] | None = None,
) -> float:
    """Microseconds of the lookups of one batch, the median over runs of a graph of several."""
    from tailrank.kernels.triton_lookup import Tile, choose_tile, pooled_lookup

    tables, spec = model.tables, model.config.spec
    named = [spec.table(feature.table) for feature in spec.sparse("item")]
    ranges_F2 = torch.tensor([(tables.first_row[t.name], t.num_embeddings) for t in named]).to(GPU)
    chosen = (
        Tile(*tile)
        if tile
        else choose_tile(tables.embedding_dim, spec.ids_per_row("item") / len(named))
    )
    parts = [batch_of(pool, choice, items).item for choice in range(LOOKUPS_IN_GRAPH)]
    inputs = [(part.values_L.to(GPU), part.offsets.to(GPU)) for part in parts]
    out_GD = torch.empty(items * len(named), tables.embedding_dim, device=GPU)
    faults = torch.full((2,), cuda.NO_FAULT, device=GPU)

    def look_up_all() -> None:
        for ids_L, offsets in inputs:
            pooled_lookup(
                rows_VK, row_format, ranges_F2, ids_L, offsets, None, out_GD, faults, chosen
            )

    microseconds = time_graph(look_up_all) / len(inputs)
    assert faults.tolist() == [cuda.NO_FAULT] * 2, "every id is inside its table"
    return microseconds


def time_graph(run: Callable[[], None], repeats: int = 20) -> float:
    """Median microseconds of a recorded run, by the GPU's own clock."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return time_on_gpu(graph.replay, repeats)


def time_on_gpu(run: Callable[[], object], repeats: int) -> float:
    """Median microseconds, by the GPU's own clock, after two runs that do not count."""
    samples = []
    for number in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if number >= 2:
            samples.append(start.elapsed_time(end) * 1e3)
    return float(np.median(samples))


def measure_copy(num_bytes: int) -> float:
    """GB/s read and written by a copy between two blocks of this size."""
    source, target = (torch.empty(num_bytes, dtype=torch.uint8, device=GPU) for _ in range(2))
    return 2 * num_bytes / time_on_gpu(lambda: target.copy_(source), 10) / 1e3


if __name__ == "__main__":
    main()
