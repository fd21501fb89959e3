"""Buckets hold their batches, and a batch arrives as it was sent, whatever the one before left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.features import SIDES, Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.inference.static_batch import (
    BatchShape,
    Faults,
    StaticBatch,
    StaticScores,
    bucket,
    fine_bucket,
)

CPU = torch.device("cpu")
SPEC = FeatureSpec(
    features=(
        Feature(name="age", side="user", kind="dense", width=2),
        Feature(name="history", side="user", kind="bag", table="items"),
        Feature(name="item", side="item", kind="bag", table="items"),
        Feature(name="tags", side="item", kind="bag", table="tags"),
    ),
    tables=(
        TableSpec(name="items", num_embeddings=100, embedding_dim=4),
        TableSpec(name="tags", num_embeddings=10, embedding_dim=4),
    ),
)


def side_of(rows: int, bags: int, width: int, bag_size: int, start: int = 0) -> SideFeatures:
    num_ids = rows * bags * bag_size
    return SideFeatures(
        dense_RN=torch.arange(rows * width, dtype=torch.float32).view(rows, width),
        values_L=torch.arange(start, start + num_ids),
        offsets=torch.arange(rows * bags + 1) * bag_size,
    )


def batch_of(users: int, items: int, bag_size: int = 2) -> FeatureBatch:
    return FeatureBatch(
        user=side_of(users, 1, 2, bag_size),
        item=side_of(items, 2, 0, bag_size, start=1000),
        item_to_user_B=torch.arange(items) * users // items,
    )


def test_buckets_hold_what_they_are_for_and_little_more() -> None:
    for count in range(1, 5000):
        assert count <= bucket(count) < 2 * count
        assert count <= fine_bucket(count) <= max(1.25 * count, bucket(min(count, 32)))
    assert bucket(0) == 1
    assert [fine_bucket(n) for n in (1, 3, 32, 33, 41, 65, 1000)] == [1, 4, 32, 40, 48, 80, 1024]
    assert len({fine_bucket(count) for count in range(1, 4097)}) == 34


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_one_after_the_other_arrive_whole(weighted: bool) -> None:
    static = StaticBatch(SPEC, BatchShape(users=4, items=8, ids=64, weighted=weighted), CPU)
    for users, items, bag_size in ((4, 8, 3), (1, 1, 0), (3, 7, 2), (2, 8, 1)):
        batch = batch_of(users, items, bag_size)
        factors_L = torch.rand(batch.item.num_ids)
        if weighted:  # on one side alone: the other's are 1
            batch = replace(batch, item=replace(batch.item, weights_L=factors_L))
        static.send(batch)
        arrived = static.features
        assert (arrived.num_users, arrived.num_items) == (4, 8)
        assert torch.equal(arrived.item_to_user_B[:items], batch.item_to_user_B)
        assert arrived.item_to_user_B[items:].tolist() == [0] * (8 - items)
        for side in SIDES:
            sent, got = getattr(batch, side), getattr(arrived, side)
            assert torch.equal(got.dense_RN[: sent.num_rows], sent.dense_RN)
            assert got.offsets.diff().min() >= 0
            num_bags = len(sent.offsets) - 1
            assert got.offsets.diff()[num_bags:].sum() == 0  # what fills up has no ids
            first, last = int(got.offsets[0]), int(got.offsets[-1])
            assert torch.equal(got.values_L[first:last], sent.values_L)
            assert torch.equal(got.offsets[: num_bags + 1] - first, sent.offsets)
            if weighted:
                factors = torch.ones(sent.num_ids) if side == "user" else sent.weights_L
                assert torch.equal(got.weights_L[first:last], factors)
            else:
                assert got.weights_L is None


def test_a_shape_has_room_for_its_batch() -> None:
    batch = batch_of(users=3, items=70, bag_size=1)
    assert BatchShape.holding(batch) == BatchShape(users=4, items=80, ids=256)
    weighted = replace(batch, user=replace(batch.user, weights_L=torch.ones(3)))
    assert BatchShape.holding(weighted).weighted
    StaticBatch(SPEC, BatchShape.holding(batch), CPU).send(batch)


def test_what_nobody_sent_is_a_sound_batch() -> None:
    features = StaticBatch(SPEC, BatchShape(users=2, items=4, ids=8), CPU).features
    for side in (features.user, features.item):
        assert int(side.offsets.abs().sum()) == 0
    assert int(features.item_to_user_B.abs().sum()) == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dense_RN": torch.zeros(1, 1)}, r"user\.dense_RN"),  # would be repeated
        ({"dense_RN": torch.zeros(1, 2, dtype=torch.float64)}, r"user\.dense_RN"),
        ({"values_L": torch.zeros(2, dtype=torch.int32)}, r"user\.values_L"),
        ({"offsets": torch.tensor([0, 1, 2])}, r"user\.offsets"),
        ({"offsets": torch.tensor([1, 2])}, r"user\.offsets\[0\]"),
        ({"offsets": torch.tensor([0, 3])}, r"user\.offsets\[1\]"),
        ({"weights_L": torch.ones(3)}, r"user\.weights_L"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict, field: str) -> None:
    batch = batch_of(users=1, items=2)
    broken = replace(batch, user=replace(batch.user, **change))
    static = StaticBatch(SPEC, BatchShape(users=1, items=2, ids=16, weighted=True), CPU)
    with pytest.raises(ConfigError, match=field):
        static.send(broken)


@pytest.mark.parametrize("user", [-1, 2, 1 << 40])
def test_an_item_of_no_user_is_named(user: int) -> None:
    to_user = torch.tensor([0, 0, user])
    broken = replace(batch_of(users=2, items=3), item_to_user_B=to_user)
    static = StaticBatch(SPEC, BatchShape(users=2, items=4, ids=32), CPU)
    with pytest.raises(ConfigError, match=r"item_to_user_B\[2\].*0 to 1") as error:
        static.send(broken)
    assert error.value.value == user


def test_scores_and_faults_come_back() -> None:
    output = StaticScores(items=4, tasks=2, device=CPU)
    output.clear_faults()
    output.scores_BT.copy_(torch.arange(8.0).view(4, 2))
    output.fetch()
    scores, faults = output.fetched(3)
    assert scores.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert faults == {"user": Faults(None, None), "item": Faults(None, None)}
    output.faults["item"][0] = 7  # a position, as the lookup writes it
    output.faults["user"][1] = 0
    output.fetch()
    again, faults = output.fetched(4)
    assert faults == {"user": Faults(bag=0, position=None), "item": Faults(bag=None, position=7)}
    again.zero_()  # what was given out is the caller's
    assert output.fetched(4)[0].flatten().tolist() == list(range(8))
