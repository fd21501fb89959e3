"""The parts of `benchmarks/bench_policies.py` that measure nothing: oracle, bounds, page."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailrank.characterization.load_test import LoadTestConfig
from tailrank.characterization.service_time import ProfileConfig
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.reporting.result import Result
from tailrank.scheduling.policies import PolicyConfig

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are scripts that import one another by name."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def make_table() -> ServiceTimeTable:
    """100 µs a batch and 10 µs an item, with no spread, beside any number of busy workers."""
    axes = ((1, 8), (1, 8, 1000), (0,), (1, 2))
    parts, items, _, _ = np.meshgrid(*axes, indexing="ij")
    return ServiceTimeTable(
        device="made up",
        axes={name: tuple(map(float, axis)) for name, axis in zip(AXES, axes, strict=True)},
        median_ns=np.where(items >= parts, 1e5 + 1e4 * items, np.nan),
        spread=np.ones(1),
    )


def make_simulation(sla_class: str, queries: int = 60):
    from policy_cells import Cell, Simulation, sla_of, workload_of

    cell, table = Cell("dlrm-rmc2", "production", sla_class), make_table()
    config = LoadTestConfig(
        workload=workload_of(cell, 0.0), sla=sla_of(cell, table), num_workers=2, queries=queries
    )
    return Simulation(config, table)


def test_slas_are_the_papers_a_tenth_and_three_mean_queries() -> None:
    from policy_cells import Cell, sla_of

    of = [sla_of(Cell("ncf", "mlperf", it), make_table()) for it in ("paper", "tenth", "tight")]
    assert [sla.latency_ns for sla in of[:2]] == [5_000_000, 500_000]
    assert of[2].latency_ns == pytest.approx(3 * (100_000 + 270 * 10_000), rel=0.01)
    assert {sla.percentile for sla in of} == {95.0}


def test_the_oracle_holds_as_much_as_the_best_policy_of_a_plain_grid() -> None:
    from policy_cells import TOLERANCE, static_policy

    simulation = make_simulation("tight")
    policies = [static_policy(batch) for batch in (32, 250, 1000)]
    capacities = [simulation.capacity_qps(policy) for policy in policies]
    assert 0 < min(capacities) < max(capacities) / (1 + TOLERANCE)
    known = policies[0], capacities[0]
    best, best_qps = make_simulation("tight").best(policies[1:], known)
    assert best == policies[int(np.argmax(capacities))]
    assert best_qps == pytest.approx(max(capacities), rel=2 * TOLERANCE)


def test_what_is_ruled_out_without_a_run_misses_in_one() -> None:
    from policy_cells import static_policy

    simulation, policy = make_simulation("tenth", queries=300), static_policy(16)
    loads = [2.0**octave for octave in range(4, 13)]
    ruled_out = [qps for qps in loads if not simulation.may_keep_up(policy, qps)]
    assert ruled_out
    assert not any(simulation.passes(policy, qps) for qps in ruled_out)
    assert simulation.may_keep_up(policy, 1.0)


def test_the_judge_asks_for_p99_and_for_no_rejects() -> None:
    from policy_cells import judge_seen, static_policy
    from tailrank.tuning.capacity import Verdict

    simulation = make_simulation("paper")
    kept = simulation.measure(static_policy(1000), 10.0)
    assert judge_seen(kept, simulation.sla) is Verdict.PASS
    assert judge_seen(replace(kept, num_rejected=1), simulation.sla) is Verdict.MISS
    slow = np.full(100, 1e6)
    slow[:3] = 3.1 * simulation.sla.latency_ns  # 3 %: inside p95, beyond what p99 allows
    slowed = replace(kept, summary=type(kept.summary).of(slow))
    assert judge_seen(slowed, simulation.sla) is Verdict.MISS


def test_a_case_may_err_by_what_its_policies_differ_from_themselves(monkeypatch) -> None:
    """A slower host slows profile and live run alike: each round is held to its own."""
    from bench_policies import extremes
    from policy_live import LiveCase, LiveSettings, Simulation, measure_case

    live = iter([100.0, 80.0, 95.0, 110.0, 82.0, 95.0, 96.0, 81.0, 98.0])
    simulated = iter([110.0, 80.0, 95.0, 121.0, 82.0, 95.0, 96.0, 81.0, 98.0])
    profiles: list[ServiceTimeTable] = []
    policies = {
        who: (PolicyConfig(policy="static", batch_items_max=9), qps)
        for who, qps in (("baseline", 110.0), ("static", 82.0), ("slack", 95.0))
    }
    monkeypatch.setattr(LiveCase, "policies", lambda self: policies)
    monkeypatch.setattr(LiveCase, "live", lambda self, policy, qps: next(live))
    monkeypatch.setattr(LiveCase, "timed_again", lambda self, table: profiles.append(table) or self)
    monkeypatch.setattr(Simulation, "capacity_qps", lambda self, policy, near: next(simulated))
    case = LiveCase.__new__(LiveCase)
    case.sla, case.settings = SLA.parse("p95=10ms"), LiveSettings(num_workers=2)
    case.simulation = Simulation.__new__(Simulation)
    metrics = measure_case(case, "rmc1.production.tenth", make_table, lambda text: None)
    assert len(profiles) == 3
    assert metrics["live.rmc1.production.tenth.baseline_qps"] == 100.0
    assert metrics["simulation_error_fraction.rmc1.production.tenth"] == pytest.approx(0.1)
    assert metrics["aa_spread_fraction.rmc1.production.tenth"] == pytest.approx(110 / 96 - 1)
    assert extremes(metrics)["num_cases_beyond_error"] == 0
    metrics["aa_spread_fraction.rmc1.production.tenth"] = 0.01
    assert extremes(metrics)["num_cases_beyond_error"] == 1


def test_a_live_load_counts_as_missed_once_it_was_missed_twice(monkeypatch) -> None:
    from policy_live import LiveCase

    simulation = make_simulation("paper")
    kept = simulation.measure(PolicyConfig(policy="static", batch_items_max=1000), 10.0)
    missed = replace(kept, num_rejected=1)
    case, policy = LiveCase.__new__(LiveCase), PolicyConfig(policy="static", batch_items_max=9)
    case.sla = simulation.sla
    for served, counts, left in (
        ([kept, missed], kept, 1),
        ([missed, kept], kept, 0),
        ([missed, missed], missed, 0),
    ):
        runs = iter(served)
        monkeypatch.setattr(LiveCase, "serve", lambda self, policy, qps, runs=runs: next(runs))
        assert case.serve_again(policy, 10.0) is counts
        assert len(list(runs)) == left


def test_a_quick_profile_knows_a_few_items_in_several_parts(monkeypatch) -> None:
    import bench_policies

    configs: list[ProfileConfig] = []
    monkeypatch.setattr(
        bench_policies, "measure_profile", lambda target, config, *others: configs.append(config)
    )
    for settings in (bench_policies.Settings(), bench_policies.quick(bench_policies.Settings())):
        bench_policies.profile_quickly("ncf", None, settings)
    for config in configs:
        axes = (config.num_parts, config.num_items, (0,), (1,))
        median_ns = np.array([[n if n >= p else np.nan for n in axes[1]] for p in axes[0]])
        table = ServiceTimeTable(
            "", dict(zip(AXES, axes, strict=True)), median_ns[:, :, None, None], np.ones(1)
        )
        for parts in range(1, 9):
            for items in range(parts, 20):
                assert table.lookup_ns(parts, items, 0, 1) > 0


def test_the_page_says_what_was_met_and_what_was_missed() -> None:
    from policies_report import lines_of

    case = "rmc1.production.tenth"
    metrics = {
        "slack_over_static_oracle.tight.geomean": 1.2,
        "slack_over_static_oracle.min": 0.9,
        "simulation_error_fraction.max": 0.06,
        "num_cases_beyond_error": 0,
        "journal.num_steps": 1000,
        "journal.num_steps_different": 1,
        "stalled.latency_ms_p99": 41.0,
        "unstalled.latency_ms_p99": 4.0,
        f"live.{case}.sla_ms": 10.0,
        f"live.{case}.static_batch_items_max": 320,
        f"live.{case}.static_qps": 1900.0,
        f"live.{case}.static_simulated_qps": 1950.0,
    }
    cell = {
        "name": case,
        "sla_ms": 10.0,
        "baseline_qps": 0.0,
        "static_qps": 0.0,
        "static_batch_items_max": 500,
        "slack_qps": 7.0,
        "slack_batch_items_max": 640,
        "slack_untuned_qps": 6.0,
    }
    nobody = cell | {"name": "ncf.mlperf.tenth", "slack_qps": 0.0}
    config = {"seconds": {"simulate": 7.0}, "load_average_before": [0.1], "cells": [cell, nobody]}
    result = Result(command="bench_policies", config=config, seed=0, metrics=metrics)
    page = "\n".join(lines_of(result, Path("policies.json")))
    assert "| the same, 3x the mean query | >= 1.15 | **1.2** | met |" in page
    assert "| the same, the worst cell | >= 0.98 | **0.9** | **missed** |" in page
    assert "more than A/A; most: 6.0% | 0 | **0** | met |" in page
    assert "| 0 | **1** | **missed** |" in page
    assert "**41.0** | met |" in page
    assert "1,900 (1,950) [320]" in page
    assert f"| {case} | 10 | 0 | 0 (500) | 7 (640) |  |  |" in page
    assert "as nobody holds a load: ncf.mlperf.tenth." in page
    assert f"as only `slack` does: {case}." in page


def test_both_policies_are_tuned_over_one_grid_and_next_to_nothing_is_no_load(monkeypatch) -> None:
    import policy_cells

    monkeypatch.setattr(policy_cells, "ORACLE_BATCHES", (64, 1000))
    cell = policy_cells.Cell("dlrm-rmc2", "production", "tight")
    found = policy_cells.simulate_cell(cell, make_table(), 2, 60, with_search=False)
    assert found.slack_qps >= found.slack_untuned_qps > 0
    assert found.static_batch in (64, 500, 1000)
    assert found.slack_batch in (64, 1000)
    simulation = make_simulation("tight")
    full_qps = simulation.rough_qps / 0.6
    assert simulation.served(0.011 * full_qps) == 0.011 * full_qps
    assert simulation.served(0.009 * full_qps) == 0.0


def test_ratios_are_of_cells_where_the_oracle_holds_a_load() -> None:
    from bench_policies import summary
    from policy_cells import Cell, CellFound

    def found(sizes: str, static_qps: float, slack_qps: float, untuned_qps: float) -> CellFound:
        return CellFound(
            cell=Cell("ncf", sizes, "tenth"),
            sla_ms=0.5,
            baseline_qps=0.0,
            static_qps=static_qps,
            static_batch=500,
            slack_qps=slack_qps,
            slack_batch=640,
            slack_untuned_qps=untuned_qps,
            search_over_oracle=None,
            search_s=0.0,
        )

    metrics = summary([found("production", 100.0, 120.0, 90.0), found("mlperf", 0.0, 5.0, 5.0)], {})
    assert metrics["slack_over_static_oracle.tenth.geomean"] == pytest.approx(1.2)
    assert metrics["slack_untuned_over_static_oracle.min"] == pytest.approx(0.9)
    assert (metrics["num_cells"], metrics["num_cells_without_static"]) == (1, 1)
