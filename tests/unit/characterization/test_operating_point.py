"""The operating point: what was served overrules what was simulated."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tailrank.characterization import operating_point as module
from tailrank.characterization.operating_point import (
    OperatingPoint,
    OperatingPointConfig,
    PolicyCapacity,
)
from tailrank.core.errors import ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.reporting.operating_point import metrics, policy_rows
from tailrank.tuning.capacity import Capacity
from tailrank.tuning.search import SearchResult

CONFIG = OperatingPointConfig(sla=SLA.parse("p95=10ms"), sizes="fixed:100")


def make_capacity(qps: float) -> Capacity:
    summary = LatencySummary.of(np.full(1000, 5e6))
    at = Measurement(qps, qps, 100 * qps, 0, 0, summary, Validity())
    return Capacity(qps, qps * 1.02, (), at)


def make_point(baseline_qps: float, tuned_qps: float) -> OperatingPoint:
    axes = dict.fromkeys(("num_parts", "num_items", "ids_per_item", "busy_workers"), (1.0,))
    return OperatingPoint(
        config=CONFIG,
        table=ServiceTimeTable("cpu", axes, np.ones((1, 1, 1, 1)), np.ones(1)),
        baseline=PolicyCapacity(
            name="static baseline",
            policy=CONFIG.policy_of(100),
            simulated=make_capacity(baseline_qps),
        ),
        tuned=PolicyCapacity(
            name="tuned", policy=CONFIG.policy_of(50), simulated=make_capacity(tuned_qps)
        ),
        search=SearchResult((), False),
    )


@pytest.mark.parametrize(("live_qps", "winner"), [((500, 600), 50), ((700, 600), 100)])
def test_the_better_one_live_is_the_operating_point(live_qps, winner, monkeypatch) -> None:
    served = dict(zip((100, 50), live_qps, strict=True))

    def verify(contender, load, report):
        return replace(contender, live=make_capacity(served[contender.policy.batch_items_max]))

    monkeypatch.setattr(module, "_verify_one", verify)
    point = module._verify(make_point(600, 660), None, lambda *words: None)
    assert point.tuned.policy.batch_items_max == winner
    assert metrics(point)["tuned.capacity_qps"] == max(live_qps)
    rows = policy_rows(point)
    assert rows[0].ratio is None
    assert rows[-1].ratio == pytest.approx(max(live_qps) / live_qps[0])
    if winner == 100:
        assert [row.policy for row in rows] == ["static baseline", "simulated best", "tuned"]
        assert rows[1].ratio == pytest.approx(600 / 700)


def test_without_live_runs_the_ratio_is_of_simulations() -> None:
    assert policy_rows(make_point(600, 660))[-1].ratio == pytest.approx(1.1)


def test_queries_larger_than_the_pool_are_refused_before_anything_is_measured() -> None:
    target = SimpleNamespace(pool=SimpleNamespace(num_items_max=64))
    with pytest.raises(ConfigError, match="sizes up to 64 items; these go up to 100"):
        module.find_operating_point(CONFIG, target)
