"""The native sparse step beside torch's and FBGEMM's, and beside the floor that memory sets.

A sparse step goes from the gradient of the pooled embeddings to the updated rows: 1,000,000 rows of
64 fp32 numbers (a quarter of them with `--quick`), a batch of 4096 bags of 20 ids, uniform or
Zipf's (exponent 1, over rows in random order). Candidates, each with a table of its own, take
turns; every step of each has ids and gradients of its own, drawn just before. One pinned core,
torch's allocator on huge pages for everyone, CPU time of the thread. Forward passes are not timed.

- native: `kernels.sparse_update.NativeUpdate`, the call from Python included; reference: the same
  in plain torch, `TorchUpdate`
- torch: `nn.EmbeddingBag(sparse=True)`, its backward pass and SGD, Adagrad or SparseAdam
- fbgemm: `SplitTableBatchedEmbeddingBagsCodegen`, whose backward pass updates; it has no Adam on
  the CPU. Listed as missing where it is not installed
- floor: one read of each cache line of the different rows, in rising order (`bare_gather` at its
  best distance), of weights and of state as large as they; nothing sorted, added up or written. As
  much has to be written, so that a step near twice the floor keeps memory busy all the time

Before anything is timed all must agree after three steps. Other work on the host takes memory
bandwidth and cache, so beside the medians stands the 10th percentile of each (`_p10`).

    python benchmarks/bench_sparse_step.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tailrank.core.measurement import Validity
from tailrank.kernels import huge_pages, native
from tailrank.kernels.sparse_reference import ADAGRAD_EPS, Bags, RowRule, TorchUpdate, new_state
from tailrank.kernels.sparse_update import NativeUpdate, SparseUpdate
from tailrank.reporting.result import Result, to_json, write_result

try:
    from peers import fbgemm_sparse
except ImportError:
    fbgemm_sparse = None

NUM_ROWS, QUICK_ROWS, DIM = 1_000_000, 250_000, 64
NUM_BAGS, BAG_IDS, LR = 4096, 20, 0.01
NUM_IDS = NUM_BAGS * BAG_IDS
SWEEP_BYTES = (2048, 4096, 8192, 16384, 32768)
FLOOR_DISTANCES = (16, 32, 64, 128)
# An element whose gradient is next to nothing moves by the whole rate in its first step under
# Adagrad and Adam, whatever rounding made of it.
DIFFERING_FRACTION_MAX = 1e-5
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"

Draw = Callable[[torch.Generator], Tensor]


class Candidate(Protocol):
    """One way to take the steps of one table."""

    def weight_VD(self) -> Tensor:
        """The table as it is now."""
        ...

    def prepare(self, ids_L: Tensor, offsets: Tensor, grad_GD: Tensor) -> Callable[[], object]:
        """What comes before the step; returns the step."""
        ...


class Ours:
    """The native step or the reference."""

    def __init__(self, weight_VD: Tensor, update: SparseUpdate) -> None:
        self._weight_VD, self._update = weight_VD, update

    def weight_VD(self) -> Tensor:
        """The table as it is now."""
        return self._weight_VD

    def prepare(self, ids_L: Tensor, offsets: Tensor, grad_GD: Tensor) -> Callable[[], object]:
        """Nothing comes before."""
        bags = Bags(ids_L, offsets, grad_GD)
        return lambda: self._update.read([bags]).update(LR)


class TorchSparse:
    """`nn.EmbeddingBag(sparse=True)` and torch's optimiser."""

    def __init__(self, rule: str, weight_VD: Tensor) -> None:
        self._bag = nn.EmbeddingBag.from_pretrained(
            copy_of(weight_VD), freeze=False, mode="sum", sparse=True, include_last_offset=True
        )
        kinds = {
            "sgd": torch.optim.SGD,
            "adagrad": torch.optim.Adagrad,
            "adam": torch.optim.SparseAdam,
        }
        self._optimizer = kinds[rule](self._bag.parameters(), lr=LR)

    def weight_VD(self) -> Tensor:
        """The table as it is now."""
        return self._bag.weight.detach()

    def prepare(self, ids_L: Tensor, offsets: Tensor, grad_GD: Tensor) -> Callable[[], object]:
        """The forward pass."""
        self._optimizer.zero_grad()
        pooled_GD = self._bag(ids_L, offsets)

        def step() -> None:
            pooled_GD.backward(grad_GD)
            self._optimizer.step()

        return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.environ.get(_HUGE_PAGES) != "1":  # torch reads it when it loads
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {_HUGE_PAGES: "1"})
    rounds, num_rows = (5, QUICK_ROWS) if arguments.quick else (61, NUM_ROWS)
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for ids, draw in (("uniform", uniform(num_rows)), ("zipf", zipf(num_rows))):
        for rule in get_args(RowRule):
            start_VD = huge_pages.empty(num_rows, DIM)
            start_VD.normal_(generator=torch.Generator().manual_seed(1))
            found, bounds = measure(f"sparse_step.{ids}.{rule}", rule, start_VD, draw, rounds)
            metrics |= found
            intervals |= bounds
    result = Result(
        command="bench_sparse_step",
        config={
            "num_rows": num_rows,
            "dim": DIM,
            "num_bags": NUM_BAGS,
            "bag_ids": BAG_IDS,
            "rounds": rounds,
            "core": core,
            "isa": native.runnable_isas()[0],
            "missing": [] if fbgemm_sparse else ["fbgemm-gpu-cpu"],
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
    name: str, rule: RowRule, start_VD: Tensor, draw: Draw, rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The comparison, the floor, and the sweep of the native step's distances."""
    candidates = candidates_for(rule, start_VD)
    agree(name, candidates, draw)
    times = in_turns(candidates, draw, rounds)
    del candidates
    times["floor"], num_different = floor(rule, start_VD, draw, rounds)
    metrics = {f"{name}.different_rows": num_different}
    for key, values in times.items():
        metrics[f"{name}.{key}_ms"] = float(np.median(values))
        metrics[f"{name}.{key}_ms_p10"] = float(np.percentile(values, 10))
    intervals = {}
    pairs = {
        f"{key}_over_native": (key, "native") for key in times if key not in ("native", "floor")
    }
    for key, (upper, lower) in (pairs | {"native_over_floor": ("native", "floor")}).items():
        ratios = times[upper] / times[lower]
        metrics[f"{name}.{key}"] = float(np.median(ratios))
        metrics[f"{name}.{key}_p10"] = (
            metrics[f"{name}.{upper}_ms_p10"] / metrics[f"{name}.{lower}_ms_p10"]
        )
        intervals[f"{name}.{key}"] = bootstrap_median(ratios)
    for distance, values in in_turns(sweep(rule, start_VD), draw, max(5, rounds // 3)).items():
        metrics[f"{name}.prefetch_{distance}_ms_p10"] = float(np.percentile(values, 10))
    return metrics, intervals


def candidates_for(rule: RowRule, start_VD: Tensor) -> dict[str, Candidate]:
    """All that know the rule, on copies of one table."""
    found: dict[str, Candidate] = {}
    for name, kind in (("native", NativeUpdate), ("reference", TorchUpdate)):
        weight_VD = copy_of(start_VD)
        found[name] = Ours(weight_VD, kind(rule, weight_VD, new_state(rule, weight_VD)))
    if rule in ("sgd", "adagrad", "adam"):
        found["torch"] = TorchSparse(rule, start_VD)
    if fbgemm_sparse is not None and rule in fbgemm_sparse.RULES:
        found["fbgemm"] = fbgemm_sparse.FbgemmStep(rule, start_VD, LR, ADAGRAD_EPS)
    return found


def sweep(rule: RowRule, start_VD: Tensor) -> dict[str, Candidate]:
    """The native step at each distance, all on one table."""
    state = new_state(rule, start_VD)
    return {
        str(distance): Ours(start_VD, NativeUpdate(rule, start_VD, state, prefetch_bytes=distance))
        for distance in SWEEP_BYTES
    }


def agree(name: str, candidates: dict[str, Candidate], draw: Draw) -> None:
    """Three steps of each on the same batches must end at the same table."""
    for candidate in candidates.values():
        generator = torch.Generator().manual_seed(2)
        for _ in range(3):
            candidate.prepare(*batch(draw, generator))()
    mine_VD = candidates["native"].weight_VD()
    for key, candidate in candidates.items():
        apart = (candidate.weight_VD() - mine_VD).abs() > 1e-4
        fraction = float(apart.float().mean())
        assert fraction <= DIFFERING_FRACTION_MAX, f"{name} {key}: {fraction:.2g} of numbers differ"


def in_turns(candidates: dict[str, Candidate], draw: Draw, rounds: int) -> dict[str, np.ndarray]:
    """CPU milliseconds of each step; the order moves on by one."""
    times = {key: np.empty(rounds) for key in candidates}
    generator, order = torch.Generator().manual_seed(0), list(candidates)
    for number in range(-1, rounds):  # round -1 warms up
        for key in order[number % len(order) :] + order[: number % len(order)]:
            step = candidates[key].prepare(*batch(draw, generator))
            started = time.thread_time_ns()
            step()
            if number >= 0:
                times[key][number] = (time.thread_time_ns() - started) / 1e6
    return times


def floor(rule: RowRule, start_VD: Tensor, draw: Draw, rounds: int) -> tuple[np.ndarray, float]:
    """Milliseconds to read what a step must, and the mean number of different rows of a batch."""
    # A sum for each row is so small that it stays in the cache: it counts nothing.
    state = [tensor for tensor in new_state(rule, start_VD).values() if tensor.dim() == 2]
    gather, counts = native.extension().bare_gather, []
    times = {distance: np.empty(rounds) for distance in FLOOR_DISTANCES}
    generator = torch.Generator().manual_seed(0)
    for number in range(-1, rounds):
        for distance, found in times.items():
            rows_K = torch.unique(draw(generator))
            started = time.thread_time_ns()
            for table in (start_VD, *state):
                gather(table.data_ptr(), 4 * DIM, rows_K.data_ptr(), len(rows_K), distance)
            if number >= 0:
                found[number] = (time.thread_time_ns() - started) / 1e6
            counts.append(len(rows_K))
    return min(times.values(), key=np.median), float(np.mean(counts))


def batch(draw: Draw, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, offsets and the gradient of the bags."""
    grad_GD = torch.randn(NUM_BAGS, DIM, generator=generator)
    return draw(generator), torch.arange(0, NUM_IDS + 1, BAG_IDS), grad_GD


def uniform(num_rows: int) -> Draw:
    return lambda generator: torch.randint(num_rows, (NUM_IDS,), generator=generator)


def zipf(num_rows: int) -> Draw:
    """Row of rank r drawn with probability in proportion to 1 / r, ranks in random order."""
    shares = (1.0 / torch.arange(1, num_rows + 1, dtype=torch.float64)).cumsum(0)
    row_of_rank = torch.randperm(num_rows, generator=torch.Generator().manual_seed(3))

    def draw(generator: torch.Generator) -> Tensor:
        points = torch.rand(NUM_IDS, dtype=torch.float64, generator=generator) * shares[-1]
        return row_of_rank[torch.searchsorted(shares, points).clamp_(max=num_rows - 1)]

    return draw


def copy_of(weight_VD: Tensor) -> Tensor:
    return huge_pages.empty(*weight_VD.shape).copy_(weight_VD)


def bootstrap_median(values: np.ndarray) -> list[float]:
    """95 % interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return [float(v) for v in np.percentile(np.median(draws, axis=1), [2.5, 97.5])]


if __name__ == "__main__":
    main()
