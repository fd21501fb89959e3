"""The engine: right scores under every policy, bounded, and a fault of one query is its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
import torch
from tests.fleets import line_fleet
from tests.unit.serving.served import PlainRanker, engine_of, served

from tailrank.core.errors import ConfigError, Overloaded, RequestError, ServingError
from tailrank.core.fleet import Fleet
from tailrank.core.sla import SLA
from tailrank.features import FeatureBatch
from tailrank.scheduling.policies import PolicyConfig
from tailrank.serving.engine import Engine
from tailrank.serving.engine_config import server_policy
from tailrank.serving.lineup import Lineup

SLA_1H = SLA.parse("p99=1h")


def named(fleet: Fleet) -> Fleet:
    """The fleet as one that serves the model that these tests serve."""
    table = fleet.tables["", "cpu"]
    axes = {**table.axes, "ids_per_item": (served().ids_per_item,)}
    return Fleet(fleet.devices, {("plain", "cpu"): replace(table, axes=axes)})


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = engine_of()
    engine.start()
    yield engine
    engine.drain()


def queries(count: int, num_items: int = 40) -> list[FeatureBatch]:
    model = served()
    return [model.random_query(num_items + seed, seed) for seed in range(count)]


@pytest.mark.parametrize(
    "policy",
    [
        {"policy": "static"},
        {"policy": "deeprecsched"},
        {"policy": "coalescing", "delay_max_ns": 1_000_000, "batch_items_max": 64},
        {"policy": "slack", "sla": SLA_1H, "reject_lost": True},
    ],
    ids=lambda policy: policy["policy"],
)
def test_every_item_has_its_score_in_its_place(policy: dict) -> None:
    ranker = PlainRanker()
    fleet = None
    if policy["policy"] == "slack":
        fleet = named(line_fleet(2, 100.0, 100.0))
    engine = engine_of(served(ranker), fleet=fleet, limit="p99=1h", **policy)
    engine.start()
    asked = queries(20)
    answers = [engine.submit(features) for features in asked]
    for features, answer in zip(asked, answers, strict=True):
        ranked = answer.result(30)
        assert torch.equal(ranked.scores, PlainRanker().rank(features))
        queue_ns, compute_ns, total_ns = ranked.timing
        assert min(ranked.timing) >= 0
        assert queue_ns + compute_ns == total_ns
    engine.drain()
    stats = engine.stats
    assert (stats.queries, stats.items) == (20, sum(f.num_items for f in asked))
    times = stats.times
    assert sum(times.total.counts) == sum(times.queue.counts) == sum(times.compute.counts) == 20
    assert (stats.failed, engine.num_open, engine.items_open, engine.queue_depth) == (0, 0, 0, 0)
    if policy["policy"] == "static":
        assert stats.splits == 20
        assert stats.batches == sum(-(-f.num_items // 16) for f in asked)


def test_several_tasks_have_a_column_each() -> None:
    ranker = PlainRanker(num_tasks=2)
    engine = engine_of(served(ranker))
    engine.start()
    (features,) = queries(1)
    assert torch.equal(engine.submit(features).result(30).scores, ranker.rank(features))
    engine.drain()


def test_a_query_that_cannot_be_ranked_fails_alone() -> None:
    ranker = PlainRanker()

    def fails(batch: FeatureBatch) -> None:
        if bool((batch.user.dense_RN == 7.0).any()):
            raise ConfigError("age", 7.0, "anything else")

    engine = engine_of(
        served(ranker), policy="coalescing", batch_items_max=500, delay_max_ns=1, num_workers=1
    )
    engine.start()
    ranker.fails = fails
    ranker.sizes.clear()
    ranker.go.clear()
    good = queries(4)
    bad = replace(good[0], user=replace(good[0].user, dense_RN=torch.tensor([[7.0]])))
    first = engine.submit(good[0])  # holds the worker until the others have come
    futures = [engine.submit(features) for features in (good[1], bad, good[2])]
    ranker.go.set()
    with pytest.raises(ConfigError, match=r"age: got 7\.0"):
        futures[1].result(30)
    for future, features in zip([first, futures[0], futures[2]], good[:3], strict=True):
        assert torch.equal(future.result(30).scores, PlainRanker().rank(features))
    engine.drain()
    assert (engine.stats.queries, engine.stats.failed) == (3, 1)
    assert (engine.num_open, engine.items_open) == (0, 0)


def test_too_much_or_too_late_is_turned_away_at_the_door() -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker), queue_items_max=100)
    engine.start()
    with pytest.raises(Overloaded, match="alone take"):
        engine.submit(queries(1)[0], deadline_ns=1)
    ranker.go.clear()
    futures = [engine.submit(features) for features in queries(2)]
    assert (engine.num_open, engine.items_open) == (2, 81)
    assert engine.queue_depth <= 2
    with pytest.raises(Overloaded, match="81 items are open"):
        engine.submit(queries(1)[0])
    assert engine.stats.shed == {"too_late": 1, "queue_full": 1}
    ranker.go.set()
    for future in futures:
        future.result(30)
    engine.submit(queries(1)[0]).result(30)
    engine.drain()


def test_the_time_that_a_query_has_waited_is_part_of_its_deadline(engine: Engine) -> None:
    (features,) = queries(1)
    hour_ns = 3600 * 10**9
    waited_ns = 10**9
    timing = engine.submit(features, hour_ns, waited_ns).result(30).timing
    assert timing.queue_ns >= waited_ns
    assert timing.total_ns == timing.queue_ns + timing.compute_ns
    # As long again to answer, and nothing is left: turned away before its features are looked at.
    with pytest.raises(Overloaded, match="of the 0 ms that there are"):
        engine.submit(features, hour_ns, hour_ns // 2)
    assert engine.num_open == 0
    assert engine.stats.shed == {"too_late": 1}


def test_the_door_learns_how_much_later_than_predicted_answers_are_sent() -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker), limit="p99=10s")
    engine.start()
    asked = queries(3)
    ranked = engine.submit(asked[0]).result(30)
    for _ in range(100):
        engine.told(ranked._replace(expected_ns=ranked.expected_ns - 3600 * 10**9))
    ranker.go.clear()
    first = engine.submit(asked[1])  # it finds nobody
    with pytest.raises(Overloaded, match="would be done"):
        engine.submit(asked[2], deadline_ns=5 * 10**9)
    second = engine.submit(asked[2], deadline_ns=3600 * 10**9)
    ranker.go.set()
    for future in (first, second):
        future.result(30)
    engine.drain()


def test_what_a_policy_gives_up_is_told() -> None:
    fleet = named(line_fleet(1, 100.0, 1e6))  # the table says 1 ms an item
    policy = {"policy": "slack", "sla": SLA.parse("p99=20ms"), "reject_lost": True}
    engine = engine_of(fleet=fleet, num_workers=1, limit="p99=1h", **policy)
    engine.start()
    # The SLA of the door is an hour here, that of the policy 20 ms.
    with pytest.raises(Overloaded, match="gave it up") as caught:
        engine.submit(queries(1)[0]).result(30)
    assert caught.value.reason == "lost"
    engine.drain()
    assert engine.stats.shed == {"lost": 1}


def test_draining_answers_what_has_come_and_refuses_the_rest() -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker))
    engine.start()
    assert engine.is_ready
    ranker.go.clear()
    futures = [engine.submit(features) for features in queries(5)]
    ranker.go.set()
    engine.drain()
    assert not engine.is_ready
    assert all(future.result(0).scores is not None for future in futures)
    with pytest.raises(ServingError, match="going down"):
        engine.submit(queries(1)[0])
    engine.drain()  # again: nothing to do


def test_an_engine_that_dies_says_where_and_nothing_of_the_features(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    engine.start()

    value = 31337

    def breaks(*given: object) -> None:
        raise LookupError(value)

    monkeypatch.setattr(engine, "_count", breaks)
    engine.submit(queries(1)[0])
    engine._thread.join(30)
    assert not engine.is_alive
    assert "the engine has died: LookupError" in caplog.text
    assert "_on_end" in caplog.text
    assert str(value) not in caplog.text


def test_nobody_waits_for_an_engine_that_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = PlainRanker()
    engine = engine_of(served(ranker), num_workers=1)
    engine.start()
    ranker.go.clear()
    futures = [engine.submit(features) for features in queries(4)]

    def breaks(*given: object) -> None:
        raise LookupError

    monkeypatch.setattr(engine, "_count", breaks)
    ranker.go.set()
    for future in futures:
        with pytest.raises(ServingError, match="the engine has died"):
            future.result(30)
    engine._thread.join(30)
    assert (engine.num_open, engine.items_open) == (0, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_no_answer(engine: Engine, bad: float) -> None:
    # They would come first, and JSON has none of them.
    (features,) = queries(1)
    sizes = features.item.dense_RN.clone()
    sizes[17, 0] = bad
    spoilt = replace(features, item=replace(features.item, dense_RN=sizes))
    with pytest.raises(RequestError, match="no number for candidate 17"):
        engine.submit(spoilt).result(30)
    assert engine.stats.failed == 1


def test_whoever_goes_away_does_not_disturb_the_others(engine: Engine) -> None:
    ranker = engine.model.ranker
    assert isinstance(ranker, PlainRanker)
    ranker.go.clear()
    gone, stays = (engine.submit(features) for features in queries(2))
    assert gone.cancel()
    ranker.go.set()
    stays.result(30)
    with pytest.raises(CancelledError):
        gone.result(0)
    engine.submit(queries(1)[0]).result(30)


def test_another_model_takes_over_between_queries(engine: Engine) -> None:
    first = engine.model
    others = Lineup([replace(first, version="next")], [])
    before = engine.serve_with(others.place(engine.config, "threads"))
    assert before.model is first
    ranked = engine.submit(queries(1)[0]).result(30)
    assert ranked.model.version == "next"


def test_what_cannot_run_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="fleet: missing"):
        engine_of(policy="slack", sla=SLA_1H).start()


@pytest.mark.parametrize("name", ["static", "slack", "kairos"])
def test_a_server_gives_up_what_will_be_late(name: str) -> None:
    config = PolicyConfig(policy=name, batch_items_max=8, sla=None if name == "static" else SLA_1H)
    served_by = server_policy(config, SLA.parse("p99=5ms"))
    assert served_by.reject_lost == (name == "slack")
    assert served_by.sla == (None if name == "static" else SLA.parse("p99=5ms"))
