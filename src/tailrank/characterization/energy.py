"""Joules that the machine's own meters counted: RAPL for CPUs and memory, NVML for a GPU.

A machine without a meter, or with one that this user may not read, has no joules: what was not
measured is absent. Meters count whatever runs, this process or another. Knows no query.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailrank.core.clock import Clock, MonotonicClock

_ZONES = "sys/class/powercap"
# `intel-rapl:` is also the driver of AMD's counters; `intel-rapl-mmio:` counts the same packages a
# second time, and `psys` the whole platform, packages included.
_ZONE_PATTERN = "intel-rapl:*"
# No package draws more: a span so long that a counter could have wrapped twice is not told.
_POWER_W_MAX = 2000.0
FIX = "sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj"


@dataclass(frozen=True, slots=True)
class Counter:
    """A meter that only counts up.

    Args:
        name: what it meters, such as `package-0`.
        read_uj: its count in microjoules; raises OSError where it cannot be read any more.
        range_uj: what it counts to before it begins again at 0; None: it does not.
    """

    name: str
    read_uj: Callable[[], int]
    range_uj: int | None = None

    def between_j(self, before_uj: int, after_uj: int, elapsed_s: float) -> float | None:
        """Joules between two readings; None where it may have wrapped more than once."""
        if self.range_uj is None:
            return (after_uj - before_uj) / 1e6
        if elapsed_s * _POWER_W_MAX * 1e6 >= self.range_uj:
            return None
        spent_uj = after_uj - before_uj
        return (spent_uj if spent_uj >= 0 else spent_uj + self.range_uj) / 1e6


class EnergyMeter:
    """All the counters of a machine, read together.

    Args:
        counters: at least one.
        clock: tells how long a span was.
    """

    def __init__(self, counters: tuple[Counter, ...], clock: Clock | None = None) -> None:
        assert counters, "a machine without a counter has no meter"
        self.counters, self._clock = counters, clock or MonotonicClock()

    def begin(self) -> Callable[[], float | None]:
        """Start a span; the answer ends it and tells its joules over all counters.

        None where a counter cannot be read or may have wrapped twice: a part is no sum.
        """
        started_ns = self._clock.now_ns()
        before_uj = self._read_uj()

        def end() -> float | None:
            after_uj = self._read_uj()
            if before_uj is None or after_uj is None:
                return None
            elapsed_s = (self._clock.now_ns() - started_ns) / 1e9
            spent_j = [
                counter.between_j(before, after, elapsed_s)
                for counter, before, after in zip(self.counters, before_uj, after_uj, strict=True)
            ]
            known_j = [joules for joules in spent_j if joules is not None]
            return sum(known_j) if len(known_j) == len(spent_j) else None

        return end

    def _read_uj(self) -> list[int] | None:
        try:
            return [counter.read_uj() for counter in self.counters]
        except (OSError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Meters:
    """What there is to measure energy with.

    Args:
        counters: those that can be read.
        refusals: why others cannot, or that there are none.
        denied: whether a counter is there that only root may read, see `FIX`.
    """

    counters: tuple[Counter, ...]
    refusals: tuple[str, ...] = ()
    denied: bool = False

    def meter(self) -> EnergyMeter | None:
        """Everything counted; None where nothing is, or where a part of the machine is missing.

        A device that computes and is not metered would make every other one look efficient.
        """
        return EnergyMeter(self.counters) if self.counters and not self.refusals else None


def find_meters(
    gpu_uuid: str | None = None,
    root: Path = Path("/"),
    load_nvml: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
) -> Meters:
    """Look for RAPL's packages and memory and, where a GPU is used, for its own counter.

    Args:
        gpu_uuid: of the GPU in use, as NVML names it (`GPU-…`); None: the CPU computes alone.
        root: where `sys` hangs; another folder in tests.
        load_nvml: gives NVML's Python module; raises ImportError where there is none.
    """
    rapl = _rapl(root)
    counters, refusals = list(rapl.counters), list(rapl.refusals)
    if gpu_uuid is not None:
        found = _nvml(gpu_uuid, load_nvml)
        if isinstance(found, Counter):
            counters.append(found)
        else:
            refusals.append(found)
    return Meters(tuple(counters), tuple(refusals), rapl.denied)


def _rapl(root: Path) -> Meters:
    """Counters of packages and of memory outside them, and why there is none or not all."""
    counters: list[Counter] = []
    denied: list[str] = []
    for zone in sorted((root / _ZONES).glob(_ZONE_PATTERN)):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if not name.startswith(("package", "dram")):
                continue  # cores and graphics are parts of a package
            counter = _zone_counter(zone, name)
            counter.read_uj()
        except PermissionError:
            denied.append(zone.name)
        except (OSError, ValueError):
            continue  # no counter, as some virtual machines show a zone
        else:
            counters.append(counter)
    if denied:
        refusal = f"only root may read {', '.join(denied)} in /{_ZONES}"
        return Meters(tuple(counters), (refusal,), denied=True)
    return Meters(tuple(counters), () if counters else (f"no RAPL counter in /{_ZONES}",))


def _zone_counter(zone: Path, name: str) -> Counter:
    """The counter of one RAPL zone."""
    range_uj = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))

    def read_uj() -> int:
        return int((zone / "energy_uj").read_text(encoding="ascii"))

    return Counter(name, read_uj, range_uj)


def _nvml(gpu_uuid: str, load_nvml: Callable[[], Any]) -> Counter | str:
    """The counter of one GPU, or why there is none."""
    try:
        nvml = load_nvml()
    except ImportError:
        return "NVML's Python module is not installed (pip install nvidia-ml-py)"
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return f"NVML does not meter {gpu_uuid}: {error}"

    def read_uj() -> int:
        try:
            return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1000  # NVML counts mJ
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    return Counter(gpu_uuid, read_uj)
