"""The native pooled lookup beside `F.embedding_bag` and beside the floor that memory sets.

Shapes of DLRM-RMC1 (8 tables x 80 ids x dim 32) and RMC2 (32 x 120 x 64) with tables of 1 and 2 GB
in fp32, on huge pages for everyone, uniform ids, 64 rows a call, one pinned core. Every call of
every candidate reads ids of its own, drawn just before: no one finds another's rows in the cache.
Candidates take turns; times are CPU time of the thread. Other work on the host still takes memory
bandwidth and cache, so beside the medians stands the 10th percentile of each (`_p10`), what the
machine does when it is left alone, and the ratios of those (`_p10`).

The floor is `bare_gather`: one read of each cache line of the same number of rows of the same size,
nothing checked and nothing added up, at its own best prefetch distance of a fixed sweep. The same
sweep chooses the kernel's distance (`kernels.lookup.PREFETCH_ROWS`).

    python benchmarks/bench_lookup.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.core.measurement import Validity
from tailrank.inference.arena import Arena
from tailrank.kernels import native
from tailrank.kernels.lookup import LookupConfig, PooledLookup
from tailrank.kernels.row_formats import RowFormat, read_rows
from tailrank.reporting.result import Result, to_json, write_result

ROWS_PER_CALL = 64
DISTANCES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
FORMATS: tuple[RowFormat, ...] = ("fp32", "bf16", "fp16", "int8", "int4")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Relative to the largest output: torch keeps bf16 and fp16 sums in that format.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3, "int8": 1e-5, "int4": 1e-5}

# Ids in, a call on them out: what is made ready before the call is not timed.
Candidate = Callable[[Tensor], Callable[[], object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Tables of one model: F tables of V rows, D columns, and P ids a bag."""

    num_tables: int
    bag_ids: int
    dim: int
    table_rows: int

    @property
    def num_ids(self) -> int:
        """Ids of a call."""
        return ROWS_PER_CALL * self.num_tables * self.bag_ids


SHAPES = {
    "rmc1": Shape(num_tables=8, bag_ids=80, dim=32, table_rows=1_000_000),
    "rmc2": Shape(num_tables=32, bag_ids=120, dim=64, table_rows=250_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds, scale = (10, 8) if arguments.quick else (151, 1)
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    with torch.inference_mode():
        for model, shape in SHAPES.items():
            for row_format in FORMATS:
                small = Shape(
                    num_tables=shape.num_tables,
                    bag_ids=shape.bag_ids,
                    dim=shape.dim,
                    table_rows=shape.table_rows // scale,
                )
                found, bounds = measure(f"{model}.{row_format}", small, row_format, rounds)
                metrics |= found
                intervals |= bounds
    metrics |= headline(metrics)
    result = Result(
        command="bench_lookup",
        config={
            "shapes": SHAPES,
            "rows_per_call": ROWS_PER_CALL,
            "table_rows_divided_by": scale,
            "rounds": rounds,
            "core": core,
            "isa": native.runnable_isas()[0],
        },
        seed=0,
        metrics=metrics,
        intervals=intervals,
        validity=Validity(),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def measure(
    name: str, shape: Shape, row_format: RowFormat, rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The sweep of distances, then the comparison at the kernel's own and the floor's best."""
    rows_VK = random_rows(shape, row_format)
    sweep = {f"native_{d}": native_lookup(rows_VK, shape, row_format, d) for d in DISTANCES}
    floors = {f"floor_{d}": floor(rows_VK, shape, d) for d in DISTANCES}
    others: dict[str, Candidate] = {
        "avx2": native_lookup(rows_VK, shape, row_format, isa="avx2"),
        "portable": native_lookup(rows_VK, shape, row_format, isa="portable"),
    }
    swept = {
        key: float(np.percentile(times, 10))
        for key, times in time_in_turns(sweep | floors | others, shape, rounds // 5).items()
    }
    lowest = min(floors, key=swept.__getitem__)
    lookups = {
        "native": native_lookup(rows_VK, shape, row_format),
        "torch": torch_lookup(rows_VK, shape, row_format),
    }
    compare(name, lookups | others, rows_VK, shape, row_format)
    times = time_in_turns(lookups | {"floor": floors[lowest]}, shape, rounds)
    ratios = {
        "over_floor": times["native"] / times["floor"],
        "torch_over_native": times["torch"] / times["native"],
    }
    metrics = {f"{name}.{key}_ns_per_row_p10": value for key, value in swept.items()}
    for key, values in times.items():
        metrics[f"{name}.{key}_ns_per_row"] = float(np.median(values))
        metrics[f"{name}.{key}_ns_per_row_p10"] = float(np.percentile(values, 10))
    row_bytes = rows_VK.stride(0) * rows_VK.element_size()
    metrics[f"{name}.native_gb_per_s"] = row_bytes / metrics[f"{name}.native_ns_per_row"]
    intervals = {}
    for key, (upper, lower) in {
        "over_floor": ("native", "floor"),
        "torch_over_native": ("torch", "native"),
    }.items():
        ratios = times[upper] / times[lower]
        metrics[f"{name}.{key}"] = float(np.median(ratios))
        intervals[f"{name}.{key}"] = bootstrap_median(ratios)
        quiet = [metrics[f"{name}.{which}_ns_per_row_p10"] for which in (upper, lower)]
        metrics[f"{name}.{key}_p10"] = quiet[0] / quiet[1]
    return metrics, intervals


def time_in_turns(
    candidates: dict[str, Candidate], shape: Shape, rounds: int
) -> dict[str, np.ndarray]:
    """CPU nanoseconds per row of each call, ids drawn anew for each; the order moves on by one."""
    times = {key: np.empty(rounds) for key in candidates}
    generator = torch.Generator().manual_seed(0)
    order = list(candidates)
    for number in range(-1, rounds):  # round -1 warms up
        for key in order[number % len(order) :] + order[: number % len(order)]:
            call = candidates[key](random_ids(shape, generator))
            started = time.thread_time_ns()
            call()
            if number >= 0:
                times[key][number] = (time.thread_time_ns() - started) / shape.num_ids
    return times


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The figures with targets: over the floor in fp32, over torch as the mean of both models."""
    found = {}
    for suffix in ("", "_p10"):
        for model in SHAPES:
            value = metrics[f"{model}.fp32.over_floor{suffix}"]
            found[f"lookup_over_floor.{model}{suffix}"] = value
        for row_format in FORMATS:
            speedups = [metrics[f"{m}.{row_format}.torch_over_native{suffix}"] for m in SHAPES]
            mean = float(np.exp(np.mean(np.log(speedups))))
            found[f"lookup_over_torch.{row_format}{suffix}"] = mean
    return found


def random_rows(shape: Shape, row_format: RowFormat) -> Tensor:
    """All tables one after the other on huge pages."""
    num_rows, dim = shape.num_tables * shape.table_rows, shape.dim
    generator = torch.Generator().manual_seed(1)
    if row_format in DTYPES:
        return Arena((num_rows, dim), DTYPES[row_format]).tensor.normal_(generator=generator)
    code_bytes, number = (dim, torch.float32) if row_format == "int8" else (dim // 2, torch.float16)
    rows_VK = Arena((num_rows, code_bytes + 2 * number.itemsize), torch.uint8).tensor
    rows_VK.random_(0, 256, generator=generator)
    scale_bias = torch.rand(num_rows, 2, generator=generator).to(number)
    rows_VK[:, code_bytes:] = scale_bias.view(torch.uint8)
    return rows_VK


def random_ids(shape: Shape, generator: torch.Generator) -> Tensor:
    """Uniform ids of one call; each is valid in every table."""
    return torch.randint(shape.table_rows, (shape.num_ids,), generator=generator)


def offsets_of(shape: Shape) -> Tensor:
    """Equal bags."""
    return torch.arange(0, shape.num_ids + 1, shape.bag_ids)


def merged(ids_L: Tensor, shape: Shape) -> Tensor:
    """The ids as rows of all tables together, which the others want."""
    first_F = torch.arange(shape.num_tables) * shape.table_rows
    return (ids_L.view(-1, shape.num_tables, shape.bag_ids) + first_F.unsqueeze(1)).flatten()


def native_lookup(
    rows_VK: Tensor,
    shape: Shape,
    row_format: RowFormat,
    distance: int | None = None,
    isa: native.IsaName | None = None,
) -> Candidate:
    chosen = LookupConfig().prefetch_rows if distance is None else distance
    config = LookupConfig(row_format=row_format, isa=isa, prefetch_rows=chosen)
    lookup = PooledLookup(rows_VK.split(shape.table_rows), shape.dim, config)
    offsets = offsets_of(shape)
    out_RW = torch.empty(ROWS_PER_CALL, shape.num_tables * shape.dim)
    return lambda ids_L: lambda: lookup(ids_L, offsets, out_RW=out_RW)


def torch_lookup(rows_VK: Tensor, shape: Shape, row_format: RowFormat) -> Candidate:
    offsets = offsets_of(shape)
    if row_format in DTYPES:

        def prepare(ids_L: Tensor) -> Callable[[], Tensor]:
            ids_L = merged(ids_L, shape)
            return lambda: F.embedding_bag(
                ids_L, rows_VK, offsets, mode="sum", include_last_offset=True
            )

        return prepare
    bits = {"int8": "byte", "int4": "4bit"}[row_format]
    op = getattr(torch.ops.quantized, f"embedding_bag_{bits}_rowwise_offsets")

    def prepare_quantized(ids_L: Tensor) -> Callable[[], Tensor]:
        ids_L = merged(ids_L, shape)
        return lambda: op(rows_VK, ids_L, offsets, include_last_offset=True)

    return prepare_quantized


def floor(rows_VK: Tensor, shape: Shape, distance: int) -> Candidate:
    gather, address = native.extension().bare_gather, rows_VK.data_ptr()
    row_bytes = rows_VK.stride(0) * rows_VK.element_size()

    def prepare(ids_L: Tensor) -> Callable[[], Tensor]:
        ids_L = merged(ids_L, shape)
        return lambda: gather(address, row_bytes, ids_L.data_ptr(), ids_L.numel(), distance)

    return prepare


def compare(
    name: str,
    candidates: dict[str, Candidate],
    rows_VK: Tensor,
    shape: Shape,
    row_format: RowFormat,
) -> None:
    """Every candidate's output against plain arithmetic on the first bag; torch on all bags."""
    ids_L = random_ids(shape, torch.Generator().manual_seed(2))
    first_bag = read_rows(rows_VK[ids_L[: shape.bag_ids]], row_format, shape.dim).sum(0)
    outputs = {key: prepare(ids_L)() for key, prepare in candidates.items()}
    theirs = outputs["torch"].float().view(ROWS_PER_CALL, -1)
    for key, output in outputs.items():
        mine = output.float().view(ROWS_PER_CALL, -1)
        limit = TOLERANCE[row_format] * float(theirs.abs().max())
        for got, expected in ((mine, theirs), (mine[0, : shape.dim], first_bag)):
            difference = float((got - expected).abs().max())
            assert difference <= limit, f"{name} {key} differs by {difference}, limit {limit}"


def bootstrap_median(values: np.ndarray) -> list[float]:
    """95 % interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return [float(v) for v in np.percentile(np.median(draws, axis=1), [2.5, 97.5])]


if __name__ == "__main__":
    main()
