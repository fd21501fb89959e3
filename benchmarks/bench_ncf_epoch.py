"""An epoch of NeuMF: our loop beside plain `nn.Embedding` with dense Adam, as people write it.

MovieLens-1M in the NCF authors' split, 994,169 positives with 4 negatives each, 32 factors, batch
1,024, Adam at the same rate, negatives drawn within the time. Slices of a pass are interleaved in
one process on one thread; the ratio of each pair of slices gives the interval. Both must have
learned as much after as many rows: their losses over the last slices may differ by a hundredth of
a nat. Without the data, random positives of the same number stand in.

    python benchmarks/bench_ncf_epoch.py --data ../shared/data/ncf_ml1m [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import torch

from peers import ncf_style
from tailrank.core.measurement import Validity
from tailrank.data.ncf import NCFDataConfig, NCFDataset
from tailrank.data.ncf_file import read_ncf
from tailrank.models.registry import build_model, config_for
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep

FACTORS, NUM_NEGATIVES, BATCH_ITEMS, LR = 32, 4, 1024, 0.001
SHARED = Path(__file__).resolve().parents[2] / "shared/data/ncf_ml1m"
LOSS_TOLERANCE = 0.01
Steps = Callable[[int], list[float]]
"""Trains so many steps on, and gives their losses."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED, help="default: MovieLens-1M")
    parser.add_argument("--quick", action="store_true", help="a tenth of a pass")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    slices, steps = (8, 60) if arguments.quick else (40, 121)  # 40 x 121 steps are one pass
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.data if arguments.data.is_dir() else write_random(Path(folder))
        sides = {"ours": ours(path), "plain": plain(path)}
        seconds, losses = interleave(sides, slices, steps)
    metrics, intervals = summarise(seconds, steps)
    difference = abs(
        float(np.mean(losses["ours"][-steps:])) - float(np.mean(losses["plain"][-steps:]))
    )
    metrics["ncf.epoch.loss_difference"] = difference
    reasons = ()
    if not difference <= LOSS_TOLERANCE:
        reasons = (f"losses_differ: by {difference:.2g}, more than {LOSS_TOLERANCE}",)
    result = Result(
        command="bench_ncf_epoch",
        config={
            "data": arguments.data.name if arguments.data.is_dir() else "random positives",
            "factors": FACTORS,
            "num_negatives": NUM_NEGATIVES,
            "batch_items": BATCH_ITEMS,
            "lr": LR,
            "slices": slices,
            "steps_per_slice": steps,
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


def ours(path: Path) -> Steps:
    """The package's data set and step."""
    dataset = NCFDataset(
        NCFDataConfig(path=path, embedding_dim=3 * FACTORS, num_negatives=NUM_NEGATIVES)
    )
    config = TrainingConfig(
        batch_items=BATCH_ITEMS, lr=LR, dense_optimizer="adam", table_optimizer="adam"
    )
    step = TrainStep(build_model(config_for("ncf", dataset.spec, {}), 0), config)
    passes = (
        dataset.batches(("train", "validation"), BATCH_ITEMS, shuffle_seed=epoch)
        for epoch in count()
    )
    batches = chain.from_iterable(passes)

    def train(steps: int) -> list[float]:
        return [step(batch, labels) for batch, labels in islice(batches, steps)]

    return train


def plain(path: Path) -> Steps:
    """The other style; a slice's negatives are drawn with the slice."""
    rows = read_ncf(path)
    counts = rows.num_users, rows.num_items
    source = ncf_style.Rows(rows.user_B, rows.item_B, *counts, NUM_NEGATIVES)
    torch.manual_seed(0)
    model = ncf_style.NeuMFStyle(*counts, FACTORS)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    seed = 0

    def train(steps: int) -> list[float]:
        nonlocal seed
        seed += 1
        positives = -(-steps * BATCH_ITEMS // (1 + NUM_NEGATIVES))
        batches = source.batches(BATCH_ITEMS, seed, positives)
        return [ncf_style.train_step(model, optimizer, b) for b in islice(batches, steps)]

    return train


def interleave(
    sides: dict[str, Steps], slices: int, steps: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each slice and loss of each step, by side; a first slice of each is warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 + slices):
        order = list(sides) if number % 2 else list(reversed(sides))
        for name in order:
            started = time.perf_counter()
            losses[name] += sides[name](steps)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds, losses


def summarise(
    seconds: dict[str, list[float]], steps: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Time of an epoch on either side, and how many times as fast ours is, with its interval."""
    epoch_rows, slice_rows = 994_169 * (1 + NUM_NEGATIVES), steps * BATCH_ITEMS
    mine, other = (np.array(seconds[name]) for name in ("ours", "plain"))
    metrics = {
        f"ncf.epoch.{name}_s": float(np.median(values)) * epoch_rows / slice_rows
        for name, values in (("ours", mine), ("plain", other))
    }
    metrics["ncf.epoch.rows_per_s"] = slice_rows / float(np.median(mine))
    ratio = other / mine
    rng = np.random.default_rng(0)
    drawn = np.median(ratio[rng.integers(len(ratio), size=(2000, len(ratio)))], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    metrics["ncf.epoch.speedup"] = float(np.median(ratio))
    return metrics, {"ncf.epoch.speedup": (float(low), float(high))}


def write_random(folder: Path) -> Path:
    """Files of as many users, items and positives, where the real ones are not at hand."""
    rng, num_users, num_items = np.random.default_rng(0), 6_040, 3_706
    key = np.unique(rng.integers(num_users * num_items, size=1_030_000))
    user, item = (
        np.r_[key // num_items, np.arange(num_users)],
        np.r_[key % num_items, [0] * num_users],
    )
    keep = np.r_[key % num_items > 1, np.ones(num_users, dtype=bool)]  # 0 is tested, 1 negative
    user, item = user[keep], item[keep]
    train = zip(user[:-num_users].tolist(), item[:-num_users].tolist(), strict=True)
    (folder / "r.train.rating").write_text("".join(f"{u}\t{i}\t5\t0\n" for u, i in train))
    users = range(num_users)
    (folder / "r.test.rating").write_text("".join(f"{u}\t0\t5\t0\n" for u in users))
    (folder / "r.test.negative").write_text("".join(f"({u},0)\t1\n" for u in users))
    return folder


if __name__ == "__main__":
    main()
