"""Processes that rank: the same scores, the same errors, and a killed one loses no query."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.unit.serving.served import PlainRanker, engine_of, served

from tailrank.core.errors import ConfigError, WorkerDied
from tailrank.features import FeatureBatch
from tailrank.runtime.live import LiveConfig
from tailrank.serving import executors
from tailrank.serving.executors import EXECUTORS, ForkedRanker, fork_rankers, parse_executor, place
from tailrank.serving.stages import Filter


def query(num_items: int, seed: int = 0) -> FeatureBatch:
    return served().random_query(num_items, seed)


@pytest.fixture
def forked() -> Iterator[ForkedRanker]:
    (ranker,) = fork_rankers([PlainRanker(num_tasks=2)], 1)
    yield ranker
    ranker.workers.close()


@pytest.mark.parametrize("num_items", [1, 7, 20_000])
def test_scores_are_those_of_the_ranker(forked: ForkedRanker, num_items: int) -> None:
    batch = FeatureBatch.concat([query(num_items), query(3, seed=1)])
    scores = forked.rank(batch)
    assert torch.equal(scores, PlainRanker(num_tasks=2).rank(batch))
    assert forked.describe() == PlainRanker().describe()


def test_weights_travel_too() -> None:
    seen = mmap.mmap(-1, 2)

    class WeightRanker(PlainRanker):
        def rank(self, batch: FeatureBatch) -> torch.Tensor:
            seen[:] = bytes(side.weights_L is not None for side in (batch.user, batch.item))
            return batch.item.weights_L.clone()

    batch = query(4)
    weights_L = torch.arange(batch.item.num_ids, dtype=torch.float32)
    batch = replace(batch, item=replace(batch.item, weights_L=weights_L))
    (ranker,) = fork_rankers([WeightRanker()], 1)
    assert torch.equal(ranker.rank(batch), weights_L)
    assert list(seen[:]) == [0, 1]
    ranker.workers.close()


def test_each_process_ranks_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class ThreadRanker(PlainRanker):
        def rank(self, batch: FeatureBatch) -> torch.Tensor:
            return torch.tensor([float(torch.get_num_threads())])

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (ranker,) = fork_rankers([ThreadRanker()], 1)
        assert ranker.rank(query(1)).tolist() == [1.0]
        ranker.workers.close()
    finally:
        torch.set_num_threads(before)


def test_a_server_with_processes_loses_no_query_to_a_kill() -> None:
    killed = mmap.mmap(-1, 1)  # shared with the processes

    def fails(batch: FeatureBatch) -> None:
        ages = batch.user.dense_RN
        if bool((ages == 7.0).any()):
            raise ConfigError("age", 7.0, "anything else")
        if bool((ages == 9.0).any()) and killed[0] < 1:
            killed[0] += 1
            os.kill(os.getpid(), signal.SIGKILL)
        if bool((ages == 13.0).any()):
            os.kill(os.getpid(), signal.SIGKILL)

    ranker = PlainRanker()
    ranker.fails = fails
    engine = engine_of(served(ranker), executor="processes", batch_items_max=64)
    engine.start()
    assert engine.placed.executor == "processes"
    forked = engine.model.ranker
    assert isinstance(forked, ForkedRanker)
    asked = [query(40 + seed, seed) for seed in range(12)]
    for place_of, age in ((3, 7.0), (5, 9.0), (8, 13.0)):
        user = replace(asked[place_of].user, dense_RN=torch.tensor([[age]]))
        asked[place_of] = replace(asked[place_of], user=user)
    answers = [engine.submit(features) for features in asked]
    for place_of, (features, answer) in enumerate(zip(asked, answers, strict=True)):
        if place_of == 3:
            with pytest.raises(ConfigError, match=r"age: got 7\.0") as caught:
                answer.result(30)
            assert caught.value.value == 7.0
        elif place_of == 8:
            with pytest.raises(WorkerDied, match="2 worker processes ended"):
                answer.result(30)
        else:
            assert torch.equal(answer.result(30).scores, PlainRanker().rank(features))
    assert (engine.stats.queries, engine.stats.failed) == (10, 2)
    assert forked.workers.num_died == 3
    assert len(forked.workers.pids) == 2
    engine.drain()
    assert forked.workers.pids == []


def test_all_stages_are_ranked_by_the_same_processes() -> None:
    ranked_by = mmap.mmap(-1, 16)  # shared with the processes

    class Signing(PlainRanker):
        def __init__(self, place_of: int) -> None:
            super().__init__()
            self.place_of = place_of

        def rank(self, batch: FeatureBatch) -> torch.Tensor:
            ranked_by[8 * self.place_of : 8 * self.place_of + 8] = os.getpid().to_bytes(8)
            return super().rank(batch)

    light, heavy = served(Signing(0), "light"), served(Signing(1), "heavy")
    engine = engine_of(
        heavy,
        executor="processes",
        num_workers=1,
        batch_items_max=64,
        filters=[Filter(model=light, keep=5)],
    )
    engine.start()
    features = query(40)
    scores = engine.models[0].ranker.rank(features)
    assert torch.equal(scores, PlainRanker().rank(features))
    assert torch.equal(engine.submit(features).result(30).scores, scores)
    forked = engine.model.ranker
    assert isinstance(forked, ForkedRanker)
    (pid,) = forked.workers.pids
    assert ranked_by[:] == 2 * pid.to_bytes(8)
    engine.drain()


def test_the_executor_is_chosen_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_ROUND_NS", 1_000_000)
    ranker = PlainRanker()
    model = served(ranker)
    rates = iter([[100.0, 104.0], [100.0, 106.0]])
    real = executors._compare
    options = {"num_workers": 2, "batch_items_max": 16, "live": LiveConfig(pin=False)}
    measured = place([model], None, **options)
    assert set(measured.items_per_s) == {"threads", "processes"}
    assert min(measured.items_per_s.values()) > 0
    assert max(ranker.sizes) == 16
    measured.close()
    monkeypatch.setattr(executors, "_compare", lambda *given: real(*given) and next(rates))
    hardly = place([model], None, **options)
    assert (hardly.executor, hardly.models) == ("threads", (model,))
    clearly = place([model], None, **options)
    assert clearly.executor == "processes"
    assert isinstance(clearly.models[0].ranker, ForkedRanker)
    assert clearly.items_per_s == {"threads": 100.0, "processes": 106.0}
    assert str(clearly) == "processes (1.06 times the items/s of threads)"
    clearly.close()


def test_what_raises_when_it_is_measured_leaves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Watched(ForkedRanker):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(executors, "ForkedRanker", Watched)
    ranker = PlainRanker()

    def fails(batch: FeatureBatch) -> None:
        raise OSError("no tables")

    ranker.fails = fails
    with pytest.raises(OSError, match="no tables"):
        engine_of(served(ranker), executor=None).start()
    assert made[0].workers.pids == []


def test_names() -> None:
    assert parse_executor(None) is None
    assert [parse_executor(name) for name in EXECUTORS] == ["threads", "processes"]
    with pytest.raises(ConfigError, match=r"--executor: got 'proceses'; .*mean 'processes'"):
        parse_executor("proceses")


def test_a_device_of_its_own_cannot_be_shared_by_processes() -> None:
    ranker = PlainRanker()
    ranker.device = "cuda"
    with pytest.raises(ConfigError, match="--executor: got 'processes'; allowed: threads, for the"):
        engine_of(served(ranker), executor="processes").start()


def test_a_model_on_a_device_of_its_own_keeps_its_threads() -> None:
    ranker = PlainRanker()
    ranker.device = "cuda"
    engine = engine_of(served(ranker), executor=None)
    engine.start()
    assert (engine.placed.executor, engine.placed.items_per_s) == ("threads", {})
    assert str(engine.placed) == "threads"
    engine.drain()
