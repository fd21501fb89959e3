"""The host is described from kernel files, whichever of them are there."""

from __future__ import annotations

from pathlib import Path

from tailrank.reporting.host import describe_host, versions


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_cgroup_v2_host(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f amx_tile\n",
            "proc/meminfo": "MemTotal:  16 kB\nMemAvailable:  8 kB\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "4096\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "sys/devices/system/cpu/cpu0/cache/index0/level": "1",
            "sys/devices/system/cpu/cpu0/cache/index0/type": "Data",
            "sys/devices/system/cpu/cpu0/cache/index0/size": "48K",
            "sys/devices/system/cpu/cpu0/cache/index1/level": "1",
            "sys/devices/system/cpu/cpu0/cache/index1/type": "Instruction",
            "sys/devices/system/cpu/cpu0/cache/index1/size": "32K",
            "sys/devices/system/cpu/cpu0/cache/index2/level": "2",
            "sys/devices/system/cpu/cpu0/cache/index2/type": "Unified",
            "sys/devices/system/cpu/cpu0/cache/index2/size": "1024K",
        },
    )
    host = describe_host(root)
    assert host["cpu_model"] == "Some CPU"
    assert host["cores"]["quota"] == 1.5
    assert host["caches_kib"] == {"l1d": 48, "l2": 1024}
    assert host["huge_pages"] == "madvise"
    assert host["memory_bytes"] == {"total": 16384, "available": 8192, "limit": 4096}
    assert host["isa"] == ["avx2", "avx512f", "amx_tile"]


def test_a_cgroup_v1_host_without_limits(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    host = describe_host(root)
    assert host["cores"]["quota"] is None
    assert host["memory_bytes"]["limit"] is None


def test_a_host_that_hides_everything_is_still_described(tmp_path: Path) -> None:
    host = describe_host(tmp_path)
    assert host["cpu_model"] is None
    assert host["huge_pages"] is None
    assert host["caches_kib"] == {}
    assert host["isa"] == []


def test_this_host_and_its_versions() -> None:
    assert describe_host()["cores"]["usable"] >= 1
    assert {"python", "event_loop", "torch", "numpy"} <= set(versions())
