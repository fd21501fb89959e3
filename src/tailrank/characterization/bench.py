"""What is tuned: a target's service times, its workload, and its live runs under a load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from tailrank.characterization.energy import find_meters
from tailrank.characterization.load_test import LoadTest, LoadTestConfig, measure_profile
from tailrank.characterization.operating_point import OperatingPointConfig
from tailrank.characterization.service_time import ProfileConfig
from tailrank.characterization.target import Target
from tailrank.core.fleet import CPU
from tailrank.core.measurement import Measurement
from tailrank.core.service_time import ServiceTimeTable
from tailrank.kernels.cuda import device_uuid
from tailrank.runtime.record import RunResult
from tailrank.tuning.candidate import Candidate
from tailrank.workload.schedule import WorkloadConfig

Serve = Callable[[Candidate, float], tuple[Measurement, RunResult]]
"""Puts a candidate under a load in queries/s, and returns its rows as well, for the report."""


class Bench(Protocol):
    """What is put under load: a target on this host, or in tests one that is made up."""

    def profile(
        self,
        device: str,
        config: ProfileConfig,
        on_progress: Callable[[float, str], None],
        announce: Callable[[str], None],
    ) -> ServiceTimeTable:
        """Its service times on a device; see `measure_profile`."""
        ...

    def load(self, config: OperatingPointConfig) -> LoadTestConfig:
        """The workload, and how long a run of it is."""
        ...

    def live(
        self,
        config: OperatingPointConfig,
        load: LoadTestConfig,
        tables: Mapping[str, ServiceTimeTable],
    ) -> Serve:
        """What serves candidates for real."""
        ...


class TargetBench:
    """A target on this host.

    Args:
        target: the model and its queries.
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    def profile(
        self,
        device: str,
        config: ProfileConfig,
        on_progress: Callable[[float, str], None],
        announce: Callable[[str], None],
    ) -> ServiceTimeTable:
        """See `measure_profile`; the cores are whatever device the target has first."""
        own = None if device == CPU else device
        return measure_profile(self._target, config, on_progress, announce, own)

    def load(self, config: OperatingPointConfig) -> LoadTestConfig:
        """Queries of this target, in runs of the configured length."""
        return LoadTestConfig(
            workload=WorkloadConfig(
                sizes=config.sizes,
                items_limit=config.items_limit,
                ids_per_item=self._target.ids_per_item,
                model=self._target.name,
                arrival_seed=config.seed,
                size_seed=config.seed,
                payload_seed=config.seed,
            ),
            sla=config.sla,
            bounds=config.bounds,
            num_workers=config.num_workers,
            seconds=config.run_s,
        )

    def live(
        self,
        config: OperatingPointConfig,
        load: LoadTestConfig,
        tables: Mapping[str, ServiceTimeTable],
    ) -> Serve:
        """Load tests on this host, metered where the machine has meters for all that computes."""
        meter = find_meters(device_uuid() if "cuda" in self._target.rankers else None).meter()

        def serve(candidate: Candidate, qps: float) -> tuple[Measurement, RunResult]:
            fleet = config.fleet_of(candidate, tables, self._target.name)
            own = replace(load, num_workers=len(fleet.devices))
            measured = fleet if len(set(fleet.devices)) > 1 else tables[CPU]
            test = LoadTest(own, self._target, measured, meter)
            return test.live(config.policy_of(candidate), qps)

        return serve
