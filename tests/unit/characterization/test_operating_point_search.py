"""Finding an operating point on a made-up host: no ranker, no thread, a clock that is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tailrank.characterization.load_test import LoadTestConfig, simulate_load
from tailrank.characterization.operating_point import OperatingPointConfig
from tailrank.characterization.operating_point_search import find_operating_point
from tailrank.characterization.service_time import BudgetTooShort
from tailrank.core.clock import ManualClock
from tailrank.core.errors import ConfigError, RequestError
from tailrank.core.fleet import Fleet
from tailrank.core.service_time import ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.reporting.operating_point import metrics, policy_rows, report_data, validity
from tailrank.reporting.stages_file import FileStages
from tailrank.workload.schedule import WorkloadConfig

ITEMS, PARTS, BUSY = (1.0, 100.0, 1000.0), (1.0, 8.0), (1.0, 2.0)
CONFIG = OperatingPointConfig(
    sla=SLA.parse("p75=4ms"), sizes="normal:48,6", num_workers=2, budget_s=60.0
)


def host_table(factor: float = 1.0) -> ServiceTimeTable:
    """100 us for each part, 20 us for each item, a tenth more when both workers are busy."""
    parts, items, busy = np.meshgrid(PARTS, ITEMS, BUSY, indexing="ij")
    median_ns = factor * (1e5 * parts + 2e4 * items) * (0.9 + 0.1 * busy)
    axes = {"num_parts": PARTS, "num_items": ITEMS, "ids_per_item": (3.0,), "busy_workers": BUSY}
    return ServiceTimeTable("cpu made-up", axes, median_ns[:, :, None, :], np.array([1.0, 1.2]))


class Bench:
    """A host whose live runs are a tenth slower than its profile says."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.served: list[tuple[str, float]] = []
        self.stop_after = 1000
        self.profiles = 0
        self.factor, self.seconds = 1.0, 0.25

    def pass_s(self, seconds: float) -> None:
        self.clock.advance_to(self.clock.now_ns() + round(seconds * 1e9))

    def profile(self, config, on_progress, announce) -> ServiceTimeTable:
        if config.budget_s < 1.0:
            raise BudgetTooShort("too short", 1.0)
        self.profiles += 1
        self.pass_s(config.budget_s)
        return host_table(self.factor)

    def load(self, config: OperatingPointConfig) -> LoadTestConfig:
        workload = WorkloadConfig(sizes=config.sizes, ids_per_item=3.0)
        return LoadTestConfig(
            workload=workload,
            sla=config.sla,
            bounds=config.bounds,
            num_workers=2,
            seconds=self.seconds,
        )

    def live(self, config, load, table):
        slower = host_table(1.1)

        def serve(candidate, qps):
            if len(self.served) == self.stop_after:
                raise KeyboardInterrupt
            self.served.append((candidate.policy, candidate.batch_items_max))
            own = replace(load, num_workers=candidate.num_workers)
            fleet = Fleet.uniform(slower, candidate.num_workers)
            self.pass_s(own.num_queries(qps) / qps)
            return simulate_load(own, fleet, config.policy_of(candidate), qps)

        return serve


def find(bench: Bench, config: OperatingPointConfig = CONFIG, **more):
    return find_operating_point(config, bench, clock=bench.clock, **more)


def test_the_best_of_all_contenders_is_found_and_proven_live() -> None:
    said: list[str] = []
    bench = Bench()
    point = find(
        bench,
        replace(CONFIG, fewer_workers=False),
        on_progress=lambda stage, fraction, remark: said.append(stage),
    )
    names = ["static baseline", "DeepRecSched", "best static", "slack"]
    assert [contender.name for contender in point.contenders] == names
    assert list(dict.fromkeys(said)) == ["simulate", "live"]
    found = metrics(point)
    prefixes = ("baseline", "deeprecsched", "best_static", "slack")
    for prefix in (*prefixes, "tuned"):
        assert 0 < found[f"{prefix}.capacity_qps"] < found[f"{prefix}.simulated_capacity_qps"]
        assert found[f"{prefix}.latency_ms_p75"] <= 4.0
    assert found["best_static.simulated_capacity_qps"] >= found["baseline.simulated_capacity_qps"]
    assert found["tuned.capacity_qps"] == max(found[f"{each}.capacity_qps"] for each in prefixes)
    assert validity(point).valid
    assert [row.policy for row in policy_rows(point)] == [*names, "tuned"]
    shown = report_data(point).capacity_by_batch
    assert {row.batch_items for row in shown} >= {16, 32, 48}
    assert bench.clock.now_ns() <= 60e9


def test_further_bounds_cost_capacity() -> None:
    config = replace(CONFIG, policies=("static",), live=False, fewer_workers=False)
    free, bound = (
        metrics(find(Bench(), replace(config, bounds=bounds)))["best_static.simulated_capacity_qps"]
        for bounds in ((), (SLA.parse("p85=4ms"),))
    )
    assert 0 < bound < free


def test_every_search_finds_what_the_grid_does() -> None:
    config = replace(CONFIG, policies=("static",), live=False, fewer_workers=False)
    grid, halving, climb = (
        find(Bench(), replace(config, search=search)).contenders[1].simulated.capacity_qps
        for search in ("grid", "halving", "hill-climb")
    )
    assert min(halving, climb) >= 0.97 * grid > 0


def test_an_interrupted_search_goes_on_from_its_finished_stages(tmp_path) -> None:
    config = replace(CONFIG, policies=("static",), fewer_workers=False)
    whole = metrics(find(Bench(), config))
    first = Bench()
    first.stop_after = 6
    stages = FileStages(tmp_path / "s", {"sla": config.sla}, resume=False, overwrite=False)
    stopped = find(first, config, stages=stages)
    assert stopped.interrupted
    assert "interrupted" in validity(stopped).reasons[-1]
    assert stopped.tuned.live is not None
    again = FileStages(tmp_path / "s", {"sla": config.sla}, resume=True, overwrite=False)
    second = Bench()
    resumed = find(second, config, stages=again)
    assert not resumed.interrupted
    assert second.profiles == 0
    assert metrics(resumed) == pytest.approx(whole)
    served_twice = {first.served[0]} & set(second.served)
    assert not served_twice
    for changed, reason in (
        ({"resume": True, "settings": {"sla": "p50=1ms"}}, "had sla p75=4ms, this one has p50"),
        ({"resume": False, "settings": {"sla": config.sla}}, "go on with --resume, or start again"),
    ):
        with pytest.raises(RequestError, match=reason):
            FileStages(tmp_path / "s", overwrite=False, **changed)
    again.remove()
    with pytest.raises(RequestError, match="no finished stage"):
        FileStages(tmp_path / "s", {}, resume=True, overwrite=False)


def test_an_interrupt_while_simulating_keeps_the_contenders_before_it() -> None:
    bench, seen = Bench(), []

    def stop(stage: str, fraction: float, remark: str) -> None:
        seen.append(remark)
        if len(seen) == 2:  # a point of the baseline, and one of DeepRecSched
            raise KeyboardInterrupt

    point = find(bench, on_progress=stop)
    assert point.interrupted
    assert [each.name for each in point.contenders] == ["static baseline", "DeepRecSched"]
    assert point.tuned.simulated.capacity_qps > 0
    assert not bench.served


def test_a_budget_too_short_says_how_much_is_needed() -> None:
    with pytest.raises(RequestError, match=r"--budget: 20% of 4 s .* allow 5 s or more"):
        find(Bench(), replace(CONFIG, budget_s=4.0))
    slow = Bench()
    slow.factor, slow.seconds = 20.0, 10.0
    config = replace(CONFIG, sla=SLA.parse("p75=80ms"), budget_s=5.0, policies=("static",))
    with pytest.raises(RequestError, match=r"5 s leave 4.0 s .* 10.0 s; allow \d+ s or more, or"):
        find(slow, config)


def test_a_policy_or_search_that_is_not_there_is_named() -> None:
    for fields, said in (
        ({"policies": ("statik",)}, "did you mean 'static'"),
        ({"search": "grit"}, "did you mean 'grid'"),
        ({"budget_s": 0.0}, "--budget"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(CONFIG, **fields)
