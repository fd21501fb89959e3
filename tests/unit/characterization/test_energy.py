"""Joules come from the machine's meters, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tailrank.characterization.energy import EnergyMeter, find_meters
from tailrank.core.clock import ManualClock

RANGE_UJ = 262_143_328_850
S = 1_000_000_000


def zone(root: Path, folder: str, name: str, energy_uj: int) -> Path:
    """One zone of a machine's powercap tree."""
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path


def count(path: Path, energy_uj: int) -> None:
    (path / "energy_uj").write_text(f"{energy_uj}\n")


def test_packages_and_memory_are_summed_and_parts_of_packages_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    cores = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    again = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0)
    platform = zone(tmp_path, "intel-rapl:2", "psys", 0)
    meters = find_meters(root=tmp_path)
    assert [one.name for one in meters.counters] == ["package-0", "dram", "package-1"]
    meter = meters.meter()
    assert meter is not None
    end = meter.begin()
    for path, joules in ((first, 12), (second, 3), (memory, 1)):
        count(path, joules * 1_000_000)
    for path in (cores, again, platform):
        count(path, 900_000_000)
    assert end() == pytest.approx(7 + 3 + 1)


def test_a_counter_that_began_again_is_carried_on(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 2_000_000)
    meter = find_meters(root=tmp_path).meter()
    assert meter is not None
    end = meter.begin()
    count(package, 3_000_000)
    assert end() == pytest.approx(5.0)


def test_a_span_in_which_it_may_have_wrapped_twice_has_no_joules(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    clock = ManualClock()
    meter = EnergyMeter(find_meters(root=tmp_path).counters, clock)
    minute, hour = meter.begin(), meter.begin()
    clock.advance_to(60 * S)
    assert minute() == 0.0
    clock.advance_to(3600 * S)
    assert hour() is None


def test_a_counter_that_vanishes_during_a_span_gives_no_joules(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    zone(tmp_path, "intel-rapl:1", "package-1", 0)
    meter = find_meters(root=tmp_path).meter()
    assert meter is not None
    end = meter.begin()
    (package / "energy_uj").unlink()
    assert end() is None


def test_a_machine_without_meters_says_so(tmp_path: Path) -> None:
    meters = find_meters(root=tmp_path)
    assert meters.meter() is None
    assert meters.refusals == ("no RAPL counter in /sys/class/powercap",)
    assert not meters.denied


def test_a_meter_for_root_only_is_none_and_says_how_to_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    denied = zone(tmp_path, "intel-rapl:1", "package-1", 0) / "energy_uj"
    denied.chmod(0)
    if os.access(denied, os.R_OK):  # root may read everything
        refuse_reading(denied, monkeypatch)
    meters = find_meters(root=tmp_path)
    assert meters.denied
    assert "only root may read intel-rapl:1" in meters.refusals[0]
    assert meters.meter() is None, "one package's joules are not the machine's"


def refuse_reading(denied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reading one file fail as it does for who is not root."""
    read_text = Path.read_text

    def refuse(path: Path, *args: Any, **kwargs: Any) -> str:
        if path == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)


class NVMLError(Exception):
    """What NVML raises."""


def fake_nvml(counts_mj: list[int]) -> SimpleNamespace:
    def find(uuid: str) -> str:
        if uuid != "GPU-1":
            raise NVMLError("Not Found")
        return uuid

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=find,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counts_mj.pop(0),
    )


def test_a_gpu_adds_its_joules(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    nvml = fake_nvml([1000, 2000, 45_500])
    meter = find_meters("GPU-1", tmp_path, lambda: nvml).meter()
    assert meter is not None
    assert meter.begin()() == pytest.approx(43.5)


def test_a_gpu_without_a_meter_leaves_the_machine_without_one(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def missing() -> Any:
        raise ImportError("pynvml")

    unmetered = find_meters("GPU-2", tmp_path, lambda: fake_nvml([]))
    assert unmetered.refusals == ("NVML does not meter GPU-2: Not Found",)
    absent = find_meters("GPU-1", tmp_path, missing)
    assert "pip install nvidia-ml-py" in absent.refusals[0]
    assert unmetered.meter() is absent.meter() is None
