"""Reading Criteo: rows a second on one core beside a loop over lines, and memory by rows.

Both go from text to encoded batches of 2,048 with the same given vocabulary; first they must agree.
Rounds are interleaved in one process on one core, and the ratio of each round's times gives the
interval. `cpu.` marks rates by the processor's time instead of the clock's: they part where other
work runs on the core, and the result is then not valid. Beside them: fitting the vocabulary as
well, gzip, and batches once the rows are read. Memory is the peak of a fresh process that reads a
file, then takes its rows in order and shuffled; the larger files hold the rows of the first with
half of their fields taken from other rows.

    python benchmarks/bench_reading.py --data ../shared/data/criteo_kaggle/train.tsv [--quick]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from peers import line_loop
from tailrank.core.measurement import Validity
from tailrank.data.criteo import CriteoConfig, CriteoDataset
from tailrank.data.criteo_file import CriteoFile
from tailrank.data.dataset import SPLITS
from tailrank.data.vocabulary import FIRST_KNOWN_ID, Vocabulary
from tailrank.reporting.result import Result, to_json, write_result

BATCH_ITEMS, SEED = 2048, 0
FILE_ROWS = (100_000, 1_000_000, 10_000_000)
CHUNK_ROWS = 50_000
CORE_FRACTION_MIN = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Criteo TSV; without it, one of random rows")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # One core for all of it: neither torch nor NumPy may help with others.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    if arguments.memory_of:
        print(json.dumps(memory_of(*arguments.memory_of)))
        return
    rounds = 4 if arguments.quick else 15
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = arguments.data or write_random_log(folder / "random.tsv", 60_000)
        dataset = CriteoDataset(CriteoConfig(path=path))
        agreed = agree(path, dataset.vocabulary)
        metrics, intervals = compare(path, dataset, folder, rounds)
        dataset.vocabulary.save(folder / "vocabulary.safetensors")
        for rows in FILE_ROWS[: 1 if arguments.quick else None]:
            metrics |= peak_memory(path, folder, rows)
    result = Result(
        command="bench_reading",
        config={
            "data": str(arguments.data or "random rows"),
            "batch_items": BATCH_ITEMS,
            "num_known": sum(dataset.vocabulary.table_rows),
            "rounds": rounds,
            "cores": 1,
        },
        seed=SEED,
        metrics=metrics,
        intervals=intervals,
        validity=Validity(faults(agreed, metrics)),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def faults(agreed: bool, metrics: dict[str, float]) -> tuple[str, ...]:
    """Why the figures should not be believed."""
    reasons = () if agreed else ("rows_differ: from those of the line loop",)
    share = metrics["criteo.core_fraction"]
    if share < CORE_FRACTION_MIN:
        reasons += (f"core_shared: this process had {share:.0%} of its core, others the rest",)
    return reasons


def write_random_log(path: Path, rows: int) -> Path:
    """A file in the Criteo format with Zipf categories, where the real one is not at hand."""
    rng = np.random.default_rng(SEED)
    with path.open("w") as file:
        for _ in range(rows):
            integers = rng.integers(0, 1000, 13)
            categories = rng.zipf(1.3, 26) % 2**32
            fields = [str(rng.integers(2)), *map(str, integers), *(f"{c:08x}" for c in categories)]
            file.write("\t".join(fields) + "\n")
    return path


def loop_vocabulary(vocabulary: Vocabulary) -> list[dict[str, int]]:
    """The same map as dicts from the text of a category."""
    return [
        {f"{value:08x}": place + FIRST_KNOWN_ID for place, value in enumerate(known.tolist())}
        for known in vocabulary.known
    ]


def agree(path: Path, vocabulary: Vocabulary) -> bool:
    """Whether both readers give the same rows."""
    ours = CriteoDataset(CriteoConfig(path=path), vocabulary).batches(SPLITS, BATCH_ITEMS)
    theirs = line_loop.read(path, loop_vocabulary(vocabulary), BATCH_ITEMS)
    return all(
        torch.equal(labels.values_BT[:, 0], label_B)
        and torch.equal(batch.item.values_L.view(ids_BF.shape), ids_BF)
        and torch.allclose(batch.item.dense_RN, dense_BN, rtol=1e-6)
        for (batch, labels), (label_B, dense_BN, ids_BF) in zip(ours, theirs, strict=True)
    )


def compare(
    path: Path, dataset: CriteoDataset, folder: Path, rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Interleaved rounds of every way to read."""
    vocabulary, num_rows = dataset.vocabulary, dataset.num_rows(SPLITS)
    dicts = loop_vocabulary(vocabulary)
    packed = folder / "packed.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 6))

    def encoded(file: Path) -> Iterator[object]:
        return CriteoDataset(CriteoConfig(path=file), vocabulary).batches(SPLITS, BATCH_ITEMS)

    ways: dict[str, Callable[[], Iterator[object]]] = {
        "rows_per_s": lambda: encoded(path),
        "line_loop_rows_per_s": lambda: line_loop.read(path, dicts, BATCH_ITEMS),
        "fitted_rows_per_s": lambda: CriteoDataset(CriteoConfig(path=path)).batches(
            SPLITS, BATCH_ITEMS
        ),
        "gzip_rows_per_s": lambda: encoded(packed),
        "parsed_rows_per_s": lambda: CriteoFile(path).blocks(),
        "batched_rows_per_s": lambda: dataset.batches(SPLITS, BATCH_ITEMS),
        "shuffled_rows_per_s": lambda: dataset.batches(SPLITS, BATCH_ITEMS, shuffle_seed=SEED),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        for name, way in ways.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            for _ in way():
                pass
            seconds[name].append(time.perf_counter() - started)
            seconds[f"cpu.{name}"].append(time.process_time() - started_cpu)
    share = (time.process_time() - began_cpu) / (time.perf_counter() - began)
    metrics = {f"criteo.{n}": num_rows / float(np.median(s)) for n, s in seconds.items()}
    metrics |= {f"criteo.{n}_best": num_rows / min(s) for n, s in seconds.items()}
    ratio = np.array(seconds["line_loop_rows_per_s"]) / np.array(seconds["rows_per_s"])
    metrics |= {"criteo.speedup": float(np.median(ratio)), "criteo.core_fraction": share}
    intervals = {
        "criteo.rows_per_s": bootstrap_median(num_rows / np.array(seconds["rows_per_s"])),
        "criteo.speedup": bootstrap_median(ratio),
    }
    return metrics, intervals


def bootstrap_median(values: np.ndarray) -> list[float]:
    """95 % interval of the median."""
    draws = np.random.default_rng(SEED).choice(values, (2000, len(values)))
    return [float(v) for v in np.percentile(np.median(draws, axis=1), [2.5, 97.5])]


def peak_memory(path: Path, folder: Path, num_rows: int) -> dict[str, float]:
    """Peaks of fresh processes that read so many rows, vocabulary given and fitted."""
    log = write_resampled(path, folder / "resampled.tsv", num_rows)
    metrics = {}
    for name, vocabulary in (("", folder / "vocabulary.safetensors"), (".fitted", folder)):
        command = [sys.executable, __file__, "--memory-of", str(log), str(vocabulary)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        for kind, value in json.loads(done.stdout).items():
            metrics[f"criteo{name}.{kind}_rows_{num_rows}"] = value
    log.unlink()
    return metrics


def write_resampled(path: Path, target: Path, num_rows: int) -> Path:
    """Rows of a file drawn with replacement; half of the fields come from other rows."""
    rng = np.random.default_rng(num_rows)
    lines = path.read_bytes().splitlines()
    columns = np.array([line.split(b"\t") for line in lines], dtype=object).T
    with target.open("wb") as file:
        for first in range(0, num_rows, CHUNK_ROWS):
            rows = min(CHUNK_ROWS, num_rows - first)
            row = rng.integers(0, len(lines), rows)
            picked = [
                column[np.where(rng.random(rows) < 0.5, row, rng.integers(0, len(lines), rows))]
                for column in columns
            ]
            file.writelines(b"\t".join(fields) + b"\n" for fields in zip(*picked, strict=True))
    return target


def memory_of(path: Path, vocabulary: Path) -> dict[str, float]:
    """Memory of this process in MB after imports, and while it reads; see `peak_memory`."""
    before = status_mb()
    known = Vocabulary.load(vocabulary) if vocabulary.is_file() else None
    dataset = CriteoDataset(CriteoConfig(path=path, scratch=path.parent), known)
    resident = [status_mb()]
    for seed in (None, SEED):
        batches = dataset.batches(SPLITS, BATCH_ITEMS, shuffle_seed=seed)
        for number, _ in enumerate(batches):
            if number % 50 == 0:
                resident.append(status_mb())
    return {
        "imports_rss_mb": before["VmRSS"],
        "peak_rss_mb": status_mb()["VmHWM"],
        "peak_anonymous_mb": max(now["RssAnon"] for now in resident),
        "peak_mapped_mb": max(now["RssFile"] for now in resident),
    }


def status_mb() -> dict[str, float]:
    """What the kernel says of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(text.split()[0]) / 1024 for name, text in pairs if text.endswith("kB")}


if __name__ == "__main__":
    main()
