"""Models on one machine: each keeps its own SLA, and who has which workers follows from that."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.characterization.small_target import small_target

from tailrank.characterization import contention as contention_module
from tailrank.characterization import service_time, worker_division
from tailrank.characterization.colocation import JointLoad, JointLoadConfig, Tenant
from tailrank.characterization.companion_tables import TenantTables, companion
from tailrank.characterization.contention import Cell, Contention, Sample, measure_contention
from tailrank.characterization.sharing_plans import divisions
from tailrank.characterization.worker_division import Colocation, find_division
from tailrank.core.errors import ConfigError
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import Division, PolicyConfig, divide_workers

MS = 1_000_000
TARGETS = {name: small_target(name) for name in ("a", "b")}


def tenant(name: str, sla: str = "p90=50ms", share: float = 0.5, sizes: str = "fixed:8") -> Tenant:
    return Tenant(target=TARGETS[name], sla=SLA.parse(sla), share=share, sizes=sizes)


def table(item_ns: float, slowdown: float = 1.0, top: int = 8) -> ServiceTimeTable:
    """Service times in proportion to items; so many times slower with two busy workers."""
    axes = {"num_parts": (1.0,), "num_items": (1.0, float(top)), "busy_workers": (1.0, 2.0)}
    axes["ids_per_item"] = (TARGETS["a"].ids_per_item,)
    median_ns = item_ns * np.array([1.0, top]).reshape(1, 2, 1, 1) * np.array([1.0, slowdown])
    return ServiceTimeTable("test", {name: axes[name] for name in AXES}, median_ns, np.ones(1))


def search(
    monkeypatch: pytest.MonkeyPatch,
    tenants: list[Tenant],
    tables: dict[str, TenantTables],
    **settings,
) -> Colocation:
    """The division that is found for these service times, simulated."""
    monkeypatch.setattr(worker_division, "measure_tenants", lambda *words, **named: tables)
    config = JointLoadConfig(num_workers=2, seconds=0.01)
    return find_division(tenants, config, profile_seconds=1.0, live=False, **settings)


def test_queries_of_all_models_come_in_one_order_at_their_own_rates() -> None:
    load = JointLoad(JointLoadConfig(num_workers=2, seconds=2.0), [tenant("a"), tenant("b")])
    schedule = load.schedule((300.0, 900.0), payloads=False)
    assert [query.query_id for query in schedule] == list(range(len(schedule)))
    times_ns = np.array([query.scheduled_ns for query in schedule])
    assert (np.diff(times_ns) >= 0).all()
    counts = {name: sum(query.model == name for query in schedule) for name in "ab"}
    assert counts["b"] / counts["a"] == pytest.approx(3.0, rel=0.2)
    last_ns = {query.model: query.scheduled_ns for query in schedule}
    assert min(last_ns.values()) > times_ns[-1] - 50 * MS, "no model is left alone at the end"
    assert all(query.deadline_ns == query.scheduled_ns + 50 * MS for query in schedule)
    assert load.schedule((300.0, 900.0), payloads=False) == schedule
    assert {query.model for query in load.schedule((0.0, 900.0), payloads=False)} == {"b"}


def test_a_run_lasts_until_those_who_are_judged_have_enough_queries() -> None:
    tenants = [tenant("a", "p90=50ms"), tenant("b", "p50=50ms")]
    load = JointLoad(JointLoadConfig(num_workers=2, seconds=2.0), tenants)
    assert load.run_seconds((400.0, 400.0)) == 2.0
    whole_s = load.run_seconds((4.0, 4.0))
    assert whole_s == load.run_seconds((4.0, 4.0), "a") > 5 * load.run_seconds((4.0, 4.0), "b")
    assert load.run_seconds((1e-3, 400.0), "b") == 2.0, "who only makes noise needs no percentile"
    last = load.schedule((4.0, 400.0), payloads=False, judged="b")[-1]
    assert last.scheduled_ns < 3e9
    assert load.schedule((4.0, 400.0), payloads=False)[-1].scheduled_ns > 0.7e9 * whole_s


def test_a_run_is_told_model_by_model_on_the_workers_that_each_had() -> None:
    tenants = [tenant("a", "p50=1s"), tenant("b", "p50=1s")]
    load = JointLoad(JointLoadConfig(num_workers=2, seconds=0.1), tenants)
    static = PolicyConfig(policy="static", batch_items_max=8)
    divided = divide_workers(Division(("a",), (0,), static), Division(("b",), (1,), static))
    runs = load.live(divided, (400.0, 200.0))
    assert {name: run.num_workers for name, run in runs.items()} == {"a": 1, "b": 1}
    assert set(runs["a"].batches.slot) == {0}
    assert len(runs["a"].queries.query_id) > len(runs["b"].queries.query_id)
    shared = load.live(static, (400.0, 200.0))
    assert shared["a"].num_workers == 2
    assert len(shared["a"].batches.slot) == len(shared["b"].batches.slot), "all batches of both"


def test_neighbours_of_either_kind_are_blended() -> None:
    own, beside = table(1000.0, slowdown=1.2), table(1000.0, slowdown=2.0)
    mixed = TenantTables(own, replace(beside, spread=np.full(1, 3.0))).blend(0.25)
    assert mixed.lookup_ns(1, 8, round(8 * TARGETS["a"].ids_per_item), 1) == 8000
    assert mixed.lookup_ns(1, 8, round(8 * TARGETS["a"].ids_per_item), 2) == 8000 * 1.8
    assert mixed.spread == 2.0


def test_models_that_are_alike_share_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A common queue never leaves a worker idle beside a waiting query."""
    same = TenantTables(table(100_000.0), table(100_000.0))
    found = search(
        monkeypatch, [tenant("a", "p90=5ms"), tenant("b", "p90=5ms")], dict.fromkeys("ab", same)
    )
    assert [one.plan.name for one in found.plans] == ["shared", "divided 1+1"]
    best = found.plans[0].simulated
    assert best.capacity_qps > 1.1 * found.plans[1].simulated.capacity_qps
    assert found.dedicated_qps == pytest.approx(best.capacity_qps, rel=0.1), "nothing is contended"


def test_a_quick_model_is_kept_apart_from_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the other's long batches it would miss its SLA at almost any load."""
    tables = {
        "a": TenantTables(table(10_000.0), table(10_000.0, 1.1)),
        "b": TenantTables(table(1e6), table(1e6, 1.1)),
    }
    tenants = [tenant("a", "p90=1ms", share=0.8), tenant("b", "p90=80ms", share=0.2)]
    found = search(monkeypatch, tenants, tables)
    assert found.plans[0].plan.name == "divided 1+1"
    assert found.plans[0].simulated.capacity_qps > 3 * found.plans[1].simulated.capacity_qps
    for one, own in zip(tenants, found.plans[0].simulated_at, strict=True):
        assert own.summary.percentile(one.sla.percentile).value <= one.sla.latency_ns


def test_contention_lowers_what_a_division_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = [tenant("a", "p90=5ms"), tenant("b", "p90=5ms")]

    def divided_qps(slowdown: float) -> float:
        tables = TenantTables(table(100_000.0), table(100_000.0, slowdown))
        found = search(monkeypatch, tenants, dict.fromkeys("ab", tables))
        plans = {one.plan.name: one.simulated.capacity_qps for one in found.plans}
        return plans["divided 1+1"]

    assert divided_qps(1.5) < 0.9 * divided_qps(1.0)


def test_an_interrupt_keeps_the_plans_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(stage: str, fraction: float, remark: str) -> None:
        if remark.startswith("divided"):
            raise KeyboardInterrupt

    same = TenantTables(table(100_000.0), table(100_000.0))
    tenants = [tenant("a"), tenant("b")]
    found = search(monkeypatch, tenants, dict.fromkeys("ab", same), on_progress=stop)
    assert found.interrupted
    assert [one.plan.name for one in found.plans] == ["shared"]


def test_divisions_stay_near_the_work_and_use_every_worker() -> None:
    tables = {"a": TenantTables(table(9e4), table(9e4)), "b": TenantTables(table(1e4), table(1e4))}
    tenants = [tenant("a"), tenant("b")]
    many = divisions(JointLoad(JointLoadConfig(num_workers=20), tenants), tables)
    assert many == [(17, 3), (18, 2), (19, 1)], "nine tenths of the work: 18 of 20 workers"
    assert divisions(JointLoad(JointLoadConfig(num_workers=1), tenants), tables) == []


@pytest.mark.parametrize(
    ("tenants", "complaint"),
    [
        (["a"], "models: got .'a'.; allowed: at least two"),
        (["a", "a"], "models of different names"),
        (["a", "b", "b"], "shares"),
    ],
)
def test_refuses_what_is_no_co_location(tenants: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find_division(
            [tenant(name) for name in tenants], JointLoadConfig(num_workers=2), profile_seconds=1.0
        )


def test_tables_are_measured_beside_the_other_model_and_plans_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole way in small, live; what it finds is the host's business."""
    monkeypatch.setattr(service_time, "_REPEATS_MAX", 1)
    ran: set[tuple[str, bool]] = set()
    said: list[str] = []
    tenants = [tenant("a", "p50=200ms"), tenant("b", "p50=200ms")]
    monkeypatch.setattr(worker_division, "_LIVE_PROBES", 2)

    def note(stage: str, fraction: float, remark: str) -> None:
        assert 0.0 <= fraction <= 1.0
        ran.add((stage, "divided 1+1" in remark))

    found = find_division(
        tenants,
        # Less than p50 takes on the quickest host: at 0.01 s one of 10,000 queries/s had enough.
        JointLoadConfig(num_workers=2, seconds=1e-4),
        profile_seconds=60.0,
        on_progress=note,
        announce=said.append,
    )
    plans = [text for text in said if "up to 2 live runs of" in text]
    assert [text.partition(":")[0] for text in plans] == ["shared", "divided 1+1"]
    assert all("rather than 0.0001 s: " in text and "its p50" in text for text in plans)
    assert {("profile", False), ("simulate", True), ("live", True)} <= ran
    assert all(one.live is not None and len(one.live_at) == 2 for one in found.plans)
    assert found.tables["a"].beside.axes["busy_workers"] == (1.0, 2.0)


def test_a_companion_runs_the_others_queries_by_their_shares() -> None:
    sizes: dict[str, list[int]] = {"a": [], "b": []}
    lock = threading.Lock()

    class Counting:
        def __init__(self, name: str) -> None:
            self.name = name
            self.pool = TARGETS[name].pool

        def run_batch(self, batch) -> list[None]:
            with lock:
                sizes[self.name].append(batch.num_items)
            return [None]

    tenants = [
        replace(tenant(name, share=share, sizes="normal:20,5"), target=Counting(name))
        for name, share in (("a", 0.8), ("b", 0.2))
    ]
    run = companion(tenants, seed=0)
    for number in range(500):
        run(number % 2)
    assert len(sizes["a"]) / 500 == pytest.approx(0.8, abs=0.06)
    assert np.mean(sizes["a"] + sizes["b"]) == pytest.approx(20, abs=1.5)


def test_ratios_are_of_the_same_round() -> None:
    def sample(value: float) -> Sample:
        return Sample(value, value, value, value)

    loaded, alone = Cell("shared", "a", 0.4), Cell("shared", "a", 0.0)
    slow_rounds = [1.0, 10.0, 100.0]
    runs = {alone: [sample(s) for s in slow_rounds], loaded: [sample(2 * s) for s in slow_rounds]}
    ratio = Contention(runs).ratio(loaded, "latency_ns_p95")
    assert ratio == (pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0))
    assert Contention({loaded: runs[loaded]}).ratio(loaded, "latency_ns_p95") is None
    few = {cell: samples[:2] for cell, samples in runs.items()}
    assert Contention(few).ratio(loaded, "latency_ns_p95") == (pytest.approx(2.0), 0.0, np.inf)


def test_contention_is_measured_in_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention_module, "OTHERS_LOADS", (0.0, 0.4))
    tables = dict.fromkeys("ab", TenantTables(table(1e5), table(1e5)))
    config = JointLoadConfig(num_workers=2, seconds=0.01)
    tenants = [tenant("a", "p50=1s"), tenant("b", "p50=1s")]
    said: list[str] = []
    found = measure_contention(
        JointLoad(config, tenants), tables, rounds=1, models=["b"], announce=said.append
    )
    (text,) = said
    assert text.startswith("contention: 4 runs of 0.01 s or more, ")
    assert set(found.samples) == {
        Cell(sharing, "b", load) for sharing in ("divided", "shared") for load in (0.0, 0.4)
    }
    for (sample,) in found.samples.values():
        assert 0 < sample.latency_ns_p50 <= sample.latency_ns_p95 <= sample.latency_ns_p99
        assert 0 < sample.service_ns_per_item < sample.latency_ns_p50
    alone = JointLoad(JointLoadConfig(num_workers=1), tenants)
    with pytest.raises(ConfigError, match="--workers: got 1; allowed: at least 2"):
        measure_contention(alone, tables, rounds=1)
