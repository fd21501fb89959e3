"""Items that a user has not met, drawn at random: the negative rows of logs that hold only likes.

Knows no file format and no features.

Legend: U users, V items, L draws, K draws per user, B met pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError

Ints = NDArray[np.int64]


class UnmetItems:
    """Uniform draws from the items that each user has not met.

    A draw is a rank among the user's unmet items, turned into an item by one binary search. So it
    takes one random number, whatever share of the items the user has met, and 8 bytes a pair.

    Args:
        user_B: the user of each pair, 0 to num_users - 1.
        item_B: the item that the user met, 0 to num_items - 1; pairs may come more than once.
        num_users: U.
        num_items: V.

    Attributes:
        num_unmet_U: how many items each user has not met.

    Raises:
        ConfigError: a user or an item is out of range.
    """

    def __init__(self, user_B: Ints, item_B: Ints, num_users: int, num_items: int) -> None:
        for name, ids, count in (("user", user_B, num_users), ("item", item_B, num_items)):
            outside = np.flatnonzero((ids < 0) | (ids >= count))
            if len(outside):
                place = int(outside[0])
                raise ConfigError(f"{name}_B[{place}]", int(ids[place]), f"0 to {count - 1}")
        self._num_items = num_items
        met = np.sort(user_B.astype(np.int64) * num_items + item_B)
        # As `np.unique`, which hashes: keys like these took it 2 s a million.
        met = met[np.r_[True, met[1:] != met[:-1]]] if len(met) else met
        num_met_U = np.bincount(met // num_items, minlength=num_users)
        self._first_U = np.cumsum(num_met_U) - num_met_U
        self.num_unmet_U: Ints = num_items - num_met_U
        # Unmet items below the j-th met item of a user: the item less j. They never fall.
        self._unmet_below = met - (np.arange(len(met)) - np.repeat(self._first_U, num_met_U))

    def draw(self, user_L: Ints, rng: np.random.Generator) -> Ints:
        """An item for each of these users, each draw by itself: one may come twice.

        Raises:
            ConfigError: a user has met every item.
        """
        self._require(user_L, 1)
        return self._at(user_L, rng.integers(self.num_unmet_U[user_L]))

    def draw_distinct(self, user_U: Ints, count: int, rng: np.random.Generator) -> Ints:
        """`count` different items for each of these users, (U, K); every set is as likely.

        Source: Floyd's algorithm, in Bentley, Programming Pearls: a Sample of Brilliance,
        Communications of the ACM 30(9), 1987, for all users at once.

        Raises:
            ConfigError: a user has fewer than `count` unmet items.
        """
        self._require(user_U, count)
        rank_UK = np.empty((len(user_U), count), dtype=np.int64)
        for taken in range(count):
            last_U = self.num_unmet_U[user_U] - count + taken
            rank_U = rng.integers(last_U, endpoint=True)
            again_U = (rank_UK[:, :taken] == rank_U[:, None]).any(axis=1)
            rank_UK[:, taken] = np.where(again_U, last_U, rank_U)
        return self._at(np.repeat(user_U, count), rank_UK.reshape(-1)).reshape(rank_UK.shape)

    def _at(self, user_L: Ints, rank_L: Ints) -> Ints:
        """The unmet items of these ranks, from 0, among each user's."""
        wanted_L = user_L * self._num_items + rank_L
        skipped_L = np.searchsorted(self._unmet_below, wanted_L, side="right")
        return rank_L + skipped_L - self._first_U[user_L]

    def _require(self, user_L: Ints, count: int) -> None:
        """Refuse a user without so many unmet items."""
        short = np.flatnonzero(self.num_unmet_U[user_L] < count)
        if len(short):
            user = int(user_L[short[0]])
            left = int(self.num_unmet_U[user])
            allowed = f"one with {count} unmet items or more; {left} of {self._num_items} are left"
            raise ConfigError("user", user, allowed)
