"""A host is judged by its figures: each fault has a fix, a sound host has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tailrank.reporting.host_findings import Finding, HostFigures, findings, findings_table

SOUND_HOST: Mapping[str, Any] = {
    "cpu_model": "Some CPU",
    "cores": {"online": 4, "usable": 4, "quota": None},
    "huge_pages": "madvise",
    "memory_bytes": {"total": 64 << 30, "available": 60 << 30, "limit": None},
    "isa": ["avx2", "avx512f", "avx512_bf16"],
}
SOUND_FIGURES = HostFigures(
    huge_page_fraction=1.0,
    gather_ns_per_row_huge_pages=5.1,
    gather_ns_per_row_small_pages=18.0,
    linear_fp32_gflops=240.0,
    linear_fp32_packed_gflops=250.0,
    linear_bf16_packed_gflops=500.0,
    stolen_fraction=0.0,
    num_torch_threads=4,
    native_isa="avx512",
    native_refusal=None,
    gpu=None,
    gpu_refusal="torch is built without CUDA",
    triton=None,
)


def found(subject: str, host: Mapping[str, Any], figures: HostFigures, root: Path) -> Finding:
    return next(one for one in findings(host, figures, root) if one.subject == subject)


def test_a_sound_host_needs_no_fix(tmp_path: Path) -> None:
    judged = findings(SOUND_HOST, SOUND_FIGURES, tmp_path)
    assert {one.subject: one.fix for one in judged if one.subject != "C++ compiler"} == {
        one.subject: None for one in judged if one.subject != "C++ compiler"
    }


@pytest.mark.parametrize(
    ("subject", "change", "fix"),
    [
        ("huge pages", {"huge_page_fraction": 0.1}, "compact_memory"),
        ("dense layers, fp32", {"linear_fp32_gflops": 100.0}, "cpu ranker, 2.5x"),
        ("dense layers, fp32", {"linear_fp32_packed_gflops": None}, "torch with oneDNN"),
        ("dense layers, bf16", {"linear_bf16_packed_gflops": None}, "dense=fp32"),
        ("dense layers, bf16", {"linear_bf16_packed_gflops": 90.0}, "slower than fp32"),
        ("threads", {"num_torch_threads": 8}, "OMP_NUM_THREADS=4"),
        ("native kernels", {"native_isa": None, "native_refusal": "not built"}, "make kernels"),
        ("GPU", {"gpu": "H200, 140 GiB", "gpu_refusal": "no Triton"}, "CUDA build of torch"),
        ("stolen time", {"stolen_fraction": 0.05}, "machine of your own"),
    ],
)
def test_a_figure_that_costs_speed_has_its_fix(
    subject: str, change: dict[str, Any], fix: str, tmp_path: Path
) -> None:
    one = found(subject, SOUND_HOST, replace(SOUND_FIGURES, **change), tmp_path)
    assert one.fix is not None
    assert fix in one.fix


@pytest.mark.parametrize(
    ("subject", "change", "fix"),
    [
        ("instruction sets", {"isa": ["avx2"]}, "AVX-512"),
        ("instruction sets", {"isa": []}, "AVX2 at least"),
        ("threads", {"cores": {"online": 4, "usable": 4, "quota": 2.5}}, "OMP_NUM_THREADS=2"),
        ("memory", {"memory_bytes": {"available": 60 << 30, "limit": 1 << 30}}, "--scale"),
    ],
)
def test_a_host_that_costs_speed_has_its_fix(
    subject: str, change: dict[str, Any], fix: str, tmp_path: Path
) -> None:
    one = found(subject, {**SOUND_HOST, **change}, SOUND_FIGURES, tmp_path)
    assert one.fix is not None
    assert fix in one.fix


def test_huge_pages_that_are_switched_off_have_their_own_fix(tmp_path: Path) -> None:
    figures = replace(SOUND_FIGURES, huge_page_fraction=0.0)
    one = found("huge pages", {**SOUND_HOST, "huge_pages": "never"}, figures, tmp_path)
    assert one.fix is not None
    assert "echo madvise" in one.fix


def test_a_gpu_that_works_and_none_at_all_need_no_fix(tmp_path: Path) -> None:
    none = found("GPU", SOUND_HOST, SOUND_FIGURES, tmp_path)
    assert none.fix is None
    assert none.figure == "none (torch is built without CUDA); no Triton"
    there = replace(SOUND_FIGURES, gpu="H200, 140 GiB", gpu_refusal=None, triton="3.6.0")
    works = found("GPU", SOUND_HOST, there, tmp_path)
    assert (works.figure, works.fix) == ("H200, 140 GiB; Triton 3.6.0", None)


def test_governor_and_siblings_are_read_from_the_kernel(tmp_path: Path) -> None:
    cpu = tmp_path / "sys/devices/system/cpu/cpu0"
    (cpu / "cpufreq").mkdir(parents=True)
    (cpu / "cpufreq/scaling_governor").write_text("powersave\n")
    (cpu / "topology").mkdir()
    (cpu / "topology/thread_siblings_list").write_text("0,2\n")
    assert found("frequency", SOUND_HOST, SOUND_FIGURES, tmp_path).fix is not None
    assert found("cores", SOUND_HOST, SOUND_FIGURES, tmp_path).fix is not None


def test_a_meter_is_named_and_a_host_without_one_lacks_nothing(tmp_path: Path) -> None:
    none = found("energy meter", SOUND_HOST, SOUND_FIGURES, tmp_path)
    assert (none.figure, none.fix) == ("no RAPL counter in /sys/class/powercap", None)
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "9"), ("energy_uj", "0")):
        (zone / name).write_text(text)
    assert found("energy meter", SOUND_HOST, SOUND_FIGURES, tmp_path).figure == "package-0"


def test_figures_without_a_value_are_no_metrics() -> None:
    figures = replace(SOUND_FIGURES, linear_bf16_packed_gflops=None)
    assert "linear_bf16_packed_gflops" not in figures.metrics()
    assert figures.metrics()["gather_ns_per_row_huge_pages"] == 5.1


def test_the_table_shows_subject_figure_and_fix() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(
            findings_table([Finding(subject="memory", figure="[1] GiB", fix="use --scale")])
        )
    shown = capture.get()
    assert "[1] GiB" in shown
    assert "→ use --scale" in shown
