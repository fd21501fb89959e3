"""How long `inference.load` takes for an artifact in the page cache, hashed.

In turns: `load` itself, ready to score; its floor, the same bytes read into one small buffer and
hashed; and two passes, as a hash of the file and a copy out of safetensors' map of it, without a
ranker. Loading hashes in a second thread, the others have one.

    python benchmarks/bench_loading.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from tailrank.core.measurement import Validity
from tailrank.inference import load
from tailrank.inference.arena import Arena
from tailrank.inference.artifact import TABLES_FILE, save_artifact
from tailrank.models import build_model
from tailrank.models.presets import load_preset
from tailrank.reporting.result import Result, to_json, write_result

PRESET, SCALE = "dlrm-rmc1", 1.0  # 4.1 GB of tables in fp32
BLOCK_BYTES = 1 << 20
COPIED_ROWS = 1 << 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds, scale = (3, 0.05 * SCALE) if arguments.quick else (7, SCALE)
    torch.set_num_threads(1)
    huge_page_refusals: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        save_artifact(path, build_model(load_preset(PRESET, scale=scale), seed=0), training={})
        os.sync()  # what is still to be written would disturb

        def whole() -> None:
            ranker, _ = load(path)
            huge_page_refusals.append(ranker.describe()["huge_page_refusal"])

        candidates: dict[str, Callable[[], None]] = {
            "load": whole,
            "floor": lambda: read_and_hash(path / TABLES_FILE),
            "two_passes": lambda: hash_and_copy(path / TABLES_FILE),
        }
        seconds = time_in_turns(candidates, rounds)
        num_bytes = (path / TABLES_FILE).stat().st_size
    metrics = {f"{key}_seconds": float(np.median(values)) for key, values in seconds.items()}
    metrics |= {
        "load_gb_per_s": num_bytes / metrics["load_seconds"] / 1e9,
        "load_over_floor": float(np.median(seconds["load"] / seconds["floor"])),
        "load_seconds_max": float(seconds["load"].max()),
    }
    result = Result(
        command="bench_loading",
        config={
            "preset": PRESET,
            "scale": scale,
            "bytes": num_bytes,
            "rounds": rounds,
            "huge_page_refusals": huge_page_refusals,
        },
        seed=0,
        metrics=metrics,
        intervals={f"{key}_seconds": bootstrap_median(v) for key, v in seconds.items()},
        validity=Validity(),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def time_in_turns(candidates: dict[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each call; a first round, which brings the file into the cache, is left out."""
    seconds = {key: np.empty(rounds) for key in candidates}
    for number in range(-1, rounds):
        for key, call in candidates.items():
            started = time.perf_counter()
            call()
            if number >= 0:
                seconds[key][number] = time.perf_counter() - started
    return seconds


def bootstrap_median(values: np.ndarray) -> list[float]:
    """95 % interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    return [float(v) for v in np.percentile(np.median(draws, axis=1), [2.5, 97.5])]


def read_and_hash(file: Path) -> None:
    """Every byte once, through one buffer."""
    block, digest = memoryview(bytearray(BLOCK_BYTES)), hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])


def hash_and_copy(file: Path) -> None:
    """The file hashed, then mapped and copied onto huge pages."""
    with file.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")
    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_slice("weight")
        target = Arena(tuple(stored.get_shape()), torch.float32).tensor
        for first in range(0, len(target), COPIED_ROWS):
            target[first : first + COPIED_ROWS] = stored[first : first + COPIED_ROWS]


if __name__ == "__main__":
    main()
