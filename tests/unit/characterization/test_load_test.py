"""A small target under load, live: what a run tells beside its latencies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.characterization.small_target import small_target
from torch import Tensor

from tailrank.characterization import service_time
from tailrank.characterization.bench import TargetBench
from tailrank.characterization.energy import Counter, EnergyMeter
from tailrank.characterization.load_test import LoadTest, LoadTestConfig, measure_fleet
from tailrank.characterization.operating_point import OperatingPointConfig
from tailrank.characterization.service_time import ProfileConfig
from tailrank.characterization.target import Target
from tailrank.core.errors import ConfigError
from tailrank.core.fleet import Fleet
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.features import FeatureBatch
from tailrank.inference.eager import EagerRanker
from tailrank.scheduling.policies import PolicyConfig
from tailrank.tuning.candidate import Candidate
from tailrank.workload.schedule import WorkloadConfig

CONFIG = LoadTestConfig(
    workload=WorkloadConfig(sizes="fixed:8"), sla=SLA(50.0, 10**9), num_workers=1, seconds=0.05
)
STATIC = PolicyConfig(policy="static", batch_items_max=8)


@pytest.fixture(scope="module")
def target() -> Target:
    return small_target("small")


def table() -> ServiceTimeTable:
    """One point, of no use to a live run."""
    return ServiceTimeTable("cpu", dict.fromkeys(AXES, (1.0,)), np.ones((1, 1, 1, 1)), np.ones(1))


def meter(counts_uj: list[int]) -> EnergyMeter:
    return EnergyMeter((Counter("package-0", lambda: counts_uj.pop(0)),))


def test_queries_per_joule_are_of_the_whole_run(target: Target) -> None:
    load = LoadTest(CONFIG, target, table(), meter([0, 4_000_000]))
    measurement, run = load.live(STATIC, 2000.0)
    assert len(run.queries.num_items) > measurement.summary.num_queries, "less the warm-up"
    assert measurement.queries_per_joule == pytest.approx(len(run.queries.num_items) / 4.0)


def test_without_a_meter_there_are_none(target: Target) -> None:
    measurement, _ = LoadTest(CONFIG, target, table()).live(STATIC, 2000.0)
    assert measurement.queries_per_joule is None


def other_device(target: Target, called: list[int]) -> Target:
    """A target on two devices: a second CPU ranker stands in for an accelerator."""

    class Standin(EagerRanker):
        device = "standin"

        def rank(self, batch: FeatureBatch) -> Tensor:
            called.append(batch.num_items)
            return super().rank(batch)

    assert isinstance(target.ranker, EagerRanker)
    return replace(target, others={"standin": Standin(target.ranker.model)})


def test_each_slot_has_the_ranker_of_its_device(target: Target) -> None:
    called: list[int] = []
    both = other_device(target, called)
    tables = {("", device): table() for device in ("eager", "standin")}
    config = replace(CONFIG, num_workers=2)
    load = LoadTest(config, both, Fleet(("standin", "eager"), tables))
    _, run = load.live(STATIC, 2000.0)
    assert run.drained
    assert sum(called) == run.batches.num_items[run.batches.slot == 0].sum() > 0
    with pytest.raises(ConfigError, match="devices: got 'cuda'; allowed: those of small: eager, s"):
        both.run_batch_on(("eager", "cuda"))


def test_large_queries_are_offloaded_for_real(target: Target) -> None:
    """A CPU ranker stands in for the accelerator: what is tested is who gets which query."""
    called: list[int] = []

    class Host(EagerRanker):
        device = "cpu"

    both = other_device(target, called)
    assert isinstance(target.ranker, EagerRanker)
    both = replace(both, ranker=Host(target.ranker.model))
    one = ServiceTimeTable("any", dict.fromkeys(AXES, (1.0,)), np.ones((1, 1, 1, 1)), np.ones(1))
    fleet = Fleet(("cpu", "standin"), {("", device): one for device in ("cpu", "standin")})
    workload = WorkloadConfig(sizes="normal:60,20")
    config = replace(CONFIG, workload=workload, num_workers=2)
    policy = PolicyConfig(policy="deeprecsched", batch_items_max=16, offload_threshold_items=64)
    _, run = LoadTest(config, both, fleet).live(policy, 1000.0)
    sizes = run.queries.num_items
    assert sorted(called) == sorted(sizes[sizes >= 64]), "whole, and no others"
    assert run.batches.num_items[run.batches.slot == 0].max() == 16
    assert (run.queries.done_ns > 0).all()


def test_a_bench_serves_a_candidate_on_the_devices_that_it_uses(target: Target) -> None:
    """What `tune` serves: only who offloads has the accelerator's worker."""
    called: list[int] = []

    class Host(EagerRanker):
        device = "cpu"

    assert isinstance(target.ranker, EagerRanker)
    both = replace(other_device(target, called), ranker=Host(target.ranker.model))
    one = ServiceTimeTable("any", dict.fromkeys(AXES, (1.0,)), np.ones((1, 1, 1, 1)), np.ones(1))
    config = OperatingPointConfig(
        sla=CONFIG.sla,
        sizes="normal:60,20",
        policies=("deeprecsched",),
        accelerators=("standin",),
        budget_s=0.1,
    )
    bench = TargetBench(both)
    serve = bench.live(config, bench.load(config), {"cpu": one, "standin": one})
    plain = Candidate(policy="deeprecsched", batch_items_max=16)
    _, run = serve(plain, 500.0)
    assert run.num_workers == 1
    assert not called
    _, run = serve(replace(plain, offload_threshold_items=64), 500.0)
    sizes = run.queries.num_items
    assert run.num_workers == 2
    assert sorted(called) == sorted(sizes[sizes >= 64]) != [], "whole, and no others"


def test_a_fleet_is_profiled_device_by_device(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_time, "_REPEATS_MAX", 1)  # the budget is for a busy host
    called: list[int] = []
    remarks: list[str] = []
    fleet = measure_fleet(
        other_device(target, called),
        ("eager", "standin", "eager"),
        ProfileConfig(num_items=(1, 8), num_parts=(1,), budget_s=60),
        lambda fraction, remark: remarks.append(remark),
        lambda text: None,
    )
    assert fleet.table("small", 2).axes["busy_workers"] == (1.0, 2.0)
    assert fleet.table("small", 1).axes["busy_workers"] == (1.0,)
    assert fleet.table("small", 1).device.startswith("standin small")
    assert set(called) == {1, 8}
    assert {remark.partition(":")[0] for remark in remarks} == {"eager", "standin"}
