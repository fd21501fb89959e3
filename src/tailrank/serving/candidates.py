"""Whom to rank, and what for whom: as a request has it, before any model reads it.

Each side comes as raw values or as ids of a feature table; a model makes features of it, of all
candidates or of some. Knows no request format and no queue.

Legend: K candidates chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from tailrank.core.errors import RequestError, TailrankError
from tailrank.data.dataset import empty_side
from tailrank.data.jagged import Ints
from tailrank.data.row_encoder import Rows
from tailrank.features import FeatureBatch, Side, SideFeatures
from tailrank.serving.feature_tables import FeatureTable
from tailrank.serving.id_index import Array
from tailrank.serving.model import ServedModel


class Ids(NamedTuple):
    """A side by ids alone.

    Args:
        side: which one.
        ids: at least one; values, or an array of whole numbers.
        field: what the request calls them.
        default: give ids that are not known the default row; else they are an error.
    """

    side: Side
    ids: Sequence[Any] | Array
    field: str
    default: bool

    @property
    def num_rows(self) -> int:
        """How many."""
        return len(self.ids)


class FoundRows(NamedTuple):
    """Rows of a table whose features are still to be copied.

    Args:
        table: that has them.
        row_R: which.
    """

    table: FeatureTable
    row_R: Ints

    def rows(self, first: int, count: int) -> SideFeatures:
        """The features of rows `[first, first + count)`."""
        return self.table.take(self.row_R[first : first + count])


class FoundItems(NamedTuple):
    """A user and candidates that were found in a table, whose features are still to be copied.

    Whoever ranks them copies them, just before: they are then in that core's cache.

    Args:
        user: one row.
        item: the candidates.
    """

    user: SideFeatures | FoundRows
    item: FoundRows

    @property
    def num_items(self) -> int:
        """Candidates."""
        return len(self.item.row_R)

    def items(self, first: int, count: int) -> FeatureBatch:
        """What a model reads of candidates `[first, first + count)`."""
        return FeatureBatch(
            user=self.user.rows(0, 1) if isinstance(self.user, FoundRows) else self.user,
            item=self.item.rows(first, count),
            item_to_user_B=torch.zeros(count, dtype=torch.int64),
        )


class Candidates(NamedTuple):
    """One user and its candidates.

    Args:
        user: one row.
        items: at least one.
    """

    user: Rows | Ids
    items: Rows | Ids

    @property
    def num_items(self) -> int:
        """Candidates."""
        return self.items.num_rows

    def features(self, model: ServedModel, places: Sequence[int] | None = None) -> FeatureBatch:
        """What a model reads of them; see `found`."""
        found = self.found(model, places)
        return found if isinstance(found, FeatureBatch) else found.items(0, found.num_items)

    def found(
        self, model: ServedModel, places: Sequence[int] | None = None
    ) -> FeatureBatch | FoundItems:
        """What a model reads of them, or where it is: all that can be wrong with them is checked.

        Args:
            model: which.
            places: of the K candidates that are meant; None: all.

        Raises:
            ConfigError: a value is not allowed, or an id of another type than the table's.
            RequestError: an id is unknown; or, of chosen candidates, a value is not allowed.
        """
        items = self.items if places is None else _chosen(self.items, places)
        user, item = _side(self.user, model), _side(items, model)
        if isinstance(item, FoundRows):
            return FoundItems(user, item)
        return FeatureBatch(
            user=user.rows(0, 1) if isinstance(user, FoundRows) else user,
            item=item,
            item_to_user_B=torch.zeros(items.num_rows, dtype=torch.int64),
        )


def _side(rows: Rows | Ids, model: ServedModel) -> SideFeatures | FoundRows:
    if isinstance(rows, Rows):
        return model.encoder.side(rows)
    table = model.tables.get(rows.side)
    if table is None:  # then the model has no features of that side
        return empty_side(rows.num_rows)
    return FoundRows(table, table.rows(rows.ids, rows.field, default=rows.default))


def _chosen(rows: Rows | Ids, places: Sequence[int]) -> Rows | Ids:
    """Some of the rows."""
    if isinstance(rows, Ids):
        if isinstance(rows.ids, np.ndarray):
            return rows._replace(ids=rows.ids[np.asarray(places, dtype=np.int64)])
        return rows._replace(ids=[rows.ids[place] for place in places])

    def blame(row: int, column: str, reason: str) -> TailrankError:
        return RequestError(f"items.{column}[{places[row]}]", f"not allowed: {reason}")

    columns = {name: [values[at] for at in places] for name, values in rows.columns.items()}
    return Rows(rows.side, columns, len(places), blame)
