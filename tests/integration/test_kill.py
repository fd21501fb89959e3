"""SIGKILL at any moment leaves a checkpoint that loads, and a run that can go on.

The tests start this file as a program too; see `main`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tailrank.cli import main as tailrank
from tailrank.core.files import remove_leftovers
from tailrank.reporting.result import read_result
from tailrank.training.checkpoint import load_checkpoint, save_checkpoint
from tailrank.training.loop import LATEST_FILE

MOMENTS = 50
TENSORS, NUMBERS = 3, 100_000  # 1.2 MB: the write itself takes a good part of a save


def save_forever(file: Path, first_step: int, done: int) -> None:
    """Save checkpoints of growing step, and tell `done` after each."""
    for step in range(first_step, 1 << 30):
        tensors = {f"t{i}": torch.full((NUMBERS,), float(step)) for i in range(TENSORS)}
        save_checkpoint(file, tensors, {"step": step})
        os.write(done, step.to_bytes(4, "little"))


def kill_savers(folder: Path) -> None:
    """Kill one process after the other in the middle of its savings, and look at what is left."""
    file, moments, known, cut = folder / LATEST_FILE, random.Random(7), 0, 0
    for _ in range(MOMENTS):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            save_forever(file, known + 1, writer)
        os.close(writer)
        first = os.read(reader, 4)  # or the very first might be killed before there is a file
        # Until any moment of the next saves: waiting for a sign would make all kills alike.
        time.sleep(moments.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = first
        while more := os.read(reader, 4096):
            told += more
        os.close(reader)
        known = int.from_bytes(told[-4:], "little")
        tensors, record = load_checkpoint(file)
        assert record["step"] in (known, known + 1), f"{record} after {known} was complete"
        assert len(tensors) == TENSORS
        for values in tensors.values():
            assert values.shape == (NUMBERS,)
            assert bool((values == record["step"]).all())
        leftovers = [name for name in os.listdir(folder) if name != LATEST_FILE]
        cut += bool(leftovers)
        remove_leftovers(folder, "*.safetensors")
        assert os.listdir(folder) == [LATEST_FILE]
        known = record["step"]
    print(f"{cut} of {MOMENTS} kills fell into a save")
    assert cut > 0


def main() -> int:
    """`savers FOLDER`, or the words of a `tailrank` command, on one thread."""
    torch.set_num_threads(1)
    if sys.argv[1] == "savers":
        kill_savers(Path(sys.argv[2]))
        return 0
    return tailrank(sys.argv[1:])


def start(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_checkpoint_loads_after_a_kill_at_any_of_fifty_moments(tmp_path: Path) -> None:
    out, error = (driver := start("savers", tmp_path)).communicate(timeout=120)
    assert driver.returncode == 0, error
    assert "kills fell into a save" in out


def test_a_killed_training_run_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    words = ["train", "dlrm", "--data", "synthetic:rows=14000,num_embeddings=100", "--refit"]
    words += ["--batch-items", "64", "--checkpoint-every", "20", "--evaluate-every", "100"]
    words += ["--lr-schedule", "cosine", "--warmup-steps", "50", "--clip-norm", "0.5"]
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    checkpoints = tmp_path / "killed.checkpoint"
    latest = checkpoints / "train" / LATEST_FILE
    process = start(*words, "--out", killed)
    while not latest.exists() and process.poll() is None:
        time.sleep(0.005)  # between looks at another process, which says nothing
    # Any moment after the first checkpoint: in a step, in a save, or between them.
    time.sleep(random.Random(3).uniform(0.0, 0.05))
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, "it was still at work"
    assert latest.exists()
    assert not killed.exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert tailrank([*words, "--out", str(killed), "--resume"]) == 0
    assert tailrank([*words, "--out", str(unbroken)]) == 0
    torch.set_num_threads(threads)
    assert not checkpoints.exists()
    results = [read_result(folder / "result.json").metrics for folder in (killed, unbroken)]
    speed = [metrics.pop("train_samples_per_s") for metrics in results]
    assert results[0] == results[1]
    assert all(value > 0 for value in speed)
    for name in ("weights.safetensors", "tables.safetensors", "test_scores.parquet"):
        assert (killed / name).read_bytes() == (unbroken / name).read_bytes()


if __name__ == "__main__":
    sys.exit(main())
