"""Negative sampling: unmet items only, all of them alike, the same for the same seed."""

import numpy as np
import pytest
from scipy.stats import chisquare

from tailrank.core.errors import ConfigError
from tailrank.data.negatives import UnmetItems

NUM_ITEMS = 9
# User 0 met little, 1 nothing, 2 all but one, 3 both ends and one twice.
MET = {0: [4], 1: [], 2: [0, 1, 2, 3, 4, 6, 7, 8], 3: [8, 0, 3, 3]}
UNMET = {user: sorted(set(range(NUM_ITEMS)) - set(met)) for user, met in MET.items()}


def unmet_items() -> UnmetItems:
    pairs = [(user, item) for user in (3, 0, 2) for item in MET[user]]  # in no order
    user_B, item_B = np.array(pairs).T
    return UnmetItems(user_B, item_B, num_users=4, num_items=NUM_ITEMS)


def test_every_unmet_item_is_as_likely_and_no_other_comes() -> None:
    items, rng = unmet_items(), np.random.default_rng(0)
    assert items.num_unmet_U.tolist() == [len(UNMET[user]) for user in range(4)]
    user_L = np.tile([2, 0, 3, 1], 5000)
    item_L = items.draw(user_L, rng)
    for user, unmet in UNMET.items():
        counts = np.bincount(item_L[user_L == user], minlength=NUM_ITEMS)
        assert np.flatnonzero(counts).tolist() == unmet
        assert len(unmet) == 1 or chisquare(counts[unmet]).pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 4, 6])
def test_distinct_items_differ_and_are_as_likely(count: int) -> None:
    users = np.tile([0, 3, 1], 4000)
    drawn_UK = unmet_items().draw_distinct(users, count, np.random.default_rng(1))
    assert drawn_UK.shape == (len(users), count)
    assert (np.diff(np.sort(drawn_UK, axis=1)) > 0).all()
    for user in (0, 3, 1):
        counts = np.bincount(drawn_UK[users == user].ravel(), minlength=NUM_ITEMS)
        assert set(np.flatnonzero(counts)) <= set(UNMET[user])
        if count < len(UNMET[user]):
            assert chisquare(counts[UNMET[user]]).pvalue > 1e-3
        else:  # all of them, every time
            assert set(counts[UNMET[user]]) == {4000}


def test_the_seed_alone_decides() -> None:
    items, user_L = unmet_items(), np.tile([0, 3], 20)
    first, again, other = (
        items.draw(user_L, np.random.default_rng(seed)).tolist() for seed in (5, 5, 6)
    )
    assert first == again != other


def test_a_user_who_met_too_much_is_named() -> None:
    items = UnmetItems(np.array([0, 1, 1]), np.array([0, 0, 1]), num_users=2, num_items=2)
    with pytest.raises(ConfigError, match=r"user: got 1.*1 unmet items or more; 0 of 2"):
        items.draw(np.array([0, 1]), np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"user: got 0.*2 unmet items or more; 1 of 2"):
        items.draw_distinct(np.array([0]), 2, np.random.default_rng(0))


@pytest.mark.parametrize(("user", "item", "named"), [(2, 0, "user_B"), (0, -1, "item_B")])
def test_ids_out_of_range_are_named(user: int, item: int, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"{named}\[1\]: got {max(user, item, key=abs)}"):
        UnmetItems(np.array([0, user]), np.array([0, item]), num_users=2, num_items=2)
