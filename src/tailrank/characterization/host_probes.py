"""Small measurements of what this host gives: huge pages, random reads, dense layers, lost time.

Each probe takes well under two seconds and reports the best of several repeats, because it asks
what the machine can do, not what it did while something else ran. Knows no model.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tailrank.inference.arena import Arena
from tailrank.kernels import onednn

_REPEATS = 5
_BAG_IDS = 80  # as DLRM-RMC1 pools
# RMC3's widest layer, at the rows of one part: large enough that arithmetic is all that counts.
_ROWS, _WIDTH_IN, _WIDTH_OUT = 128, 2560, 1024


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, as a worker does, and restore the setting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def huge_page_fraction(num_bytes: int = 64 << 20) -> float:
    """Share of an arena of `num_bytes` that lies on huge pages once it has been written."""
    arena = Arena((num_bytes,), torch.uint8)
    arena.tensor.fill_(1)
    return min(1.0, arena.huge_bytes() / num_bytes)


def gather_ns_per_row(*, huge_pages: bool, num_bytes: int = 256 << 20, dim: int = 32) -> float:
    """Time to fetch and sum one random fp32 row of `dim` columns on one core, in ns.

    Args:
        huge_pages: whether the table asks for huge pages or refuses them.
        num_bytes: size of the table; larger than any cache it should miss.
        dim: columns (D); the default is the row of 128 bytes that the RMC1 and RMC3 presets have.
    """
    num_rows = num_bytes // (4 * dim)
    if huge_pages:
        table_VD = Arena((num_rows, dim), torch.float32).tensor
    else:
        mapping = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
        table_VD = torch.frombuffer(mapping, dtype=torch.float32).view(num_rows, dim)
    table_VD.fill_(1.0)
    generator = torch.Generator().manual_seed(0)
    num_ids = 2000 * _BAG_IDS
    # Ids differ from repeat to repeat, so that no repeat finds the rows of another in the cache.
    ids_RL = torch.randint(num_rows, (_REPEATS, num_ids), generator=generator)
    offsets = torch.arange(0, num_ids, _BAG_IDS)
    with one_thread(), torch.inference_mode():
        times_ns = [
            _time_ns(partial(F.embedding_bag, ids_L, table_VD, offsets, mode="sum"))
            for ids_L in ids_RL
        ]
    return min(times_ns) / num_ids


def linear_gflops(dtype: torch.dtype, *, packed: bool) -> float | None:
    """Speed of a dense layer on one core in GFLOP/s.

    Args:
        dtype: of weights and inputs.
        packed: through oneDNN with prepacked weights, as the `cpu` ranker runs it; otherwise as
            `nn.Linear` does (MKL, on most builds).

    Returns:
        The speed, or None where `packed` layers of this type do not run here.
    """
    if packed and onednn.why_unavailable(dtype) is not None:
        return None
    x_BN = torch.ones(_ROWS, _WIDTH_IN, dtype=dtype)
    weight_MN = torch.ones(_WIDTH_OUT, _WIDTH_IN, dtype=dtype)
    bias_M = torch.zeros(_WIDTH_OUT, dtype=dtype)
    with one_thread(), torch.inference_mode():
        if packed:
            layer = partial(onednn.linear, x_BN, onednn.pack(weight_MN), bias_M)
        else:
            layer = partial(F.linear, x_BN, weight_MN, bias_M)
        layer()  # the first call of a shape chooses its kernel
        best_ns = min(_time_ns(layer) for _ in range(4 * _REPEATS))
    return 2 * _ROWS * _WIDTH_IN * _WIDTH_OUT / best_ns


def cpu_times(path: Path = Path("/proc/stat")) -> tuple[int, int]:
    """Ticks of all cores since boot: (stolen by the hypervisor, all of them)."""
    ticks = [int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    # Fields of proc(5): user nice system idle iowait irq softirq steal; guest time is in user.
    return (ticks[7] if len(ticks) > 7 else 0), sum(ticks[:8])


def busy_ticks(path: Path = Path("/proc/stat")) -> dict[int, tuple[int, int]]:
    """Ticks of each core since boot, by its number: (not idle, all of them)."""
    found = {}
    for line in path.read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(field) for field in fields[:8]]
            # Waiting for a disk is idle, too; what the hypervisor has stolen nobody could use.
            found[int(name.removeprefix("cpu"))] = sum(ticks) - sum(ticks[3:5]), sum(ticks)
    return found


def crowding() -> str | None:
    """Why torch's threads would be in the way of other work here; None where they are not.

    Threads that share a layer wait for one another without sleeping, so one that has lost its core
    holds up all: with two threads on two busy cores, training was 7 to 32 times as slow as with
    one. The load average is that of the last minute, which may be over.
    """
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    if threads == 1 or load + threads < 1.75 * cores:
        return None
    return (
        f"load average {load:.1f} on {cores} cores in the last minute: while that goes on, torch's "
        f"{threads} threads will wait for cores many times over; with OMP_NUM_THREADS=1 they do not"
    )


def _time_ns(run: Callable[[], Tensor]) -> int:
    """How long one call takes."""
    start_ns = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start_ns
