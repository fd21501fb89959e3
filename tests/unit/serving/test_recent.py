"""The last minutes are what was done in each second; nothing waits: the test owns the clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.serving.served import PlainRanker, engine_of, served
from tests.unit.serving.test_stages import candidates, light, started

from tailrank.core.clock import ManualClock
from tailrank.core.latency import LatencySummary
from tailrank.serving import http
from tailrank.serving.engine import Engine
from tailrank.serving.http import build_app
from tailrank.serving.ranking import Timing
from tailrank.serving.recent import WINDOW_PERIODS, RecentSeconds
from tailrank.serving.stages import Filter
from tailrank.serving.stats import BOUNDS_ITEMS

SECOND_NS = 1_000_000_000


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = engine_of(served(PlainRanker()), limit="p95=100s", num_workers=2)
    engine.start()
    yield engine
    engine.drain()


def second(recent: RecentSeconds, clock: ManualClock, lasted_s: float = 1.0) -> Any:
    clock.advance_to(clock.now_ns() + round(lasted_s * SECOND_NS))
    recent.take()
    return recent.since(0.0)[-1]


def test_a_second_has_what_was_done_in_it(engine: Engine) -> None:
    engine.submit(engine.model.random_query(7, 0)).result(30)
    clock = ManualClock(5)
    recent = RecentSeconds(engine, clock)
    for num_items in (3, 20):
        engine.submit(engine.model.random_query(num_items, 0)).result(30)
    engine.stats.shed["too_late"] += 6
    engine.stats.busy_ns = SECOND_NS
    first = second(recent, clock, 2.0)
    assert (first.queries_per_s, first.items_per_s, first.batches_per_s) == (1.0, 11.5, 1.5)
    assert first.shed_per_s == {"too_late": 3.0}
    assert first.batch_items == 23 / 3
    sizes = dict(zip(BOUNDS_ITEMS, first.batch_sizes, strict=False))
    assert (sizes[4], sizes[16]) == (1, 2)
    assert sum(first.batch_sizes) == 3
    assert 0.0 < first.workers_busy_fraction <= 0.25
    assert all(0.0 <= fraction <= 1.0 for fraction in first.cores_busy_fraction.values())
    then = second(recent, clock)
    assert (then.queries_per_s, then.batches_per_s, then.batch_items) == (0.0, 0.0, None)
    assert then.shed_per_s == {"too_late": 0.0}
    assert then.at >= first.at
    assert recent.since(then.at) == []
    assert recent.up_seconds == 3.0


def test_a_reason_that_comes_up_while_it_looks_belongs_to_the_next_second(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    recent = RecentSeconds(engine, clock)
    look = recent._percentiles_ms

    def shed_meanwhile() -> Any:
        engine.stats.shed["lost"] += 1
        return look()

    with monkeypatch.context() as patch:
        patch.setattr(recent, "_percentiles_ms", shed_meanwhile)
        assert second(recent, clock).shed_per_s == {}
    assert second(recent, clock).shed_per_s == {"lost": 1.0}


def test_percentiles_are_those_of_the_window_with_their_bounds(engine: Engine) -> None:
    clock = ManualClock()
    recent = RecentSeconds(engine, clock)
    assert second(recent, clock).latency_ms == {}
    times = [Timing(1_000_000 * n, 1_000_000, 1_000_000 * (n + 1)) for n in range(200)]
    engine.stats.latest.extend(times[:120])
    second(recent, clock)
    engine.stats.latest.extend(times[120:])
    found = second(recent, clock)
    summary = LatencySummary.of([timing.total_ns for timing in times])
    for name, percentile in (("p50", 50.0), ("p95", 95.0), ("p99", 99.0)):
        value, low, high = found.latency_ms[name]
        expected = summary.percentile(percentile)
        assert (value, low, high) == (expected.value / 1e6, expected.low / 1e6, expected.high / 1e6)
        assert found.queueing_ms[name][0] == value - 1.0
    assert not engine.stats.latest, "what was taken is not taken again"
    for _ in range(WINDOW_PERIODS - 1):
        last = second(recent, clock)
    assert last.latency_ms["p50"][0] == times[120:][39].total_ns / 1e6
    assert second(recent, clock).latency_ms == {}


def test_a_percentile_of_the_sla_that_is_not_among_the_usual_is_added() -> None:
    engine = engine_of(limit="p99.9=20ms")
    engine.start()
    recent = RecentSeconds(engine)
    engine.stats.latest.append(Timing(1, 2, 3))
    recent.take()
    engine.drain()
    assert list(recent.since(0.0)[0].latency_ms) == ["p50", "p95", "p99", "p99.9"]


def test_each_stage_has_its_seconds() -> None:
    with started(Filter(model=light(), keep=5)) as engine:
        clock = ManualClock()
        recent = RecentSeconds(engine, clock)
        ranked = [engine.rank(candidates(range(40))).result(30) for _ in range(2)]
        found = second(recent, clock, 2.0)
        stages = {stage.stage: stage for stage in found.stages}
        assert {name: stage.items_per_s for name, stage in stages.items()} == {
            "light": 40.0,
            "heavy": 5.0,
        }
        times = [answer.stages[1].timing for answer in ranked]
        mean_ms = sum(timing.compute_ns for timing in times) / 2 / 1e6
        assert stages["heavy"].compute_ms == pytest.approx(mean_ms)
        assert second(recent, clock).stages[0].compute_ms is None


def test_over_http_only_what_is_new_is_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RecentSeconds] = []

    def keep(engine: Engine) -> RecentSeconds:
        made.append(RecentSeconds(engine))
        return made[0]

    monkeypatch.setattr(http, "RecentSeconds", keep)
    client = TestClient(build_app(engine))
    engine.submit(engine.model.random_query(3, 0)).result(30)
    made[0].take()
    told = client.get("/v1/stats").json()
    assert told["sla"] == {"percentile": 95.0, "limit_ms": 100_000.0}
    assert (told["model"], told["workers"], told["ready"]) == ("plain", 2, True)
    assert told["totals"]["queries"] == 1
    (only,) = told["seconds"]
    value, low, high = only["latency_ms"]["p99"]
    assert value > 0.0
    assert (low, high) == (0.0, None), "one query bounds nothing"
    again = client.get("/v1/stats", params={"since": only["at"]})
    assert again.json()["seconds"] == []
    assert again.headers["cache-control"] == "no-store"
    for since in ("soon", "nan", "inf"):
        refused = client.get("/v1/stats", params={"since": since})
        assert refused.status_code == 400
        assert refused.json()["error"]["field"] == "since"


def test_the_page_holds_no_number_and_forbids_all_from_elsewhere(engine: Engine) -> None:
    client = TestClient(build_app(engine, token=b"s3cret"))
    page = client.get("/")
    assert page.status_code == 200
    assert "plain" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert "script-src 'sha256-" in policy
    assert "style-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert client.get("/v1/stats").status_code == 401
    asked = client.get("/v1/stats", headers={"Authorization": "Bearer s3cret"})
    assert asked.json()["model"] == "plain"


def test_it_looks_as_long_as_the_server_runs(engine: Engine) -> None:
    recent = RecentSeconds(engine, period_s=0.001)
    with recent.kept():
        # However late the thread looks: a second can be over before the first answer is.
        give_up_s = time.monotonic() + 30.0
        while not any(second.queries_per_s for second in recent.since(0.0)):
            assert time.monotonic() < give_up_s, "no answered query was ever seen"
            engine.submit(engine.model.random_query(3, 0)).result(30)
    told = len(recent.since(0.0))
    engine.submit(engine.model.random_query(3, 0)).result(30)
    assert len(recent.since(0.0)) == told
