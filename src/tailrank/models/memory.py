"""Whether what is about to be allocated fits: asked before, never found out by the OOM killer."""

from __future__ import annotations

from pathlib import Path

from tailrank.core.errors import RequestError

# Left for the interpreter, torch and the page cache, on a GPU for batches; an allocation that
# leaves less is refused.
_RESERVE_BYTES = 1 << 30


def available_bytes() -> int:
    """Memory that can be had without swapping: the host's, or the control group's if less."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines()
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
    except OSError:
        return available
    return available if limit == "max" else min(available, int(limit) - used)


def format_bytes(count: float) -> str:
    """`4.10 GB`, `512 MB`: decimal units, as the literature gives model sizes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def check_fits(bytes_needed: int, gpu_free_bytes: int | None = None) -> None:
    """Refuse an allocation that this host, or a GPU, cannot hold.

    Args:
        bytes_needed: what is about to be allocated.
        gpu_free_bytes: free memory of the GPU that is to hold it; None: it is for the host.

    Raises:
        RequestError: it needs more than is available less a reserve of 1 GiB.
    """
    place = "host" if gpu_free_bytes is None else "GPU"
    available = available_bytes() if gpu_free_bytes is None else gpu_free_bytes
    available -= _RESERVE_BYTES
    if bytes_needed > available:
        left = format_bytes(max(available, 0))
        reason = f"{format_bytes(bytes_needed)} needed, and {left} can be had on this {place}"
        raise RequestError("memory", f"{reason}; use a smaller --scale or --embedding-dim")
