"""Models that rank one after the other: the answer is the last one's, of what the others kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.serving.served import SPEC, PlainRanker, engine_of, served
from torch import Tensor

from tailrank.core.errors import ConfigError, Overloaded, RequestError
from tailrank.core.sla import SLA
from tailrank.data.row_encoder import Rows, row_ids
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.serving.admission import Admission
from tailrank.serving.candidates import Candidates
from tailrank.serving.engine import Engine
from tailrank.serving.http import build_app
from tailrank.serving.model import ServedModel
from tailrank.serving.ranking import Ranked
from tailrank.serving.stages import Filter

# It reads the movie alone.
LIGHT_SPEC = FeatureSpec(features=SPEC.features[2:3], tables=SPEC.tables)


class MovieRanker(PlainRanker):
    """Scores an item by its movie; or the other way round."""

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.sign = sign

    def rank(self, batch: FeatureBatch) -> Tensor:
        assert self.go.wait(30)
        self.fails(batch)
        self.sizes.append(batch.num_items)
        return self.sign * batch.item.values_L.float()


def light(ranker: MovieRanker | None = None, name: str = "light") -> ServedModel:
    model = served(ranker or MovieRanker(), name)
    return replace(model, spec=LIGHT_SPEC, encoder=row_ids(LIGHT_SPEC))


@contextmanager
def started(
    *filters: Filter, heavy: PlainRanker | None = None, **settings: Any
) -> Iterator[Engine]:
    settings = {"batch_items_max": 16} | settings
    engine = engine_of(served(heavy, "heavy"), filters=filters, **settings)
    engine.start()
    try:
        yield engine
    finally:
        engine.drain()


def candidates(movies: Sequence[int], tags: Sequence[Any] | None = None) -> Candidates:
    count = len(movies)
    columns = {
        "movie": list(movies),
        "tags": [[movie % 7] for movie in movies] if tags is None else list(tags),
        "sizes": [[-3.0 * movie, 0.0] for movie in movies],
    }
    user = Rows("user", {"age": [1.0], "seen": [[2]]}, 1)
    return Candidates(user, Rows("item", columns, count))


def test_the_last_model_ranks_what_the_others_kept() -> None:
    heavy, first, second = PlainRanker(), MovieRanker(), MovieRanker(-1)
    filters = Filter(model=light(first), keep=20), Filter(model=light(second, "second"), keep=5)
    movies = [n * 7 % 100 for n in range(50)]
    asked = candidates(movies)
    with started(*filters, heavy=heavy) as engine:
        answers = [engine.rank(asked) for _ in range(20)]
        for answer in answers:
            ranked = answer.result(30)
            best = sorted(sorted(movies)[-20:])[:5]
            assert [movies[place] for place in ranked.places or ()] == [
                m for m in movies if m in best
            ]
            chosen = asked.features(engine.model, ranked.places)
            assert ranked.scores.tolist() == PlainRanker().rank(chosen).tolist()
            assert ranked.model.name == "heavy"
            assert [(s.model.name, s.num_items) for s in ranked.stages] == [
                ("light", 50),
                ("second", 20),
                ("heavy", 5),
            ]
            queue_ns, compute_ns, total_ns = ranked.timing
            assert compute_ns == sum(stage.timing.compute_ns for stage in ranked.stages)
            assert total_ns >= sum(stage.timing.total_ns for stage in ranked.stages)
            assert queue_ns + compute_ns == total_ns
    assert (engine.stats.queries, engine.stats.items) == (20, 20 * 50)
    assert (engine.num_open, engine.items_open, engine.queue_depth) == (0, 0, 0)


def test_a_filter_that_keeps_all_changes_nothing() -> None:
    asked = candidates(range(30))
    with started(Filter(model=light(), keep=100)) as engine:
        ranked = engine.rank(asked).result(30)
        assert ranked.places == list(range(30))
        alone = engine.submit(asked.features(engine.model)).result(30)
        assert ranked.scores.tolist() == alone.scores.tolist()
        assert (alone.places, alone.stages) == (None, ())


def test_a_fault_of_any_stage_ends_the_query_and_leaves_nothing() -> None:
    heavy, first = PlainRanker(), MovieRanker()
    tags = [[1]] * 9 + [[1000]]
    with started(Filter(model=light(first), keep=3), heavy=heavy) as engine:
        # Items 7, 8 and 9 are kept, and only the heavy model reads tags.
        answer = engine.rank(candidates(range(10), tags))
        with pytest.raises(RequestError, match=r"items.tags\[9\]: not allowed: .*0 to 49"):
            answer.result(30)
        assert engine.rank(candidates(range(10), tags[::-1])).result(30).places == [7, 8, 9]
        with pytest.raises(ConfigError, match=r"items.movie\[1\]"):
            engine.rank(candidates([1, 1000], [[1], [1]]))
        for ranker in (first, heavy):
            ranker.fails = fail
            with pytest.raises(ArithmeticError):
                engine.rank(candidates(range(10))).result(30)
            ranker.fails = lambda batch: None
        assert engine.rank(candidates(range(10))).result(30).places == [7, 8, 9]
        assert engine.stats.failed == 3
    assert (engine.num_open, engine.items_open, engine.queue_depth) == (0, 0, 0)


def fail(batch: FeatureBatch) -> None:
    raise ArithmeticError("it failed")


def test_what_was_taken_in_is_answered_before_the_end() -> None:
    first = MovieRanker()
    with started(Filter(model=light(first), keep=3), num_workers=1) as engine:
        first.go.clear()
        answers: list[Future[Ranked]] = [engine.rank(candidates(range(10))) for _ in range(5)]
        drain = threading.Thread(target=engine.drain)
        drain.start()
        while engine.is_ready:
            drain.join(0.01)
        first.go.set()
        drain.join(30)
        assert not engine.is_alive
        assert [answer.result(0).places for answer in answers] == [[7, 8, 9]] * 5


def test_the_time_is_for_all_stages_together() -> None:
    dues: list[tuple[str, int, int]] = []
    with started(Filter(model=light(), keep=8), limit="p99=50s") as engine:
        submit = engine._inbox.submit

        def noted(query: Any) -> None:
            dues.append((query.model, query.scheduled_ns, query.deadline_ns))
            submit(query)

        engine._inbox.submit = noted  # type: ignore[method-assign]
        engine.rank(candidates(range(40)), 9_000_000_000).result(30)
        engine.rank(candidates(range(40))).result(30)
    began_ns = dues[0][1]
    assert [model for model, _, _ in dues] == ["light", "heavy"] * 2
    assert dues[0][2] < dues[1][2] == began_ns + 9_000_000_000
    assert dues[3][2] == dues[2][1] + SLA.parse("p99=50s").latency_ns


def test_the_door_counts_all_stages() -> None:
    def door() -> Admission:
        return Admission(
            lambda num_items: 10_000 * num_items,
            batch_items_max=100,
            num_workers=2,
            items_max=5_000,
            filters_predict_ns=[lambda num_items: 1_000 * num_items],
        )

    # Of 1000 items: ten parts of 100 us on two workers; then one of 50 items in 500 us.
    admission = door()
    with pytest.raises(Overloaded, match=r"1,000 items alone take 1 ms of the 0\.99 ms"):
        admission.admit(50, 990_000, [1000])
    work = admission.admit(50, 1_000_000, [1000])
    assert work.later_ns == [500_000, 0]
    assert admission.num_items == 1050
    with pytest.raises(Overloaded, match="would be done in"):
        admission.admit(1, 10_000 + 749_000)
    for _ in range(10):
        admission.part_done(work, 100)
    admission.stage_done(work)
    assert work.later_ns == [0]
    with pytest.raises(Overloaded):
        admission.admit(1, 10_000 + 249_000)
    admission.part_done(work, 50)
    other = admission.admit(1, 10_001)
    admission.leave(work)
    admission.leave(other)
    assert (admission.num_queries, admission.num_items) == (0, 0)
    for _ in range(100):
        admission.learn(100, 100_000, 0)
    admission.admit(50, 1_000_000, [1000])


def test_stages_need_names_to_tell_them_apart() -> None:
    with pytest.raises(ConfigError, match="models with a name each"):
        engine_of(served(None, "one"), filters=[Filter(model=light(name="one"), keep=3)])
    with pytest.raises(ConfigError, match=r"light.keep: got 0; allowed: at least 1"):
        Filter(model=light(), keep=0)


def test_over_http_the_answer_says_what_each_stage_took() -> None:
    movies = list(range(20))
    body = {
        "user": {"age": 0.0, "seen": []},
        "items": {"movie": movies, "tags": [[]] * 20, "sizes": [[0, 0]] * 20},
        "item_ids": [f"m{movie}" for movie in movies],
        "top_k": 3,
    }
    # The light one likes small numbers, the heavy one large ones.
    with started(Filter(model=light(MovieRanker(-1)), keep=5)) as engine:
        client = TestClient(build_app(engine), raise_server_exceptions=False)
        answer = client.post("/v1/rank", json=body).json()
        assert [item["id"] for item in answer["items"]] == ["m4", "m3", "m2"]
        assert [stage["model"] for stage in answer["stages"]] == ["light", "heavy"]
        assert [stage["items"] for stage in answer["stages"]] == [20, 5]
        computed = sum(stage["timing_ms"]["compute"] for stage in answer["stages"])
        assert answer["timing_ms"]["compute"] == pytest.approx(computed)
        items = {"movie": movies, "tags": [[]] * 20}
        refused = client.post("/v1/rank", json=body | {"items": items})
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, "items.sizes")
        tags = [[1000]] * 20
        refused = client.post("/v1/rank", json=body | {"items": body["items"] | {"tags": tags}})
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, "items.tags[0]")
