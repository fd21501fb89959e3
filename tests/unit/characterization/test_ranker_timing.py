"""Rankers are timed in turns, on queries of their own, on one thread."""

from __future__ import annotations

import pytest
import torch

from tailrank.characterization import ranker_timing
from tailrank.characterization.payloads import QueryPool
from tailrank.characterization.ranker_timing import QUERY_ITEMS, time_rankers
from tailrank.features import Feature, FeatureBatch, FeatureSpec, TableSpec

SPEC = FeatureSpec(
    features=(
        Feature(name="price", side="item", kind="dense", width=2),
        Feature(name="item", side="item", kind="bag", table="items"),
    ),
    tables=(TableSpec(name="items", num_embeddings=10_000, embedding_dim=4),),
)


class Noting:
    """Notes who was called with what."""

    device = "fake"

    def __init__(self, name: str, calls: list[tuple[str, tuple[float, ...], int]]) -> None:
        self._name, self._calls = name, calls

    def rank(self, batch: FeatureBatch) -> torch.Tensor:
        first = tuple(batch.item.dense_RN[0].tolist())
        self._calls.append((self._name, first, torch.get_num_threads()))
        assert batch.num_items == QUERY_ITEMS
        return torch.zeros(batch.num_items)

    def describe(self) -> dict[str, object]:
        return {}


def test_turns_are_even_and_no_query_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker_timing, "_TURNS", 6)
    calls: list[tuple[str, tuple[float, ...], int]] = []
    told: list[tuple[int, int]] = []
    before = torch.get_num_threads()
    times = time_rankers(
        {name: Noting(name, calls) for name in ("a", "b", "c")},
        QueryPool.random(SPEC, 0),
        lambda done, total: told.append((done, total)),
    )
    assert times.num_items == QUERY_ITEMS
    assert {name: len(values) for name, values in times.of.items()} == {"a": 6, "b": 6, "c": 6}
    assert all(bool((values > 0).all()) for values in times.of.values())
    a_turn = len(calls) // 18
    assert a_turn >= 2  # one that is not timed, and at least one that is
    order = [calls[at][0] for at in range(0, len(calls), a_turn)]
    assert order == list("abcbcacab") * 2
    assert len({first for _, first, _ in calls}) > 0.95 * len(calls)  # drawn at random
    assert {threads for *_, threads in calls} == {1}
    assert torch.get_num_threads() == before
    assert told == [(done, 6) for done in range(1, 7)]


def test_a_pool_of_few_items_makes_smaller_queries() -> None:
    pool = QueryPool.random(SPEC, 0)
    small = QueryPool(pool._user.rows(0, 1), pool._item.rows(0, 40))

    class Counting(Noting):
        def rank(self, batch: FeatureBatch) -> torch.Tensor:
            assert batch.num_items == 40
            return torch.zeros(40)

    assert time_rankers({"a": Counting("a", [])}, small).num_items == 40
