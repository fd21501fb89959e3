"""Cross-product features: one id for each combination of ids of several bags.

phi(x) = AND of one id from each bag, so bags of m and n ids give m * n of them, an empty one none.
Source: Cheng et al., Wide & Deep Learning for Recommender Systems, arXiv 1606.07792, equation 1.

Where a table has a row for every combination, the ids are the digits of its number, the first
bag's the lowest. Elsewhere its number is a hash,

    h = 0;  for each id:  h = (h + id + 1) * 48271 mod (2**31 - 1);  row = h mod rows

(multiplier and modulus: Park, Miller and Stockmeyer, CACM 36(7), 1993). Trained tables depend on
both, so they stay. Knows no architecture.

Legend: R rows of one side, F its own bags, C its crosses, G bags in a row, L ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError, one_of
from tailrank.features import SIDES, Feature, FeatureBatch, FeatureSpec, Side, SideFeatures

_MODULUS, _MULTIPLIER = (1 << 31) - 1, 48271


class _Place(NamedTuple):
    """Where the bags of a feature are: a column of so many of a side; and the rows of its table."""

    side: Side
    column: int
    num_columns: int
    rows: int


class _Cross(NamedTuple):
    """A cross and the rows of its table."""

    places: tuple[_Place, ...]
    rows: int

    @property
    def exact(self) -> bool:
        """Whether every combination has a row."""
        return math.prod(place.rows for place in self.places) <= self.rows


class Crosses:
    """Adds crosses to batches, on whatever device they are.

    Args:
        spec: features of a batch from outside.
        crosses: names of the bags of each cross.
        rows_max: rows of a cross's table; fewer where it has fewer combinations.

    Attributes:
        spec: with the crosses, named `a*b`, behind the other features. A cross is the user's if
            all of its bags are.

    Raises:
        ConfigError: a cross of fewer than two bags, of an unknown one or twice of one; or no rows.
    """

    def __init__(self, spec: FeatureSpec, crosses: Sequence[Sequence[str]], rows_max: int) -> None:
        if rows_max < 1:
            raise ConfigError("cross_rows", rows_max, "at least 1")
        features, tables = list(spec.features), list(spec.tables)
        self._num_own = {side: len(spec.sparse(side)) for side in SIDES}
        self._added: dict[Side, list[_Cross]] = {"user": [], "item": []}
        for names in crosses:
            members, name = [_bag(spec, name) for name in names], "*".join(names)
            if len(set(names)) < max(2, len(names)):
                raise ConfigError("crosses", name, "two or more bags, each once")
            side: Side = "item" if any(f.side == "item" for f in members) else "user"
            places = tuple(_place(spec, feature) for feature in members)
            rows = min(rows_max, math.prod(place.rows for place in places))
            self._added[side].append(_Cross(places, rows))
            table = replace(spec.table(members[0].table), name=name, num_embeddings=rows)
            ids = math.prod(f.pooling_factor for f in members)
            tables.append(table)
            features.append(
                Feature(name=name, side=side, kind="bag", table=name, pooling_factor=ids)
            )
        self.spec = FeatureSpec(features=tuple(features), tables=tuple(tables))

    def __call__(self, batch: FeatureBatch) -> FeatureBatch:
        """The batch with its crosses, as `spec` says."""
        if not any(self._added.values()):
            return batch
        return replace(batch, user=self._side(batch, "user"), item=self._side(batch, "item"))

    def _side(self, batch: FeatureBatch, side: Side) -> SideFeatures:
        """One side with its crosses."""
        own = batch.user if side == "user" else batch.item
        crossed = [_crossed(batch, cross, side) for cross in self._added[side]]
        return _joined(own, crossed, self._num_own[side]) if crossed else own


class _Column(NamedTuple):
    """The bags of one feature, row after row."""

    values_L: Tensor
    weights_L: Tensor | None
    length_R: Tensor


def _bag(spec: FeatureSpec, name: str) -> Feature:
    """The bag of that name."""
    bags = {feature.name: feature for feature in spec.features if feature.kind == "bag"}
    if name not in bags:
        raise ConfigError("crosses", name, "bags: " + one_of(sorted(bags), name))
    return bags[name]


def _place(spec: FeatureSpec, bag: Feature) -> _Place:
    """Where a bag is."""
    columns = spec.sparse(bag.side)
    rows = spec.table(bag.table).num_embeddings
    return _Place(bag.side, columns.index(bag), len(columns), rows)


def _crossed(batch: FeatureBatch, cross: _Cross, side: Side) -> _Column:
    """Every combination of one id from each bag of a row of `side`, the first bag's fastest."""
    found = []
    for place in cross.places:
        features = batch.user if place.side == "user" else batch.item
        start_R = features.offsets[:-1].view(-1, place.num_columns)[:, place.column]
        length_R = features.offsets.diff().view(-1, place.num_columns)[:, place.column]
        if place.side != side:
            start_R, length_R = start_R[batch.item_to_user_B], length_R[batch.item_to_user_B]
        found.append((features, start_R, length_R, place.rows))
    count_R = torch.stack([length_R for _, _, length_R, _ in found]).prod(0)
    row_L = torch.repeat_interleave(count_R)
    left_L = _ranges(torch.zeros_like(count_R), count_R)
    id_L, factor = torch.zeros_like(row_L), 1
    weights_L: Tensor | None = None
    for features, start_R, length_R, rows in found:
        length_L = length_R[row_L]
        at_L = start_R[row_L] + left_L % length_L
        left_L = left_L // length_L
        value_L = features.values_L[at_L]
        if cross.exact:
            id_L, factor = id_L + value_L * factor, factor * rows
        else:
            id_L = (id_L + value_L % _MODULUS + 1) * _MULTIPLIER % _MODULUS
        if features.weights_L is not None:
            weight_L = features.weights_L[at_L]
            weights_L = weight_L if weights_L is None else weights_L * weight_L
    # In the table even where an id is outside its own, which that id's lookup then names.
    return _Column(id_L % cross.rows, weights_L, count_R)


def _joined(own: SideFeatures, crossed: Sequence[_Column], num_own: int) -> SideFeatures:
    """A side with more bags in every row."""
    length_RF = own.offsets.diff().view(-1, num_own)
    length_RG = torch.cat([length_RF, torch.stack([c.length_R for c in crossed], dim=1)], dim=1)
    offsets = torch.cat([own.offsets[:1], length_RG.flatten().cumsum(0)])
    start_RG = offsets[:-1].view(length_RG.shape)
    columns = [_Column(own.values_L, own.weights_L, length_RF.flatten()), *crossed]
    start_R = start_RG.unbind(1)
    # Not a slice: whether that can be flattened depends on R, which an exported graph leaves open.
    starts = [torch.stack(start_R[:num_own], dim=1).flatten(), *start_R[num_own:]]
    at_L = torch.cat(
        [_ranges(*of) for of in zip(starts, (c.length_R for c in columns), strict=True)]
    )
    values_L = torch.empty_like(at_L)
    values_L[at_L] = torch.cat([column.values_L for column in columns])
    weights_L: Tensor | None = None
    if any(column.weights_L is not None for column in columns):
        weights_L = own.dense_RN.new_ones(at_L.shape)
        weights_L[at_L] = torch.cat([_weights(column, weights_L) for column in columns])
    return replace(own, values_L=values_L, offsets=offsets, weights_L=weights_L)


def _weights(column: _Column, like: Tensor) -> Tensor:
    """Weights of its ids, all 1 where it has none."""
    given = column.weights_L
    return like.new_ones(column.values_L.shape) if given is None else given


def _ranges(first_G: Tensor, length_G: Tensor) -> Tensor:
    """The numbers first, first + 1, … of each bag, `length_G` of them, bag after bag."""
    end_G = length_G.cumsum(0)
    first_L = torch.repeat_interleave(first_G - (end_G - length_G), length_G)
    return first_L + torch.arange(first_L.shape[0], device=first_L.device)
