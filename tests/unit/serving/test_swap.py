"""Other models take over: no query fails, each is one model's, and a bad model changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tests.fleets import line_fleet
from tests.unit.data.table_files import make_rows, open_file, write_parquet
from tests.unit.serving.served import SPEC, PlainRanker, engine_of, served
from tests.unit.serving.test_engine import SLA_1H, named
from tests.unit.serving.test_http import LIMITS
from tests.unit.serving.test_model import save

from tailrank.characterization.target import TargetConfig
from tailrank.core.errors import DataError, RequestError, ServingError, SwapUnderWay
from tailrank.data.row_encoder import row_ids
from tailrank.features import Feature, FeatureBatch, FeatureSpec
from tailrank.serving.engine import Engine
from tailrank.serving.executors import ForkedRanker
from tailrank.serving.model import FeatureFile, ServedModel
from tailrank.serving.rank_request import parse_rank
from tailrank.serving.ranking import Ranked
from tailrank.serving.stages import Filter
from tailrank.serving.swap import Swaps, reopener


class ShiftedRanker(PlainRanker):
    """Scores by so much more."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def rank(self, batch: FeatureBatch) -> torch.Tensor:
        return super().rank(batch) + self.shift


def shifted(shift: int, name: str = "plain") -> ServedModel:
    return replace(served(ShiftedRanker(float(shift)), name), version=f"shift-{shift}")


def opening(*models: ServedModel) -> Callable[..., list[ServedModel]]:
    """Opens these, one a call."""
    coming = iter(models)
    return lambda paths, progress: [next(coming)]


@contextmanager
def running(**settings: Any) -> Iterator[Engine]:
    engine = engine_of(**settings)
    engine.start()
    yield engine
    engine.drain()


def check(ranked: Ranked, features: FeatureBatch) -> int:
    """Whether scores and version are those of one model; which one."""
    shift = int(ranked.model.version.removeprefix("shift-"))
    assert torch.equal(ranked.scores, PlainRanker().rank(features) + shift)
    return shift


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_under_load_no_query_fails_and_each_is_scored_by_one_model(executor: Any) -> None:
    num_swaps = 4
    features = [served().random_query(40 + seed, seed) for seed in range(6)]
    answers: list[tuple[FeatureBatch, Any]] = []
    over = threading.Event()

    def ask(engine: Engine) -> None:
        number = 0
        while not over.is_set():
            number += 1
            asked = features[number % len(features)]
            answers.append((asked, engine.submit(asked)))
            if number % 8 == 0:
                answers[-1][1].result(30)

    with running(model=shifted(0), executor=executor) as engine:
        swaps = Swaps(engine, opening(*map(shifted, range(1, num_swaps + 1))))
        asking = threading.Thread(target=ask, args=(engine,))
        asking.start()
        nurseries = []
        for shift in range(1, num_swaps + 1):
            before = engine.model.ranker
            taken = swaps.begin().result(30)
            assert taken.model.version == engine.model.version == f"shift-{shift}"
            if isinstance(before, ForkedRanker):
                assert before.workers.pids == []
                nurseries.append(before)
            asked = len(answers)
            while len(answers) < asked + 20:
                over.wait(0.001)
        over.set()
        asking.join()
    assert len(nurseries) == (num_swaps if executor == "processes" else 0)
    shifts = [check(answer.result(30), asked) for asked, answer in answers]
    assert set(shifts) == set(range(num_swaps + 1))
    assert engine.stats.failed == 0
    assert engine.stats.queries == len(answers)


def test_a_query_that_had_come_ends_on_the_model_before() -> None:
    old, new = shifted(0), shifted(1)
    with running(model=old) as engine:
        assert isinstance(old.ranker, ShiftedRanker)
        old.ranker.go.clear()
        features = served().random_query(40, 0)
        first = engine.submit(features)
        said: list[str] = []
        taken = Swaps(engine, opening(new), said.append).begin()
        while engine.model.version != "shift-1":
            assert not taken.done()
        second = engine.submit(features)
        assert [first.done(), taken.done()] == [False, False]
        old.ranker.go.set()
        assert [check(each.result(30), features) for each in (first, second)] == [0, 1]
        taken.result(30)
        assert said == ["now serves plain, version shift-1"]


def lacking() -> ServedModel:
    kept = tuple(each for each in SPEC.features if each.name != "age")
    spec = replace(SPEC, features=(*kept, Feature(name="height", side="user", kind="dense")))
    return replace(served(), spec=spec, encoder=row_ids(spec))


def smaller() -> ServedModel:
    tables = tuple(replace(table, num_embeddings=40) for table in SPEC.tables)
    spec = FeatureSpec(features=SPEC.features, tables=tables)
    return replace(served(), spec=spec, encoder=row_ids(spec))


def raising() -> ServedModel:
    ranker = PlainRanker()

    def fails(batch: FeatureBatch) -> None:
        raise OSError("31337")

    ranker.fails = fails
    return served(ranker)


BAD: list[tuple[Callable[[], ServedModel], str]] = [
    (lacking, "plain: of the user features that serve, it lacks 'age' and asks for 'height'"),
    (smaller, "'seen': takes whole numbers 0 to 39; what serves takes whole numbers 0 to 999"),
    (lambda: served(PlainRanker(num_tasks=2)), "predicts first, second; what serves .* label"),
    (lambda: shifted(float("nan")), "plain: scores random items with what is no number"),
    (raising, r"could not be taken \(OSError\)"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_model_that_could_not_serve_changes_nothing(
    executor: Any, bad: Callable[[], ServedModel], reason: str
) -> None:
    warned: list[str] = []
    with running(model=shifted(0), executor=executor) as engine:
        before = engine.lineup
        swaps = Swaps(engine, opening(bad()), warn=warned.append)
        with pytest.raises((RequestError, ServingError), match=reason) as caught:
            swaps.begin().result(30)
        assert "31337" not in str(caught.value)
        assert engine.lineup is before
        features = served().random_query(40, 0)
        assert check(engine.submit(features).result(30), features) == 0
    assert warned == [f"the models are as they were: {caught.value}"]


def test_what_cannot_be_read_is_told() -> None:
    def missing(paths: Mapping[str, Path | None], progress: object) -> list[ServedModel]:
        raise DataError(str(paths["plain"]), "no such file")

    with running(model=shifted(0)) as engine:
        swaps = Swaps(engine, missing)
        with pytest.raises(DataError, match="/nowhere: no such file"):
            swaps.begin({"plain": Path("/nowhere")}).result(30)
        with pytest.raises(RequestError, match="no 'other'; there is plain"):
            swaps.begin({"other": None})
        assert engine.model.version == "shift-0"


def test_whoever_was_told_of_the_end_may_change_models_again() -> None:
    """A client sends the next change as soon as it is told, when the thread has not quite ended."""
    go_on, told = threading.Event(), threading.Event()
    began: list[Any] = []

    def missing(paths: object, progress: object) -> list[ServedModel]:
        assert go_on.wait(30)
        raise DataError("nowhere", "no such file")

    with running() as engine:
        swaps = Swaps(engine, missing)

        def begin_again(ended: object) -> None:
            try:
                began.append(swaps.begin())
            finally:
                told.set()

        swaps.begin().add_done_callback(begin_again)
        go_on.set()
        assert told.wait(30)
        assert len(began) == 1
        with pytest.raises(DataError):
            began[0].result(30)


def test_one_change_at_a_time_and_none_in_a_server_that_goes_down() -> None:
    loading, go_on = threading.Event(), threading.Event()
    warned: list[str] = []

    def slowly(paths: object, progress: Callable[[int, int], None]) -> list[ServedModel]:
        loading.set()
        assert go_on.wait(30)
        progress(1, 2)
        return [shifted(1)]

    with running(model=shifted(0)) as engine:
        swaps = Swaps(engine, slowly, warn=warned.append)
        first = swaps.begin()
        assert loading.wait(30)
        with pytest.raises(SwapUnderWay):
            swaps.begin()
        swaps.begin_quietly()
        assert warned[0].startswith("nothing was changed: models are being changed already")
    go_on.set()
    with pytest.raises(ServingError, match="no model is taken: the server is going down"):
        first.result(30)
    swaps.close()
    with pytest.raises(ServingError, match="going down"):
        swaps.begin()
    assert engine.model.version == "shift-0"


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_one_stage_changes_and_the_other_stays(executor: Any) -> None:
    light, heavy = shifted(0, "light"), shifted(0, "heavy")
    settings = {"filters": [Filter(model=light, keep=5)], "executor": executor}
    with running(model=heavy, batch_items_max=64, **settings) as engine:
        # Under whatever name it was loaded.
        Swaps(engine, opening(shifted(1, "another"))).begin({"heavy": None}).result(30)
        assert [(one.name, one.version) for one in engine.models] == [
            ("light", "shift-0"),
            ("heavy", "shift-1"),
        ]
        assert engine.lineup.opened[0] is light
        assert engine.lineup.filters[0].keep == 5
        features = served().random_query(40, 0)
        assert check(engine.submit(features).result(30), features) == 1
        first = engine.models[0].ranker.rank(features)
        assert torch.equal(first, PlainRanker().rank(features))


def test_vocabulary_and_feature_tables_are_those_of_the_model_that_serves(tmp_path: Path) -> None:
    """The same rows, of which each model knows others: what it does not know is unknown to it."""
    rows = make_rows(num_queries=40)
    parts = {"old": rows[: len(rows) // 3], "new": rows[len(rows) // 3 :]}
    for name, known in parts.items():
        dataset = open_file(write_parquet(tmp_path / f"{name}.parquet", known), embedding_dim=8)
        save(tmp_path / name, dataset, seed=1)
    names = ("item", "price", "rank", "tag", "hour")
    items = {"id": list(range(len(rows))), **{n: [row[n] for row in rows] for n in names}}
    pl.DataFrame(items, strict=False).write_parquet(tmp_path / "items.parquet")
    files = [FeatureFile(side="item", path=tmp_path / "items.parquet")]
    reopen = reopener({"old": TargetConfig(target=str(tmp_path / "old"))}, files, lambda line: None)

    def load(name: str) -> ServedModel:
        (model,) = reopen({"old": tmp_path / name}, lambda done, total: None)
        return model

    user = {name: rows[0][name] for name in ("user", "age", "seen")}
    by_id = {"user": user, "item_ids": items["id"][:30]}
    raw = {"user": user, "items": {name: items[name][:30] for name in names}}
    scores = {}
    for name in parts:
        alone = load(name)
        candidates = parse_rank(json.dumps(raw).encode(), [alone], LIMITS).candidates
        scores[name] = alone.ranker.rank(candidates.features(alone))
    assert not torch.equal(scores["old"], scores["new"])

    with running(model=load("old")) as engine:
        swaps = Swaps(engine, reopen)
        for name, paths in (("old", None), ("new", {"old": tmp_path / "new"}), ("old", None)):
            if engine.stats.queries:
                swaps.begin(paths).result(30)
            for asked in (by_id, raw):
                request = parse_rank(json.dumps(asked).encode(), engine.models, LIMITS)
                ranked = engine.rank(request.candidates).result(30)
                assert torch.allclose(ranked.scores, scores[name], atol=1e-6)
                assert (ranked.model.name, ranked.model.version) == ("old", load(name).version)


class SlowRanker(PlainRanker):
    """Takes many times as long."""

    def rank(self, batch: FeatureBatch) -> torch.Tensor:
        for _ in range(30):
            scores = super().rank(batch)
        return scores


@pytest.mark.parametrize("policy", ["static", "slack"])
def test_known_service_times_are_kept_for_a_model_that_takes_as_long(policy: str) -> None:
    fleet = named(line_fleet(2, 100.0, 100.0))
    slack = {"sla": SLA_1H, "reject_lost": True} if policy == "slack" else {}
    settings = {"fleet": fleet, "limit": "p99=1h", "policy": policy, "batch_items_max": 500}
    with running(model=shifted(0), **settings, **slack) as engine:
        swaps = Swaps(engine, opening(shifted(1), served(SlowRanker()), shifted(2)))
        swaps.begin().result(30)
        assert engine.lineup.fleet is fleet
        if policy == "slack":
            with pytest.raises(RequestError, match="times as long as the profile that `slack`"):
                swaps.begin().result(30)
            assert (engine.model.version, engine.lineup.fleet) == ("shift-1", fleet)
        else:
            assert swaps.begin().result(30).fleet is None
            assert engine.lineup.predict_ns[0](500) > 5 * (100.0 + 500 * 100.0)
        features = served().random_query(40, 0)
        assert len(engine.submit(features).result(30).scores) == 40
