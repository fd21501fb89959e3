"""Judges a host: figures in, findings with a fix each out. Measures nothing itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from tailrank.characterization import energy
from tailrank.kernels import cuda, native
from tailrank.runtime.compiled import is_compiled

# A difference that repeats of a probe on a shared machine do not produce by chance.
_CLEAR_GAIN = 1.3
_STOLEN_FRACTION_MAX = 0.01  # p99 is the slowest hundredth: losing that much alone sets it
_MEMORY_BYTES_MIN = 4 << 30  # the smallest preset at full scale needs a little more


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFigures:
    """What the probes measured on one core; None where a thing does not run here.

    Args:
        huge_page_fraction: share of a fresh arena that really lies on huge pages.
        gather_ns_per_row_huge_pages, gather_ns_per_row_small_pages: random 128-byte rows, summed.
        linear_fp32_gflops: a dense layer as `nn.Linear` runs it.
        linear_fp32_packed_gflops, linear_bf16_packed_gflops: the same through packed oneDNN.
        stolen_fraction: share of all cores' time that the hypervisor took during the probes.
        num_torch_threads: threads that torch uses for one operator.
        native_isa: instruction set that the native kernels use here.
        native_refusal: why there are no native kernels; exactly one of the two is None.
        gpu: name and memory of the GPU that the cuda ranker would use; None where there is none.
        gpu_refusal: why the cuda ranker does not run here; None where it does.
        triton: version of Triton, with which it is compiled; None where it is not installed.
    """

    huge_page_fraction: float
    gather_ns_per_row_huge_pages: float
    gather_ns_per_row_small_pages: float
    linear_fp32_gflops: float | None
    linear_fp32_packed_gflops: float | None
    linear_bf16_packed_gflops: float | None
    stolen_fraction: float
    num_torch_threads: int
    native_isa: str | None
    native_refusal: str | None
    gpu: str | None
    gpu_refusal: str | None
    triton: str | None

    def metrics(self) -> dict[str, float]:
        """The figures that there are, by name."""
        numbers = asdict(self).items()
        return {name: value for name, value in numbers if isinstance(value, int | float)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about this host.

    Args:
        subject: what was looked at.
        figure: what was read or measured, with units.
        fix: what to do about it; None when nothing is lost.
    """

    subject: str
    figure: str
    fix: str | None = None


def findings(
    host: Mapping[str, Any], figures: HostFigures, root: Path = Path("/")
) -> list[Finding]:
    """Everything worth knowing about this host, in order of what it usually costs.

    Args:
        host: see `describe_host`.
        figures: see `HostFigures`.
        root: where `sys` hangs; another folder in tests.
    """
    return [
        _huge_pages(host, figures),
        _dense_layers(figures),
        _bf16(figures),
        _instruction_sets(host),
        _native_kernels(figures),
        _event_loop(),
        _gpu(figures),
        _threads(host, figures),
        _cores(host, root),
        _stolen_time(figures),
        _frequency(root),
        _memory(host),
        _energy(root),
        _compiler(),
    ]


def findings_table(found: list[Finding]) -> Table:
    """The findings for the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "subject", "figure, and the fix"):
        table.add_column(heading, overflow="fold")
    for finding in found:
        mark = "[green]ok[/]" if finding.fix is None else "[yellow]costs[/]"
        fix = "" if finding.fix is None else f"\n[bold]→[/] {escape(finding.fix)}"
        table.add_row(mark, finding.subject, escape(finding.figure) + fix)
    return table


def _huge_pages(host: Mapping[str, Any], figures: HostFigures) -> Finding:
    mode = host["huge_pages"]
    obtained = figures.huge_page_fraction
    figure = (
        f"mode {mode or 'unknown'}; {obtained:.0%} of 64 MiB obtained; random 128-byte row "
        f"{figures.gather_ns_per_row_huge_pages:.1f} ns, on 4 KiB pages "
        f"{figures.gather_ns_per_row_small_pages:.1f} ns"
    )
    if obtained >= 0.9:
        fix = None
    elif mode == "never":
        fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    elif mode is None:
        fix = "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE"
    else:
        fix = "memory is fragmented: echo 1 | sudo tee /proc/sys/vm/compact_memory"
    return Finding(subject="huge pages", figure=figure, fix=fix)


def _dense_layers(figures: HostFigures) -> Finding:
    plain, packed = figures.linear_fp32_gflops, figures.linear_fp32_packed_gflops
    assert plain is not None, "plain layers run everywhere"
    if packed is None:
        return Finding(
            subject="dense layers, fp32",
            figure=f"nn.Linear {plain:.0f} GFLOP/s per core; packed oneDNN layers do not run here",
            fix="install a torch with oneDNN: pip install torch==2.13.0",
        )
    figure = f"nn.Linear (MKL) {plain:.0f}, packed oneDNN {packed:.0f} GFLOP/s per core"
    slow = packed > _CLEAR_GAIN * plain
    fix = f"serve with the cpu ranker, {packed / plain:.1f}x the speed of eager layers here"
    return Finding(subject="dense layers, fp32", figure=figure, fix=fix if slow else None)


def _bf16(figures: HostFigures) -> Finding:
    fp32, bf16 = figures.linear_fp32_packed_gflops, figures.linear_bf16_packed_gflops
    subject = "dense layers, bf16"
    if bf16 is None:
        return Finding(
            subject=subject,
            figure="no bf16 arithmetic on this CPU",
            fix="export with --precision rows=bf16,dense=fp32",
        )
    figure = f"packed oneDNN {bf16:.0f} GFLOP/s per core"
    worth_it = fp32 is None or bf16 > fp32
    fix = None if worth_it else "slower than fp32: export with --precision rows=bf16,dense=fp32"
    return Finding(subject=subject, figure=figure, fix=fix)


def _instruction_sets(host: Mapping[str, Any]) -> Finding:
    isa = host["isa"]
    figure = f"{host['cpu_model'] or 'unknown CPU'}: {', '.join(isa) or 'none of those that help'}"
    if "avx2" not in isa:
        fix = "use a CPU with AVX2 at least"
    elif "avx512f" not in isa:
        fix = "a CPU (or VM type) with AVX-512 or AMX runs dense layers 2-4 times as fast"
    else:
        fix = None
    return Finding(subject="instruction sets", figure=figure, fix=fix)


def _native_kernels(figures: HostFigures) -> Finding:
    subject = "native kernels"
    if figures.native_refusal is None:
        return Finding(subject=subject, figure=f"for {figures.native_isa}")
    return Finding(subject=subject, figure=figures.native_refusal, fix=native.FIX)


def _event_loop() -> Finding:
    # Not what a source tree should mend: compiled modules would hide edits of their Python.
    figure = "compiled" if is_compiled() else "plain Python, as edited; installed wheels compile it"
    return Finding(subject="event loop", figure=figure)


def _gpu(figures: HostFigures) -> Finding:
    triton = f"Triton {figures.triton}" if figures.triton else "no Triton"
    if figures.gpu is None:  # a host without one lacks nothing: the cpu ranker scores the same
        return Finding(subject="GPU", figure=f"none ({figures.gpu_refusal}); {triton}")
    fix = None if figures.gpu_refusal is None else f"{figures.gpu_refusal}; {cuda.FIX}"
    return Finding(subject="GPU", figure=f"{figures.gpu}; {triton}", fix=fix)


def _threads(host: Mapping[str, Any], figures: HostFigures) -> Finding:
    usable, quota = host["cores"]["usable"], host["cores"]["quota"]
    threads = figures.num_torch_threads
    granted = usable if quota is None else min(usable, quota)
    limit = "no quota" if quota is None else f"quota {quota:g} cores"
    figure = f"torch uses {threads} threads; {usable} cores usable, {limit}"
    if threads > granted:
        fix = f"export OMP_NUM_THREADS={max(1, int(granted))}"
    elif quota is not None and quota < usable:
        # A cgroup that has used its quota stops for the rest of the period: up to 100 ms.
        fix = f"use {max(1, int(quota))} workers, or raise the quota: throttling stalls every query"
    else:
        fix = None
    return Finding(subject="threads", figure=figure, fix=fix)


def _cores(host: Mapping[str, Any], root: Path) -> Finding:
    usable = host["cores"]["usable"]
    groups = {
        path.read_text(encoding="ascii").strip()
        for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
    }
    siblings = any("," in group or "-" in group for group in groups)
    figure = f"{usable} usable; " + ("two or more share a core" if siblings else "one thread each")
    fix = "run one worker per physical core: siblings share its units" if siblings else None
    return Finding(subject="cores", figure=figure, fix=fix)


def _stolen_time(figures: HostFigures) -> Finding:
    stolen = figures.stolen_fraction
    fix = "measure tails on a machine of your own" if stolen > _STOLEN_FRACTION_MAX else None
    return Finding(
        subject="stolen time", figure=f"{stolen:.1%} of CPU time taken by the hypervisor", fix=fix
    )


def _frequency(root: Path) -> Finding:
    path = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    if not path.exists():
        return Finding(subject="frequency", figure="governor hidden by this host")
    governor = path.read_text(encoding="ascii").strip()
    slow = governor not in ("performance", "schedutil")
    fix = "sudo cpupower frequency-set -g performance" if slow else None
    return Finding(subject="frequency", figure=f"governor {governor}", fix=fix)


def _memory(host: Mapping[str, Any]) -> Finding:
    memory = host["memory_bytes"]
    bounds = [value for value in (memory["available"], memory["limit"]) if value is not None]
    if not bounds:
        return Finding(subject="memory", figure="not readable")
    figure = f"{min(bounds) / 2**30:.1f} GiB available"
    fix = "load presets with --scale 0.25" if min(bounds) < _MEMORY_BYTES_MIN else None
    return Finding(subject="memory", figure=figure, fix=fix)


def _energy(root: Path) -> Finding:
    meters = energy.find_meters(cuda.device_uuid(), root)
    counters = ", ".join(counter.name for counter in meters.counters)
    figure = "; ".join(text for text in (counters, *meters.refusals) if text)
    # A host without a meter loses nothing but queries per joule; one that hides its meter need not.
    return Finding(subject="energy meter", figure=figure, fix=energy.FIX if meters.denied else None)


def _compiler() -> Finding:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    fix = None if found else "sudo apt-get install g++: torch.compile and native kernels need it"
    return Finding(subject="C++ compiler", figure=found or "none found", fix=fix)
