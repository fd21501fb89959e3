"""Batches: cutting and joining is lossless, and what does not fit is named."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec

SPEC = FeatureSpec(
    features=(
        Feature(name="age", side="user", kind="dense", width=1),
        Feature(name="history", side="user", kind="bag", table="items"),
        Feature(name="item", side="item", kind="bag", table="items"),
        Feature(name="tags", side="item", kind="bag", table="tags"),
    ),
    tables=(
        TableSpec(name="items", num_embeddings=9, embedding_dim=2),
        TableSpec(name="tags", num_embeddings=4, embedding_dim=2),
    ),
)


def make_batch(**changes) -> FeatureBatch:
    fields = {
        "user_dense": torch.zeros(2, 1),
        "user_values": torch.tensor([1, 2, 8]),
        "user_offsets": torch.tensor([0, 3, 3]),
        "item_dense": torch.zeros(3, 0),
        "item_values": torch.tensor([0, 3, 2, 8, 1]),
        "item_offsets": torch.tensor([0, 1, 3, 3, 3, 4, 5]),
        "item_to_user": torch.tensor([0, 1, 1]),
    }
    fields.update(changes)
    return FeatureBatch(
        user=SideFeatures(
            dense_RN=fields["user_dense"],
            values_L=fields["user_values"],
            offsets=fields["user_offsets"],
        ),
        item=SideFeatures(
            dense_RN=fields["item_dense"],
            values_L=fields["item_values"],
            offsets=fields["item_offsets"],
        ),
        item_to_user_B=fields["item_to_user"],
    )


def test_a_good_batch_passes_and_counts() -> None:
    batch = make_batch()
    batch.check(SPEC)
    assert (batch.num_items, batch.num_users, batch.num_ids) == (3, 2, 8)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"user_dense": torch.zeros(2, 2)}, "user.dense_RN.shape"),
        ({"item_offsets": torch.tensor([0, 1, 5])}, "item.offsets.shape"),
        ({"user_offsets": torch.tensor([0, 2, 2])}, "user.offsets"),
        ({"item_offsets": torch.tensor([0, 3, 1, 3, 3, 4, 5])}, "item.offsets"),
        ({"item_to_user": torch.tensor([1, 0, 1])}, "item_to_user_B"),
        ({"item_to_user": torch.tensor([0, 1, 2])}, "item_to_user_B"),
        ({"item_to_user": torch.tensor([0, 1])}, "item_to_user_B.shape"),
        ({"item_values": torch.tensor([0, 3, 4, 8, 1])}, "tags (item row 0, id 1 of its bag)"),
        ({"user_values": torch.tensor([1, -2, 8])}, "history (user row 0, id 1 of its bag)"),
    ],
)
def test_what_does_not_fit_is_named(changes, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_batch(**changes).check(SPEC)
    assert error.value.field == field


def test_cutting_and_joining_is_lossless() -> None:
    batch = make_batch()
    joined = FeatureBatch.concat([batch.items(0, 1), batch.items(1, 1), batch.items(2, 1)])
    joined.check(SPEC)
    assert torch.equal(joined.item.values_L, batch.item.values_L)
    assert torch.equal(joined.item.offsets, batch.item.offsets)
    assert joined.num_users == 3  # users are repeated per part, never merged
    assert torch.equal(joined.user.values_L, torch.tensor([1, 2, 8]))
    assert FeatureBatch.concat([batch]) is batch


def test_a_spec_survives_json() -> None:
    assert FeatureSpec.from_dict(SPEC.to_dict()) == SPEC


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "x", "side": "server", "kind": "bag", "table": "t"}, "x.side"),
        ({"name": "x", "side": "user", "kind": "image", "table": "t"}, "x.kind"),
        ({"name": "x", "side": "user", "kind": "bag"}, "x.table"),
        ({"name": "x", "side": "user", "kind": "dense", "table": "t"}, "x.table"),
        ({"name": "x", "side": "user", "kind": "dense", "width": 0}, "x.width"),
    ],
)
def test_a_feature_that_cannot_be_is_refused(arguments, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        Feature(**arguments)
    assert error.value.field == field


@pytest.mark.parametrize("weighted", [False, True])
def test_selected_columns_are_the_bags_of_those_features(weighted: bool) -> None:
    side = make_batch().item
    if weighted:
        side = replace(side, weights_L=torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5]))
    ids, weights = [[0], [3, 2], [], [], [8], [1]], [[0.5], [1.5, 2.5], [], [], [3.5], [4.5]]
    for columns in ([0], [1], [1, 0], [0, 1], []):
        chosen = side.select(columns)
        order = [2 * row + column for row in range(3) for column in columns]
        assert chosen.offsets.diff().tolist() == [len(ids[bag]) for bag in order]
        assert chosen.values_L.tolist() == [i for bag in order for i in ids[bag]]
        if weighted:
            assert chosen.weights_L.tolist() == [w for bag in order for w in weights[bag]]
        else:
            assert chosen.weights_L is None
    assert side.rows(0, 0).select([1]).num_ids == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_columns_of_one_row_are_cut_as_those_of_several(weighted: bool) -> None:
    side = make_batch().item
    if weighted:
        side = replace(side, weights_L=torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5]))
    for row, columns in product(range(3), ([0], [1], [1, 0], [0, 1], [])):
        cut, both = side.rows(row, 1).select(columns), side.rows(row, 1)
        # Twice the row: indexed, and the second half is the row again.
        indexed = SideFeatures.concat([both, both]).select(columns).rows(1, 1)
        assert cut.offsets.tolist() == indexed.offsets.tolist()
        assert torch.equal(cut.values_L, indexed.values_L)
        assert cut.values_L.dtype == indexed.values_L.dtype
        if weighted:
            assert torch.equal(cut.weights_L, indexed.weights_L)


@pytest.mark.parametrize("offsets", [[0, 2, 1], [0, 1, 9], [0, -1, 2], [0, 2]])
def test_columns_of_a_row_with_unsound_offsets_are_not_cut(offsets: list[int]) -> None:
    side = SideFeatures(
        dense_RN=torch.zeros(1, 0), values_L=torch.arange(2), offsets=torch.tensor(offsets)
    )
    with pytest.raises((RuntimeError, IndexError)):
        side.select([0, 1])


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_float_that_is_none_is_refused_by_row_and_column(value: float) -> None:
    spec = FeatureSpec(
        features=(
            Feature(name="age", side="item", kind="dense"),
            Feature(name="item", side="item", kind="bag", table="items"),
            Feature(name="prices", side="item", kind="dense", width=2),
        ),
        tables=(TableSpec(name="items", num_embeddings=9, embedding_dim=2),),
    )
    dense = torch.zeros(3, 3)
    batch = FeatureBatch(
        user=SideFeatures(
            dense_RN=torch.zeros(1, 0),
            values_L=torch.zeros(0, dtype=torch.int64),
            offsets=torch.zeros(1, dtype=torch.int64),
        ),
        item=SideFeatures(
            dense_RN=dense, values_L=torch.tensor([1, 2, 3]), offsets=torch.arange(4)
        ),
        item_to_user_B=torch.zeros(3, dtype=torch.int64),
    )
    batch.check(spec)
    for column, feature in ((0, "age"), (1, "prices"), (2, "prices")):
        dense.zero_()[1, column] = value
        with pytest.raises(ConfigError, match="a finite number") as error:
            batch.check(spec)
        assert error.value.field == f"{feature} (item row 1, column {column} of dense_RN)"
