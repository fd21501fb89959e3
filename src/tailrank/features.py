"""Features of users and items: their specification, one batch of them, and labels.

Legend for shape suffixes: U user rows, B item rows, R rows of one side, F sparse features of one
side, N dense width, L ids, T tasks. This module knows no model and no file format.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tailrank.core.errors import ConfigError

Side = Literal["user", "item"]
Kind = Literal["dense", "bag", "sequence"]
SIDES: tuple[Side, Side] = ("user", "item")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """An embedding table of `num_embeddings` rows (V) by `embedding_dim` columns (D)."""

    name: str
    num_embeddings: int
    embedding_dim: int

    def __post_init__(self) -> None:
        for field in ("num_embeddings", "embedding_dim"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{self.name}.{field}", getattr(self, field), "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature.

    Args:
        name: unique in its spec.
        side: `user` (same for all candidates of a query) or `item`.
        kind: `dense` (floats), `bag` (ids whose order means nothing) or `sequence`.
        table: the embedding table of a bag or sequence; features may share one.
        width: floats per row of a dense feature.
        pooling_factor: mean ids per row of a bag or sequence; sizes synthetic queries and memory.
    """

    name: str
    side: Side
    kind: Kind
    table: str | None = None
    width: int = 1
    pooling_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ConfigError(f"{self.name}.side", self.side, "user or item")
        if self.kind not in ("dense", "bag", "sequence"):
            raise ConfigError(f"{self.name}.kind", self.kind, "dense, bag or sequence")
        if (self.kind == "dense") != (self.table is None):
            raise ConfigError(f"{self.name}.table", self.table, "a table, unless kind is dense")
        if self.width < 1:
            raise ConfigError(f"{self.name}.width", self.width, "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """All features of a model and the tables they look up, in a fixed order."""

    features: tuple[Feature, ...]
    tables: tuple[TableSpec, ...]

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise ConfigError("features", names, "unique names")
        known = {table.name for table in self.tables}
        if len(known) != len(self.tables):
            raise ConfigError("tables", [table.name for table in self.tables], "unique names")
        for feature in self.features:
            if feature.table is not None and feature.table not in known:
                raise ConfigError(f"{feature.name}.table", feature.table, f"one of {sorted(known)}")

    def sparse(self, side: Side) -> tuple[Feature, ...]:
        """Bags and sequences of a side, in the order of `FeatureBatch` columns (F of them)."""
        return tuple(f for f in self.features if f.side == side and f.kind != "dense")

    def dense_width(self, side: Side) -> int:
        """Floats per row of a side (N)."""
        return sum(f.width for f in self.features if f.side == side and f.kind == "dense")

    def table(self, name: str | None) -> TableSpec:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)

    def ids_per_row(self, side: Side) -> float:
        """Mean ids per row of a side."""
        return sum(feature.pooling_factor for feature in self.sparse(side))

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables in fp32."""
        return sum(4 * table.num_embeddings * table.embedding_dim for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "features": [asdict(feature) for feature in self.features],
            "tables": [asdict(table) for table in self.tables],
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> FeatureSpec:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError, KeyError, TypeError: the record is not such a spec.
        """
        return cls(
            features=tuple(Feature(**feature) for feature in record["features"]),
            tables=tuple(TableSpec(**table) for table in record["tables"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SideFeatures:
    """Rows of one side.

    Args:
        dense_RN: float32; N may be 0.
        values_L: int64 ids of all bags, row-major (row, then feature).
        offsets: int64, R * F + 1 non-decreasing positions into `values_L`, from 0 to L; bag
            (r, f) is `values_L[offsets[r * F + f] : offsets[r * F + f + 1]]`.
        weights_L: float32 per id, or None for all 1.
    """

    dense_RN: Tensor
    values_L: Tensor
    offsets: Tensor
    weights_L: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """R."""
        return self.dense_RN.shape[0]

    @property
    def num_ids(self) -> int:
        """L."""
        return self.values_L.shape[0]

    @property
    def uniform_bag_size(self) -> int | None:
        """Ids per bag where all bags hold equally many, which most presets do; else None."""
        num_bags = self.offsets.shape[0] - 1
        if num_bags == 0 or self.num_ids % num_bags:
            return None
        size = self.num_ids // num_bags
        return size if bool((self.offsets.diff() == size).all()) else None

    def rows(self, first: int, count: int) -> SideFeatures:
        """Rows `[first, first + count)`; ids and floats are views."""
        num_sparse = (self.offsets.shape[0] - 1) // self.num_rows if self.num_rows else 0
        cut = self.offsets[first * num_sparse : (first + count) * num_sparse + 1]
        start, end = int(cut[0]), int(cut[-1])
        return SideFeatures(
            dense_RN=self.dense_RN[first : first + count],
            values_L=self.values_L[start:end],
            offsets=cut - start if start else cut,
            weights_L=None if self.weights_L is None else self.weights_L[start:end],
        )

    def select(self, columns: Sequence[int]) -> SideFeatures:
        """The same rows with the bags of these sparse features only, in this order."""
        if not self.num_rows:
            return self
        if self.num_rows == 1 and self.offsets.is_cpu:
            cut = self._select_of_one_row(columns)
            if cut is not None:
                return cut
        index_C = torch.tensor(columns, dtype=torch.int64, device=self.offsets.device)
        start_RF = self.offsets[:-1].view(self.num_rows, -1)
        length_RF = self.offsets.diff().view(self.num_rows, -1)
        start_G = start_RF.index_select(1, index_C).flatten()
        length_G = length_RF.index_select(1, index_C).flatten()
        offsets = F.pad(length_G.cumsum(0), (1, 0))
        position_L = torch.repeat_interleave(start_G - offsets[:-1], length_G)
        position_L += torch.arange(position_L.shape[0], device=position_L.device)
        weights_L = self.weights_L
        return SideFeatures(
            dense_RN=self.dense_RN,
            values_L=self.values_L.index_select(0, position_L),
            offsets=offsets,
            weights_L=None if weights_L is None else weights_L.index_select(0, position_L),
        )

    def _select_of_one_row(self, columns: Sequence[int]) -> SideFeatures | None:
        """`select` for a query's user: to cut takes a third of the time of indexing.

        None where the offsets are not sound, for `select` to fail on.
        """
        edges, offsets = self.offsets.tolist(), [0]
        if max(columns, default=-1) + 1 >= len(edges):
            return None
        bags = [slice(edges[column], edges[column + 1]) for column in columns]
        for bag in bags:
            if not 0 <= bag.start <= bag.stop <= self.num_ids:
                return None
            offsets.append(offsets[-1] + bag.stop - bag.start)
        ids, weights = self.values_L, self.weights_L
        return SideFeatures(
            dense_RN=self.dense_RN,
            values_L=torch.cat([ids[:0], *(ids[bag] for bag in bags)]),
            offsets=torch.tensor(offsets),
            weights_L=None
            if weights is None
            else torch.cat([weights[:0], *(weights[bag] for bag in bags)]),
        )

    def one_bag_per_id(self) -> SideFeatures:
        """The same ids, each in a bag of its own: pooled, such bags are the ids' own rows."""
        return replace(self, offsets=torch.arange(self.num_ids + 1, device=self.offsets.device))

    def id_error(
        self, spec: FeatureSpec, side: Side, position: int, bag: int | None = None
    ) -> ConfigError:
        """What to raise for the id at `position` of `values_L`, which is outside its table.

        Args:
            spec: the features.
            side: which of its sides this is.
            position: of the id.
            bag: that holds it; None: looked for in the offsets, which then have to be sound.
        """
        sparse = spec.sparse(side)
        if bag is None:
            bag = int(torch.searchsorted(self.offsets, position, right=True)) - 1
        row, feature = bag // len(sparse), sparse[bag % len(sparse)]
        place = position - int(self.offsets[bag])
        limit = spec.table(feature.table).num_embeddings
        field = f"{feature.name} ({side} row {row}, id {place} of its bag)"
        return ConfigError(field, int(self.values_L[position]), f"0 to {limit - 1}")

    @classmethod
    def concat(cls, sides: Sequence[SideFeatures]) -> SideFeatures:
        """Rows of all sides, one after the other."""
        if len(sides) == 1:
            return sides[0]
        offsets, start = [sides[0].offsets[:1]], 0
        for side in sides:
            offsets.append(side.offsets[1:] + start if start else side.offsets[1:])
            start += side.num_ids
        weights = [side.weights_L for side in sides if side.weights_L is not None]
        assert len(weights) in (0, len(sides)), "all sides carry weights, or none does"
        return cls(
            dense_RN=torch.cat([side.dense_RN for side in sides]),
            values_L=torch.cat([side.values_L for side in sides]),
            offsets=torch.cat(offsets),
            weights_L=torch.cat(weights) if weights else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureBatch:
    """What a ranker scores: B items of U users.

    Args:
        user: U rows.
        item: B rows; 1 <= U <= B, and B = 0 only with U = 0.
        item_to_user_B: int64, non-decreasing, the user row of each item row.
    """

    user: SideFeatures
    item: SideFeatures
    item_to_user_B: Tensor

    @property
    def num_items(self) -> int:
        """B."""
        return self.item.num_rows

    @property
    def num_users(self) -> int:
        """U."""
        return self.user.num_rows

    @property
    def num_ids(self) -> int:
        """Ids of both sides."""
        return self.user.num_ids + self.item.num_ids

    def items(self, first: int, count: int) -> FeatureBatch:
        """Items `[first, first + count)` with just the users they belong to; count >= 1."""
        users = self.item_to_user_B[first : first + count]
        first_user, last_user = int(users[0]), int(users[-1])
        return FeatureBatch(
            user=self.user.rows(first_user, last_user - first_user + 1),
            item=self.item.rows(first, count),
            item_to_user_B=users - first_user if first_user else users,
        )

    @classmethod
    def concat(cls, batches: Sequence[FeatureBatch]) -> FeatureBatch:
        """Items of all batches, one after the other; users are not merged."""
        if len(batches) == 1:
            return batches[0]
        item_to_user, start = [], 0
        for batch in batches:
            item_to_user.append(batch.item_to_user_B + start)
            start += batch.num_users
        return cls(
            user=SideFeatures.concat([batch.user for batch in batches]),
            item=SideFeatures.concat([batch.item for batch in batches]),
            item_to_user_B=torch.cat(item_to_user),
        )

    def check(self, spec: FeatureSpec) -> None:
        """Refuse a batch that does not fit `spec`; called where features enter from outside.

        Raises:
            ConfigError: a shape, an offset, an id or `item_to_user_B` is wrong, or a float is NaN
                or infinite; names the place.
        """
        for side_name in SIDES:
            _check_side(getattr(self, side_name), spec, side_name)
        users, items, to_user = self.num_users, self.num_items, self.item_to_user_B
        if not (1 <= users <= items or users == items == 0):
            raise ConfigError("num_users", users, f"1 to the {items} items (0 without items)")
        if to_user.shape != (items,):
            raise ConfigError("item_to_user_B.shape", tuple(to_user.shape), f"({items},)")
        if items and (bool((to_user.diff() < 0).any()) or to_user[0] < 0 or to_user[-1] >= users):
            raise ConfigError("item_to_user_B", to_user.tolist()[:8], f"rising, 0 to {users - 1}")


def _check_side(side: SideFeatures, spec: FeatureSpec, name: Side) -> None:
    """Refuse one side of a batch that does not fit `spec`."""
    sparse = spec.sparse(name)
    rows, width = side.num_rows, spec.dense_width(name)
    if side.dense_RN.shape != (rows, width):
        raise ConfigError(
            f"{name}.dense_RN.shape", tuple(side.dense_RN.shape), f"({rows}, {width})"
        )
    bad = torch.nonzero(~torch.isfinite(side.dense_RN))
    if len(bad):
        row, column = bad[0].tolist()
        raise _float_error(side, spec, name, row, column)
    offsets = side.offsets
    if offsets.shape != (rows * len(sparse) + 1,):
        allowed = f"({rows * len(sparse) + 1},): one per bag and one more"
        raise ConfigError(f"{name}.offsets.shape", tuple(offsets.shape), allowed)
    if offsets[0] != 0 or offsets[-1] != side.num_ids or bool((offsets.diff() < 0).any()):
        raise ConfigError(
            f"{name}.offsets", offsets.tolist()[:8], f"rising from 0 to {side.num_ids}"
        )
    if not sparse or not side.num_ids:
        return
    limits = torch.tensor([spec.table(feature.table).num_embeddings for feature in sparse])
    limit_L = torch.repeat_interleave(limits.repeat(rows), offsets.diff())
    bad = torch.nonzero((side.values_L < 0) | (side.values_L >= limit_L))
    if len(bad):
        raise side.id_error(spec, name, int(bad[0]))


def _float_error(
    side: SideFeatures, spec: FeatureSpec, name: Side, row: int, column: int
) -> ConfigError:
    """What to raise for a float that is none: NaN, or infinite."""
    dense = [f.name for f in spec.features if f.side == name and f.kind == "dense"]
    widths = [f.width for f in spec.features if f.side == name and f.kind == "dense"]
    feature = dense[bisect_right(list(accumulate(widths)), column)]
    field = f"{feature} ({name} row {row}, column {column} of dense_RN)"
    return ConfigError(field, float(side.dense_RN[row, column]), "a finite number")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Labels of B items and T tasks; beside a `FeatureBatch` in training only.

    Args:
        values_BT: float32, 0 or 1.
        mask_BT: bool, False where a label is unknown; None: all known.
        weights_B: float32 sample weights; None: all 1.
        group_B: int64, the user or query that each item belongs to, for metrics per group; None:
            the data has no groups.
    """

    values_BT: Tensor
    mask_BT: Tensor | None = None
    weights_B: Tensor | None = None
    group_B: Tensor | None = None
