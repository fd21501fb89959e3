"""Crosses: their places, combinations, rows and sides; what is refused."""

from dataclasses import replace

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.models.crosses import Crosses

SPEC = FeatureSpec(
    features=(
        Feature(name="age", side="user", kind="dense"),
        Feature(name="country", side="user", kind="bag", table="country"),
        Feature(name="history", side="user", kind="bag", table="items", pooling_factor=3.0),
        Feature(name="item", side="item", kind="bag", table="items"),
        Feature(name="seen", side="user", kind="sequence", table="items"),
    ),
    tables=(
        TableSpec(name="country", num_embeddings=4, embedding_dim=2),
        TableSpec(name="items", num_embeddings=10, embedding_dim=2),
    ),
)


def make_batch() -> FeatureBatch:
    """Two users, of whom the second has no history, and three items."""
    user = SideFeatures(
        dense_RN=torch.zeros(2, 1),
        values_L=torch.tensor([3, 7, 8, 5, 1, 6]),
        offsets=torch.tensor([0, 1, 3, 4, 5, 5, 6]),
    )
    item = SideFeatures(
        dense_RN=torch.zeros(3, 0),
        values_L=torch.tensor([0, 9, 2]),
        offsets=torch.tensor([0, 1, 2, 3]),
    )
    return FeatureBatch(user=user, item=item, item_to_user_B=torch.tensor([0, 0, 1]))


def bags(side: SideFeatures) -> list[list[int]]:
    return [ids.tolist() for ids in side.values_L.split(side.offsets.diff().tolist())]


def test_a_cross_of_users_is_the_users_and_any_other_the_items() -> None:
    crosses = Crosses(SPEC, [("country", "history"), ("item", "country")], 1000)
    *_, of_users, of_both = crosses.spec.features
    assert (of_users.side, of_users.table, of_users.pooling_factor) == (
        "user",
        "country*history",
        3,
    )
    assert (of_both.side, of_both.name) == ("item", "item*country")
    assert [table.num_embeddings for table in crosses.spec.tables] == [4, 10, 40, 40]
    crossed = crosses(make_batch())
    crossed.check(crosses.spec)
    # Country 3 with items 7 and 8: 3 + 4 * 7 and 3 + 4 * 8; the second user has no history.
    assert bags(crossed.user) == [[3], [7, 8], [5], [31, 35], [1], [], [6], []]
    assert bags(crossed.item) == [[0], [30], [9], [39], [2], [12]]  # item + 10 * country


def test_a_large_cross_is_hashed_as_the_module_says() -> None:
    crosses = Crosses(SPEC, [("item", "history", "country")], 7)
    assert crosses.spec.tables[-1].num_embeddings == 7

    def row(*ids: int) -> int:
        number = 0
        for i in ids:
            number = (number + i + 1) * 48271 % (2**31 - 1)
        return number

    first, second = ([row(i, 7, 3) % 7, row(i, 8, 3) % 7] for i in (0, 9))
    expected = [[0], first, [9], second, [2], []]
    assert bags(crosses(make_batch()).item) == expected
    assert row(9, 8, 3) == 1672692208  # trained tables depend on it


def test_hashed_rows_are_used_evenly() -> None:
    table = TableSpec(name="t", num_embeddings=1000, embedding_dim=2)
    both = tuple(Feature(name=n, side="item", kind="bag", table="t") for n in "ab")
    crosses = Crosses(FeatureSpec(features=both, tables=(table,)), ["ab"], 500)
    ids = torch.cartesian_prod(torch.arange(200), torch.arange(200)).flatten()
    rows = len(ids) // 2
    item = SideFeatures(
        dense_RN=torch.zeros(rows, 0), values_L=ids, offsets=torch.arange(2 * rows + 1)
    )
    batch = FeatureBatch(user=item.rows(0, 0), item=item, item_to_user_B=torch.zeros(rows).long())
    counts = torch.bincount(crosses(batch).item.values_L[2::3], minlength=500)
    # Chance alone would spread 80 of each with a variance of 80.
    assert counts.float().var() < 2 * 80


def test_weights_of_a_combination_are_multiplied() -> None:
    crosses, batch = (
        Crosses(SPEC, [("country", "history"), ("item", "history")], 1000),
        make_batch(),
    )
    user = replace(batch.user, weights_L=torch.tensor([2.0, 3.0, 5.0, 1.0, 1.0, 1.0]))
    crossed = crosses(replace(batch, user=user))
    assert crossed.user.weights_L.tolist() == [2.0, 3.0, 5.0, 1.0, 6.0, 10.0, 1.0, 1.0]
    assert crossed.item.weights_L.tolist() == [1.0, 3.0, 5.0, 1.0, 3.0, 5.0, 1.0]


def test_a_batch_without_rows_stays_one() -> None:
    batch = make_batch()
    empty = FeatureBatch(
        user=batch.user.rows(0, 0), item=batch.item.rows(0, 0), item_to_user_B=torch.empty(0).long()
    )
    crossed = Crosses(SPEC, [("country", "history"), ("item", "country")], 1000)(empty)
    assert (crossed.num_users, crossed.num_items, crossed.num_ids) == (0, 0, 0)


@pytest.mark.parametrize(
    ("crosses", "rows_max", "message"),
    [
        ([("country",)], 10, "two or more bags, each once"),
        ([("country", "country")], 10, "two or more bags, each once"),
        ([("country", "itme")], 10, "did you mean 'item'"),
        ([("country", "age")], 10, "bags: country, history or item"),
        ([("country", "seen")], 10, "bags: country, history or item"),
        ([("country", "item"), ("country", "item")], 10, "unique names"),
        ([("country", "item")], 0, "at least 1"),
    ],
)
def test_what_is_no_cross_is_refused(crosses, rows_max: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Crosses(SPEC, crosses, rows_max)
