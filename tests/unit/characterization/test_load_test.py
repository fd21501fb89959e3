"""A small target under load, live: what a run tells beside its latencies."""

from __future__ import annotations

import numpy as np
import pytest

from tailrank.characterization.energy import Counter, EnergyMeter
from tailrank.characterization.load_test import LoadTest, LoadTestConfig
from tailrank.characterization.payloads import QueryPool
from tailrank.characterization.target import Target
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.inference.eager import EagerRanker
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig

CONFIG = LoadTestConfig(
    workload=WorkloadConfig(sizes="fixed:8"), sla=SLA(50.0, 10**9), num_workers=1, seconds=0.05
)
STATIC = PolicyConfig(policy="static", batch_items_max=8)


@pytest.fixture(scope="module")
def target() -> Target:
    dataset = SyntheticDataset(SyntheticConfig(rows=56 * 8, embedding_dim=4))
    spec = dataset.spec
    model = build_model(
        DLRMConfig.for_spec(spec, bottom_mlp=(4,), top_mlp=(4,)),
        seed=0,
    )
    return Target(
        name="small",
        spec=spec,
        ranker=EagerRanker(model),
        pool=QueryPool.from_dataset(dataset, seed=0),
    )


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
