"""Features of known users and items, so that a request brings their ids only.

Rows are looked up by id and joined into one side of a batch without a Python loop, in native calls
where there are native kernels. Knows no protocol; `feature_files` makes the arrays and maps them.

Legend: R rows of a table, B rows asked for, F sparse features of the side, N dense width, L ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tailrank.core.errors import ConfigError, RequestError
from tailrank.data.jagged import Ints, range_indices
from tailrank.features import Side, SideFeatures
from tailrank.kernels.feature_rows import RowCopier, is_available
from tailrank.serving.id_index import Array, IdIndex

_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureTable:
    """Encoded rows of one side, by id.

    Args:
        side: which one.
        index: the rows of ids.
        num_sparse: F.
        dense_RN: float32; here and below, the row after the last is that of unknown ids, if any.
        values_L: ids of all bags, as in `SideFeatures`, in any type of whole numbers.
        offsets: of those bags; None: there is one id in every bag.
        weights_L: as in `SideFeatures`.
        without_unknown: columns of which the model has nothing for what is unknown; if there are
            any, there is no row for unknown ids.
    """

    side: Side
    index: IdIndex
    num_sparse: int
    dense_RN: Array
    values_L: Array
    offsets: Array | None = None
    weights_L: Array | None = None
    without_unknown: tuple[str, ...] = ()
    _copy: RowCopier | None = field(init=False)

    def __post_init__(self) -> None:
        copy = None
        if is_available() and self.values_L.dtype in (np.int32, np.int64):
            arrays = self.dense_RN, self.values_L, self.offsets, self.weights_L
            copy = RowCopier(*arrays, self.num_sparse)
        object.__setattr__(self, "_copy", copy)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.index.ids_R)

    def features(
        self, ids: Sequence[Any] | Array, field: str, *, default: bool = False
    ) -> SideFeatures:
        """The features of ids, in their order.

        Args:
            ids: B >= 1 of them; an array holds whole numbers.
            field: what the request calls them, for errors.
            default: give ids that are not known the default row, which is what training makes of
                what it does not know: unknown categories, no ids in lists, zeros.

        Raises:
            ConfigError: an id is of another type than those of the table.
            RequestError: there are unknown ones; they were not to have the default row, or there is
                none.
        """
        return self.take(self.rows(ids, field, default=default))

    def rows(self, ids: Sequence[Any] | Array, field: str, *, default: bool = False) -> Ints:
        """The rows of ids, in their order; see `features`."""
        allowed, wanted = ("a text", str) if self.index.has_texts else ("a whole number", int)
        if isinstance(ids, np.ndarray) and self.index.has_texts:
            ids = ids.tolist()
        if not isinstance(ids, np.ndarray) and set(map(type, ids)) != {wanted}:
            place = next(place for place, given in enumerate(ids) if type(given) is not wanted)
            where = f"{field}[{place}]" if self.side == "item" else field
            raise ConfigError(where, ids[place], f"{allowed}, as in the feature table")
        found = self.index.find(ids)
        if found.known_L.all():
            return found.row_L
        if not default or self.without_unknown:
            given = ids.tolist() if isinstance(ids, np.ndarray) else ids
            unknown = [given[place] for place in np.flatnonzero(~found.known_L).tolist()]
            named = ", ".join(ascii(one)[:40] for one in unknown[:_SHOWN_IDS])
            more = f" and {len(unknown) - _SHOWN_IDS} more" if len(unknown) > _SHOWN_IDS else ""
            otherwise = '"unknown_ids": "default" ranks them by the default row'
            if self.without_unknown:
                named_columns = ", ".join(self.without_unknown[:_SHOWN_IDS])
                otherwise = f"there is no default row: the model knows no unknown {named_columns}"
            raise RequestError(field, f"not in the feature table: {named}{more}; {otherwise}")
        return np.where(found.known_L, found.row_L, self.num_rows)

    def take(self, row_B: Ints) -> SideFeatures:
        """The features of some rows, as `rows` gives them."""
        if self._copy is not None:
            dense_BN, values, offsets_G, weights = self._copy(row_B)
            return SideFeatures(
                dense_RN=dense_BN, values_L=values, offsets=offsets_G, weights_L=weights
            )
        num_sparse, weights_L = self.num_sparse, self.weights_L
        if self.offsets is None:
            position_L = (row_B[:, None] * num_sparse + np.arange(num_sparse)).reshape(-1)
            offsets: Ints = np.arange(len(position_L) + 1)
        else:
            edge_BF = self.offsets[row_B[:, None] * num_sparse + np.arange(num_sparse + 1)]
            first_B, length_B = edge_BF[:, 0], edge_BF[:, -1] - edge_BF[:, 0]
            offsets = np.zeros(len(row_B) * num_sparse + 1, dtype=np.int64)
            np.cumsum((edge_BF[:, 1:] - edge_BF[:, :-1]).reshape(-1), out=offsets[1:])
            position_L = range_indices(first_B, length_B)
        weights = None if weights_L is None else torch.from_numpy(weights_L[position_L])
        return SideFeatures(
            dense_RN=torch.from_numpy(self.dense_RN.take(row_B, axis=0)),
            values_L=torch.from_numpy(self.values_L[position_L].astype(np.int64)),
            offsets=torch.from_numpy(offsets),
            weights_L=weights,
        )
