"""What this machine is, read from the kernel's own files; measures nothing and imports no torch."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tailrank.runtime.compiled import is_compiled

# The instruction sets that kernels here or in torch choose between.
_ISA_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
_PACKAGES = ("tailrank", "torch", "numpy", "scipy", "polars", "safetensors", "cyclopts")


def describe_host(root: Path = Path("/")) -> dict[str, Any]:
    """Describe CPU, cores, caches, huge pages and memory; what cannot be read is None.

    Args:
        root: where `proc` and `sys` hang; another folder in tests.

    Returns:
        `cpu_model`, `cores` (`online`, `usable` by this process, `quota` of its cgroup),
        `caches_kib`, `huge_pages`, `memory_bytes` (`total`, `available`, `limit`), `isa` and `os`.
    """
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    flags = set((_field(cpuinfo, "flags") or "").split())
    return {
        "cpu_model": _field(cpuinfo, "model name"),
        "cores": {
            "online": os.cpu_count(),
            "usable": len(os.sched_getaffinity(0)),
            "quota": _cpu_quota(root),
        },
        "caches_kib": _caches_kib(root / "sys/devices/system/cpu/cpu0/cache"),
        "huge_pages": _huge_page_mode(root),
        "memory_bytes": _memory_bytes(root),
        "isa": [flag for flag in _ISA_FLAGS if flag in flags],
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that speed or results depend on.

    `event_loop` tells whether that of tailrank is `compiled` or `Python`.
    """
    found = {
        "python": platform.python_version(),
        "event_loop": "compiled" if is_compiled() else "Python",
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree on the path is a legitimate way to run
            continue
    return found


def _read(path: Path) -> str | None:
    """Text of a kernel file, or None where this kernel or container hides it."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _field(text: str, name: str) -> str | None:
    """First `name : value` in a /proc table."""
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def _cpu_quota(root: Path) -> float | None:
    """Cores that the cgroup (v2, then v1) grants; None means no limit."""
    v2 = _read(root / "sys/fs/cgroup/cpu.max")
    if v2 is not None:
        quota, period = v2.split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period_us = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota_us is None or period_us is None or int(quota_us) <= 0:
        return None
    return int(quota_us) / int(period_us)


def _caches_kib(folder: Path) -> dict[str, int]:
    """Size in KiB of each data or unified cache that core 0 sees, by name."""
    sizes = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if level and size and kind != "Instruction" and size.endswith("K"):
            sizes[f"l{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1])
    return sizes


def _huge_page_mode(root: Path) -> str | None:
    """`always`, `madvise` or `never`: the mode of transparent huge pages."""
    modes = _read(root / "sys/kernel/mm/transparent_hugepage/enabled")
    match = re.search(r"\[(\w+)\]", modes or "")
    return match[1] if match else None


def _memory_bytes(root: Path) -> dict[str, int | None]:
    """Memory of the machine, what is available now, and the limit of the cgroup."""
    meminfo = _read(root / "proc/meminfo") or ""

    def kib(name: str) -> int | None:
        value = _field(meminfo, name)
        return int(value.split()[0]) * 1024 if value else None

    limit = _read(root / "sys/fs/cgroup/memory.max")
    if limit is None:
        limit = _read(root / "sys/fs/cgroup/memory/memory.limit_in_bytes")
    # v1 writes "no limit" as a number near 2^63.
    bounded = limit is not None and limit.isdigit() and int(limit) < 2**60
    return {
        "total": kib("MemTotal"),
        "available": kib("MemAvailable"),
        "limit": int(limit) if bounded and limit is not None else None,
    }
