"""Finding an operating point on a made-up host: no ranker, no thread, a clock that is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tailrank.characterization import operating_point_search
from tailrank.characterization.load_test import LoadTestConfig, simulate_load
from tailrank.characterization.operating_point import OperatingPointConfig
from tailrank.characterization.operating_point_search import find_operating_point
from tailrank.characterization.service_time import BudgetTooShort
from tailrank.characterization.stages import NoStages
from tailrank.core.clock import ManualClock
from tailrank.core.errors import ConfigError, RequestError
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


def gpu_table(factor: float = 1.0) -> ServiceTimeTable:
    """1 ms for a batch, whatever its size up to a point: worth it for large queries only."""
    axes = {"num_parts": (1.0,), "num_items": ITEMS, "ids_per_item": (3.0,), "busy_workers": (1.0,)}
    median_ns = factor * np.array([1e6, 1.1e6, 2e6]).reshape(1, 3, 1, 1)
    return ServiceTimeTable("gpu made-up", axes, median_ns, np.array([1.0]))


class Bench:
    """A host whose live runs are a tenth slower than its profile says."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.served: list[tuple[str, float]] = []
        self.stop_after = 1000
        self.profiles = 0
        self.factor, self.seconds = 1.0, 0.25

    def table(self, device: str, factor: float) -> ServiceTimeTable:
        return host_table(factor) if device == "cpu" else gpu_table(factor)

    def pass_s(self, seconds: float) -> None:
        self.clock.advance_to(self.clock.now_ns() + round(seconds * 1e9))

    def profile(self, device, config, on_progress, announce) -> ServiceTimeTable:
        if config.budget_s < 1.0:
            raise BudgetTooShort("too short", 1.0)
        self.profiles += 1
        self.pass_s(config.budget_s)
        return self.table(device, self.factor)

    def load(self, config: OperatingPointConfig) -> LoadTestConfig:
        workload = WorkloadConfig(sizes=config.sizes, ids_per_item=3.0)
        return LoadTestConfig(
            workload=workload,
            sla=config.sla,
            bounds=config.bounds,
            num_workers=2,
            seconds=self.seconds,
        )

    def live(self, config, load, tables):
        slower = {device: self.table(device, 1.1) for device in tables}

        def serve(candidate, qps):
            if len(self.served) == self.stop_after:
                raise KeyboardInterrupt
            self.served.append((candidate.policy, candidate.batch_items_max))
            fleet = config.fleet_of(candidate, slower, load.workload.model)
            own = replace(load, num_workers=len(fleet.devices))
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


MIXED = replace(
    CONFIG,
    sizes="production",
    sla=SLA.parse("p50=15ms"),
    accelerators=("cuda",),
    policies=("deeprecsched", "static", "offload"),
    search="hill-climb",
    fewer_workers=False,
)


def test_large_queries_go_to_the_accelerator_where_that_pays(tmp_path) -> None:
    bench = Bench()
    stages = FileStages(tmp_path / "s", {}, resume=False, overwrite=False)
    point = find(bench, MIXED, stages=stages)
    names = ["static baseline", "DeepRecSched", "best static", "best offload"]
    assert [each.name for each in point.contenders] == names
    found = metrics(point)
    assert found["deeprecsched.offload_threshold_items"] in (96, 128, 192, 256, 384, 512)
    assert "best_static.offload_threshold_items" not in found
    for accelerated in ("deeprecsched", "best_offload"):
        own, cores = (f"{each}.capacity_qps" for each in (accelerated, "best_static"))
        assert found[own] > 1.2 * found[cores] > 0, "a third worker, and faster where it counts"
    assert found["best_offload.simulated_capacity_qps"] >= (
        0.98 * found["deeprecsched.simulated_capacity_qps"]
    )
    assert bench.profiles == 2
    assert {path.name for path in (tmp_path / "s").glob("profile*")} == {
        "profile.json",
        "profile-cuda.json",
    }
    again = FileStages(tmp_path / "s", {}, resume=True, overwrite=False)
    assert metrics(find(second := Bench(), MIXED, stages=again)) == pytest.approx(found)
    assert second.profiles == 0
    assert not second.served


def test_deeprecsched_climbs_over_batches_and_then_over_thresholds() -> None:
    config = replace(MIXED, live=False, policies=("deeprecsched",))
    (_, found) = find(Bench(), config).contenders
    seen = [
        (each.candidate.batch_items_max, each.candidate.offload_threshold_items)
        for each in found.brackets
    ]
    batches = [batch for batch, threshold in seen if threshold is None]
    assert batches == sorted(batches, reverse=True)
    thresholds = [threshold for _, threshold in seen if threshold is not None]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == 96
    assert len({batch for batch, threshold in seen if threshold is not None}) == 1


def test_kairos_deals_queries_out_over_all_devices() -> None:
    bench, config = Bench(), replace(MIXED, sizes="fixed:300", policies=("kairos",))
    kairos = config.contenders[1].space.candidates()[0]
    tables = {"cpu": host_table(), "cuda": gpu_table()}
    _, run = bench.live(config, bench.load(config), tables)(kairos, 500.0)
    assert run.num_workers == 3
    assert set(run.batches.slot) == {0, 1, 2}


def test_the_grid_tries_every_batch_with_every_threshold() -> None:
    config = replace(MIXED, sizes="fixed:24", policies=("offload",), search="grid", live=False)
    space = config.contenders[1].space
    seen = [each.candidate for each in find(Bench(), config).contenders[1].brackets]
    assert sorted(map(repr, seen)) == sorted(map(repr, space.candidates()))
    wide = replace(config, sizes="fixed:128").contenders[1].space
    assert wide.offload_threshold_items == (96, 128)
    assert len(wide.candidates()) == 2 * len(wide.batch_items_max)


def test_no_run_is_over_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any load would keep it: a short round found 1e100 queries/s for Kairos, and then none."""
    runs: list[tuple[int, float, float]] = []

    def spy(load, fleet, policy, qps):
        runs.append((load.queries, load.queries / qps, qps))
        return simulate_load(load, fleet, policy, qps)

    monkeypatch.setattr(operating_point_search, "simulate_load", spy)
    config = replace(CONFIG, sla=SLA.parse("p50=100ms"), policies=("static",), live=False)
    config = replace(config, sizes="fixed:24", fewer_workers=False)
    bench = Bench()
    search = operating_point_search._Search(
        config, bench, NoStages(), lambda *words: None, lambda text: None, bench.clock
    )
    search.profile({})
    best = search.simulate().tuned.candidate
    assert min(queries for queries, *_ in runs) < 100, "what workers can do needs no longer run"
    for qps in (10_000.0, 1e9):
        search._simulate(best, qps, 24)
        queries, seconds, _ = runs[-1]
        assert seconds >= 0.2 or queries == 20_000


def test_policies_that_cannot_use_the_devices_are_refused() -> None:
    for fields, said in (
        ({"policies": ("slack",), "accelerators": ("cuda",)}, "workers that are alike"),
        ({"policies": ("offload",)}, "--policy: got 'offload'; allowed: a policy of the cores"),
        ({"policies": ("kairos",)}, "without --devices"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(CONFIG, **fields)


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
