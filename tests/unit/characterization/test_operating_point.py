"""The operating point: what was served counts for more than what was simulated."""

from dataclasses import fields, replace

import numpy as np
import pytest

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
from tailrank.reporting.operating_point import busy_batches, metrics, policy_rows, validity
from tailrank.runtime.record import BatchColumns, QueryColumns, RunResult
from tailrank.tuning.candidate import Candidate
from tailrank.tuning.capacity import Capacity

CONFIG = OperatingPointConfig(sla=SLA.parse("p95=10ms"), sizes="fixed:100")


def make_capacity(qps: float, high_qps: float | None = None) -> Capacity:
    summary = LatencySummary.of(np.full(1000, 5e6))
    at = Measurement(qps or 500.0, qps, 100 * qps, 0, 0, summary, Validity())
    return Capacity(qps, high_qps or qps * 1.02, (), at)


def make_contender(name: str, batch: int, simulated: float, live: float | None) -> PolicyCapacity:
    candidate = Candidate(policy="static", batch_items_max=batch)
    return PolicyCapacity(
        name=name,
        prefix=name.replace("static baseline", "baseline").replace(" ", "_"),
        candidate=candidate,
        policy=CONFIG.policy_of(candidate),
        simulated=make_capacity(simulated),
        live=None if live is None else make_capacity(live),
    )


def make_point(baseline: tuple[float, float | None], best: tuple[float, float | None]):
    axes = dict.fromkeys(("num_parts", "num_items", "ids_per_item", "busy_workers"), (1.0,))
    return OperatingPoint(
        config=CONFIG,
        tables={"cpu": ServiceTimeTable("cpu", axes, np.ones((1, 1, 1, 1)), np.ones(1))},
        contenders=(
            make_contender("static baseline", 100, *baseline),
            make_contender("best static", 50, *best),
        ),
    )


@pytest.mark.parametrize(("live_qps", "winner"), [((500, 600), 50), ((700, 600), 100)])
def test_the_better_one_live_is_the_operating_point(live_qps, winner) -> None:
    point = make_point((600, live_qps[0]), (660, live_qps[1]))
    assert point.tuned.policy.batch_items_max == winner
    assert metrics(point)["tuned.capacity_qps"] == max(live_qps)
    rows = policy_rows(point)
    assert [row.policy for row in rows] == ["static baseline", "best static", "tuned"]
    assert rows[0].ratio is None
    assert rows[1].ratio == pytest.approx(live_qps[1] / live_qps[0])
    assert rows[2].capacity_qps == max(live_qps)


def test_without_live_runs_the_ratio_is_of_simulations() -> None:
    assert policy_rows(make_point((600, None), (660, None)))[-1].ratio == pytest.approx(1.1)


def test_what_was_not_served_does_not_win_over_what_was() -> None:
    point = make_point((600, 580), (660, None))
    assert point.tuned is point.baseline
    rows = policy_rows(point)
    assert [row.policy for row in rows] == ["static baseline", "best static*", "tuned"]
    assert rows[1].ratio is None


def test_zero_live_is_no_verdict_while_lower_loads_were_not_tried() -> None:
    point = make_point((600, 580), (660, 0.0))
    cut_short = replace(point.contenders[1], live=make_capacity(0.0, high_qps=500.0))
    point = replace(point, contenders=(point.baseline, cut_short))
    assert "best static: out_of_time: no load below 500 queries/s" in validity(point).reasons[0]
    assert point.tuned is point.baseline


def test_queries_larger_than_the_target_can_be_asked_are_refused() -> None:
    with pytest.raises(ConfigError, match="sizes up to 64 items; these go up to 100"):
        replace(CONFIG, items_limit=64)


def test_packed_batches_are_no_larger_than_what_can_be_timed() -> None:
    config = replace(CONFIG, policies=("slack",))
    assert config.profile_config.num_items[-1] == 800
    assert replace(config, items_limit=300).profile_config.num_items[-1] == 300


def test_the_busiest_stretch_of_a_run_is_shown() -> None:
    """Worker 0 is busy for 60 of every 1,000 ms; at 5 s both are, for 100 ms."""
    started = np.array([*range(0, 10_000, 1000), 5060, 5000], dtype=np.int64)
    done = started + np.array([60] * 10 + [40, 100], dtype=np.int64)
    slot = np.array([0] * 11 + [1], dtype=np.int64)
    ones = np.ones(12, dtype=np.int64)
    columns = BatchColumns(slot, 9 * ones, ones, started * 1_000_000, done * 1_000_000)
    nobody = QueryColumns(*[ones[:0]] * len(fields(QueryColumns)))
    run = RunResult(nobody, columns, 2, 0, 0, ones, True, None)
    shown = sorted((row.worker, row.start_ms, row.end_ms) for row in busy_batches(run))
    assert shown == [(0, 0.0, 60.0), (0, 60.0, 100.0), (1, 0.0, 100.0)]
