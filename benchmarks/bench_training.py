"""Training speed: our loop beside one written the way facebookresearch/dlrm writes it.

Both train the same DLRM (dim 16, bottom 13-512-256-64-16, top 512-256-1, dot, fp32) on the same
encoded Criteo rows, reading included, batch 2048, row-wise Adagrad. Rounds are interleaved in one
process; the ratio of each round's step times gives the interval. First both start from the same
weights and must see the same losses. Then: a step's time by the rows of the tables, and the floor
that the machine sets for the dense arithmetic.

    python benchmarks/bench_training.py --data ../shared/data/criteo_kaggle/train.tsv [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from peers import dlrm_style
from tailrank.core.measurement import Validity
from tailrank.data.criteo import CriteoConfig, CriteoDataset
from tailrank.data.dataset import all_item_batch
from tailrank.features import Feature, FeatureSpec, Labels, TableSpec
from tailrank.models import build_model
from tailrank.models.dlrm import DLRM, DLRMConfig
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep

DIM, BATCH_ITEMS, LR = 16, 2048, 0.01
BOTTOM, TOP = (512, 256, 64, DIM), (512, 256, 1)
TABLE_ROWS = (100_000, 1_000_000, 10_000_000)
# Adagrad's first steps move a weight by the whole rate whatever the size of its gradient, so the
# sign of a rounding error counts in full. At this rate it does not reach the losses.
CHECK_LR, LOSS_TOLERANCE = 1e-4, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Criteo TSV; without it, one of random rows")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds, steps = (6, 6) if arguments.quick else (20, 15)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.data or write_random_log(Path(folder) / "random.tsv", 60_000)
        dataset = CriteoDataset(CriteoConfig(path=path, min_count=2, embedding_dim=DIM))
        losses = loss_difference(dataset)
        metrics, intervals = compare(dataset, rounds, steps)
    metrics["training.loss_difference_max"] = losses
    metrics |= by_table_rows(rounds // 2, steps)
    metrics |= floor(metrics["training.step_ms"])
    reasons = ()
    if not losses <= LOSS_TOLERANCE:
        reasons = (f"losses_differ: by {losses:.2g}, more than {LOSS_TOLERANCE}",)
    result = Result(
        command="bench_training",
        config={
            "data": str(arguments.data or "random rows"),
            "batch_items": BATCH_ITEMS,
            "bottom_mlp": BOTTOM,
            "top_mlp": TOP,
            "table_rows": dataset.vocabulary.table_rows,
            "rounds": rounds,
            "steps_per_round": steps,
            "threads": torch.get_num_threads(),
        },
        seed=0,
        metrics=metrics,
        intervals=intervals,
        validity=Validity(reasons),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def write_random_log(path: Path, rows: int) -> Path:
    """A file in the Criteo format with Zipf categories, where the real one is not at hand."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(rows):
            integers = rng.integers(0, 1000, 13)
            categories = rng.zipf(1.3, 26) % 2**32
            fields = [str(rng.integers(2)), *map(str, integers), *(f"{c:08x}" for c in categories)]
            file.write("\t".join(fields) + "\n")
    return path


def new_model(dataset: CriteoDataset) -> DLRM:
    return build_model(DLRMConfig(spec=dataset.spec, bottom_mlp=BOTTOM, top_mlp=TOP), 0)


def ours(dataset: CriteoDataset, lr: float = LR) -> Iterator[float]:
    """One loss per step, for ever."""
    step = TrainStep(new_model(dataset), TrainingConfig(lr=lr))
    while True:
        for batch, labels in dataset.batches(("train",), BATCH_ITEMS):
            if batch.num_items == BATCH_ITEMS:
                yield step(batch, labels)


def theirs(dataset: CriteoDataset, lr: float = LR) -> Iterator[float]:
    """The same in the other style, from the same weights."""
    model = dlrm_style.DLRMStyle(dataset.vocabulary.table_rows, DIM, (13, *BOTTOM), TOP)
    copy_weights(new_model(dataset), model)
    groups = [{"params": list(model.parameters())}]
    optimizer, loss = dlrm_style.RowWiseAdagrad(groups, lr), torch.nn.BCELoss()
    rows = preprocessed(dataset)
    while True:
        for batch in dlrm_style.read(rows, BATCH_ITEMS):
            if len(batch[-1]) == BATCH_ITEMS:
                yield dlrm_style.train_step(model, optimizer, loss, batch)


def preprocessed(dataset: CriteoDataset) -> dlrm_style.PreprocessedRows:
    """The training rows as the other style keeps them: raw integers, ids, labels in memory."""
    parts = []
    for batch, labels in dataset.batches(("train",), 8192):
        integers = np.expm1(batch.item.dense_RN.numpy().astype(np.float64)).round()
        ids = batch.item.values_L.view(batch.num_items, -1).numpy()
        parts.append((integers.astype(np.int32), ids.astype(np.int32), labels.values_BT.numpy()))
    integers, ids, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dlrm_style.PreprocessedRows(integers, ids, values[:, 0].astype(np.int32))


def copy_weights(source: DLRM, target: dlrm_style.DLRMStyle) -> None:
    """Give the other network our initial weights."""
    with torch.no_grad():
        sizes = [len(table.weight) for table in target.tables]
        for table, rows in zip(target.tables, source.tables.weight_VD.split(sizes), strict=True):
            table.weight.copy_(rows)
        for mine, other in ((source.bottom, target.bottom), (source.top, target.top)):
            for p, q in zip(mine.parameters(), other.parameters(), strict=True):
                q.copy_(p)


def loss_difference(dataset: CriteoDataset) -> float:
    """Largest difference between the losses of the first 20 steps."""
    pairs = zip(range(20), ours(dataset, CHECK_LR), theirs(dataset, CHECK_LR), strict=False)
    return max(abs(mine - other) for _, mine, other in pairs)


def compare(
    dataset: CriteoDataset, rounds: int, steps: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Interleaved rounds of both loops, and of reading alone."""
    loops = [ours(dataset), theirs(dataset)]
    rows = preprocessed(dataset)
    reads = [
        endless(lambda: dataset.batches(("train",), BATCH_ITEMS)),
        endless(lambda: dlrm_style.read(rows, BATCH_ITEMS)),
    ]
    for loop in loops:
        step_times(loop, 5)
    times = np.empty((rounds, 2))
    read_times = np.empty((rounds, 2))
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            times[number, which] = np.median(step_times(loops[which], steps))
            read_times[number, which] = np.median(step_times(reads[which], steps))
    ratio, bare = times[:, 1] / times[:, 0], times - read_times
    step_ms, other_ms = np.median(times, axis=0)
    metrics = {
        "training.step_ms": step_ms,
        "training.samples_per_s": BATCH_ITEMS / step_ms * 1e3,
        "training.read_ms": np.median(read_times[:, 0]),
        "training.dlrm_style.step_ms": other_ms,
        "training.dlrm_style.samples_per_s": BATCH_ITEMS / other_ms * 1e3,
        "training.dlrm_style.read_ms": np.median(read_times[:, 1]),
        "training.ratio_to_dlrm_style": np.median(ratio),
        "training.ratio_to_dlrm_style_without_reading": np.median(bare[:, 1] / bare[:, 0]),
    }
    intervals = {
        "training.ratio_to_dlrm_style": bootstrap_median(ratio),
        "training.ratio_to_dlrm_style_without_reading": bootstrap_median(bare[:, 1] / bare[:, 0]),
    }
    return {name: float(value) for name, value in metrics.items()}, intervals


def endless(open_rows: Callable[[], Iterator[object]]) -> Iterator[object]:
    while True:
        yield from open_rows()


def step_times(loop: Iterator[object], steps: int) -> list[float]:
    """Milliseconds of each of the next steps."""
    times = []
    for _ in range(steps):
        started = time.perf_counter_ns()
        next(loop)
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def bootstrap_median(values: np.ndarray) -> list[float]:
    """95 % interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return [float(v) for v in np.percentile(np.median(draws, axis=1), [2.5, 97.5])]


def by_table_rows(rounds: int, steps: int) -> dict[str, float]:
    """Step time for 26 tables of so many rows in all, uniform ids: the worst case for caches."""
    loops = {rows: uniform_loop(rows) for rows in TABLE_ROWS}
    times: dict[int, list[float]] = {rows: [] for rows in TABLE_ROWS}
    for loop in loops.values():
        step_times(loop, 3)
    for _ in range(max(2, rounds)):
        for rows, loop in loops.items():
            times[rows].append(float(np.median(step_times(loop, steps))))
    medians = {rows: float(np.median(values)) for rows, values in times.items()}
    metrics = {f"training.step_ms_table_rows_{rows}": value for rows, value in medians.items()}
    growth = np.array(times[TABLE_ROWS[-1]]) / np.array(times[TABLE_ROWS[0]])
    return metrics | {"training.step_time_growth": float(np.median(growth))}


def uniform_loop(total_rows: int) -> Iterator[float]:
    """Training steps on random ids."""
    rows = total_rows // 26
    names = [f"table_{index}" for index in range(26)]
    spec = FeatureSpec(
        features=(
            Feature(name="dense", side="item", kind="dense", width=13),
            *(Feature(name=name, side="item", kind="bag", table=name) for name in names),
        ),
        tables=tuple(
            TableSpec(name=name, num_embeddings=rows, embedding_dim=DIM) for name in names
        ),
    )
    step = TrainStep(
        build_model(DLRMConfig(spec=spec, bottom_mlp=BOTTOM, top_mlp=TOP), 0),
        TrainingConfig(lr=LR),
    )
    generator = torch.Generator().manual_seed(0)
    labels = Labels(values_BT=torch.randint(0, 2, (BATCH_ITEMS, 1), generator=generator).float())
    dense = torch.rand(BATCH_ITEMS, 13, generator=generator)
    while True:
        ids = torch.randint(0, rows, (BATCH_ITEMS, 26), generator=generator)
        yield step(all_item_batch(dense, ids), labels)


def floor(step_ms: float) -> dict[str, float]:
    """What the dense arithmetic of a step costs at the speed of a large matrix product here."""
    widths = [(13, *BOTTOM), (DIM + 27 * 26 // 2, *TOP)]
    layers = [(n, m) for w in widths for n, m in pairwise(w)]
    # Forward, weight gradient, input gradient; the dense features need no gradient.
    products = sum(3 * n * m for n, m in layers) - layers[0][0] * layers[0][1]
    products += 2 * 27 * 27 * DIM  # interaction: one batched product each way
    gflop = 2e-9 * BATCH_ITEMS * products
    a, b = torch.rand(2048, 1024), torch.rand(1024, 1024)
    best_ms = min(step_times(endless(lambda: iter([torch.mm(a, b)])), 30))
    peak = 2e-9 * 2048 * 1024 * 1024 / (best_ms / 1e3)
    return {
        "training.dense_gflop_per_step": gflop,
        "training.peak_gflop_per_s": peak,
        "training.floor_ms": gflop / peak * 1e3,
        "training.floor_fraction": gflop / peak * 1e3 / step_ms,
    }


if __name__ == "__main__":
    main()
