"""The form of a model that other runtimes get: named tensors in, probabilities out.

What stands between a `FeatureBatch` and a graph of tensor operations: an input for every feature,
lookups written as gather and sum, no check that a graph cannot make. Knows no file format.

Inputs, in this order, user rows U, item rows B, ids L of one feature:

    NAME           of a dense feature: float32 (R, width)
    NAME           of a bag or sequence: int64 (L,), its ids, row after row
    NAME.offsets   int64 (R + 1,): row r has ids NAME[offsets[r] : offsets[r + 1]]
    item_to_user   int64 (B,), the user row of each item; only if a feature is the user's

Legend: U user rows, B item rows, R rows of one side, F sparse features of it, N dense width, D dim,
L ids, T tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailrank import __version__
from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled, SequenceRows
from tailrank.features import SIDES, Feature, FeatureBatch, FeatureSpec, Side, SideFeatures
from tailrank.inference.precision import Precision
from tailrank.models import ModelConfig, RankingModel
from tailrank.models.registry import architecture_of

OFFSETS, ITEM_TO_USER, OUTPUT = ".offsets", "item_to_user", "probability"
Named = dict[str, Tensor]
Scorer = Callable[[FeatureBatch], Tensor]
"""Scores a batch through an exported file: probabilities (B, T)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of an exported model.

    Args:
        name: see this module's docstring.
        dtype: of its numbers.
        rows: what its first extent counts: `users`, `items`, or `ids` of the feature.
        more: how many more than those there are; 1 for offsets.
        width: floats per row of a dense feature; None for a vector.
    """

    name: str
    dtype: Literal["float32", "int64"]
    rows: Literal["users", "items", "ids"]
    more: int = 0
    width: int | None = None

    @property
    def shape(self) -> list[str | int]:
        """Extents, those that may vary in words: `users + 1`, `ids of history`."""
        first = f"ids of {self.name}" if self.rows == "ids" else self.rows
        first += f" + {self.more}" if self.more else ""
        return [first] if self.width is None else [first, self.width]


def inputs_of(spec: FeatureSpec) -> list[Input]:
    """What an exported model of these features takes, in order.

    Raises:
        ConfigError: two inputs would have the same name.
    """
    inputs = []
    for feature in spec.features:
        rows: Literal["users", "items"] = "users" if feature.side == "user" else "items"
        if feature.kind == "dense":
            inputs.append(Input(name=feature.name, dtype="float32", rows=rows, width=feature.width))
        else:
            inputs.append(Input(name=feature.name, dtype="int64", rows="ids"))
            inputs.append(Input(name=feature.name + OFFSETS, dtype="int64", rows=rows, more=1))
    if any(feature.side == "user" for feature in spec.features):
        inputs.append(Input(name=ITEM_TO_USER, dtype="int64", rows="items"))
    names = [one.name for one in inputs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("features", name, f"names other than {ITEM_TO_USER} and X{OFFSETS}")
    return inputs


def named_tensors(batch: FeatureBatch, spec: FeatureSpec) -> Named:
    """A batch as the inputs of an exported model.

    Raises:
        ConfigError: the batch has factors of ids, for which an exported model has no input.
    """
    tensors: Named = {}
    for side in SIDES:
        rows: SideFeatures = getattr(batch, side)
        if rows.weights_L is not None:
            raise ConfigError(f"{side}.weights_L", "factors", "none: exported models sum plainly")
        dense = [f for f in spec.features if f.side == side and f.kind == "dense"]
        parts = torch.split(rows.dense_RN, [feature.width for feature in dense], dim=1)
        tensors |= {f.name: part.contiguous() for f, part in zip(dense, parts, strict=True)}
        sparse = spec.sparse(side)
        lengths_RF = rows.offsets.diff().view(rows.num_rows, len(sparse))
        number_RF = torch.arange(len(sparse)).expand_as(lengths_RF)
        number_L = torch.repeat_interleave(number_RF.flatten(), lengths_RF.flatten())
        for index, feature in enumerate(sparse):
            tensors[feature.name] = rows.values_L[number_L == index]
            ends_R = lengths_RF[:, index].cumsum(0)
            tensors[feature.name + OFFSETS] = torch.cat([ends_R.new_zeros(1), ends_R])
    tensors[ITEM_TO_USER] = batch.item_to_user_B
    return {one.name: tensors[one.name] for one in inputs_of(spec)}


def describe(config: ModelConfig, precision: Precision) -> dict[str, Any]:
    """What goes with an exported model: what it was, what it takes and what it gives, as JSON.

    Args:
        config: of the model.
        precision: of the artifact that it was read from.
    """
    inputs = [
        {"name": one.name, "dtype": one.dtype, "shape": one.shape} for one in inputs_of(config.spec)
    ]
    return {
        "tailrank": __version__,
        "architecture": architecture_of(config),
        "precision_of_artifact": str(precision),
        "inputs": inputs,
        "outputs": [{"name": OUTPUT, "dtype": "float32", "shape": ["items", "tasks"]}],
        "spec": config.spec.to_dict(),
    }


class ExportForm(nn.Module):
    """A model on named tensors.

    An id outside its table stops the lookup, as does an item of no user. Offsets are taken as they
    are: a graph cannot refuse those that do not rise from 0 to L.

    Args:
        model: fp32, whose rows are shared; put into evaluation mode.
    """

    weight_VD: Tensor

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        self.spec = model.config.spec
        self.register_buffer("weight_VD", model.tables.weight_VD.detach())
        self.model = _without_rows(model).eval()
        self._derives = type(model).prepare is not RankingModel.prepare

    def forward(self, inputs: Named) -> Tensor:
        """Probabilities (B, T)."""
        user, item = self._side(inputs, "user"), self._side(inputs, "item")
        to_user_B = inputs.get(ITEM_TO_USER)
        if to_user_B is None:  # nothing is the user's: one empty row serves all items
            to_user_B = item.offsets.new_zeros(item.num_rows)
        else:  # ONNX counts negative positions from the end; one that is too large stops it
            to_user_B = torch.where(to_user_B < 0, user.num_rows, to_user_B)
        batch = FeatureBatch(user=user, item=item, item_to_user_B=to_user_B)
        if self._derives:
            batch = self.model.prepare(batch)
            pooled = Pooled(
                self._pooled_rows(batch.user, "user"), self._pooled_rows(batch.item, "item")
            )
        else:
            of_user, of_item, *sequences = self.model.tables.lookups
            pooled = Pooled(
                self._pooled(inputs, of_user, user.num_rows),
                self._pooled(inputs, of_item, item.num_rows),
                tuple(self._sequence(inputs, feature) for (feature,) in sequences),
            )
        return torch.sigmoid(self.model.score(batch, pooled))

    def _side(self, inputs: Named, side: Side) -> SideFeatures:
        """One side; with its ids if features are derived of them."""
        dense = [f.name for f in self.spec.features if f.side == side and f.kind == "dense"]
        sparse = self.spec.sparse(side)
        if dense:
            dense_RN = torch.cat([inputs[name] for name in dense], dim=1)
        elif sparse:
            dense_RN = torch.zeros(inputs[sparse[0].name + OFFSETS].shape[0] - 1, 0)
        else:
            dense_RN = torch.zeros(inputs[ITEM_TO_USER].shape[0] if side == "item" else 1, 0)
        offsets, values_L = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        if sparse:
            length_RF = torch.stack([inputs[f.name + OFFSETS].diff() for f in sparse], dim=1)
            offsets = F.pad(length_RF.view(dense_RN.shape[0] * len(sparse)).cumsum(0), (1, 0))
            if self._derives:  # `score` reads no ids: they have been looked up
                values_L = _row_major(*_bags(inputs, sparse), offsets, len(sparse))
        return SideFeatures(dense_RN=dense_RN, values_L=values_L, offsets=offsets)

    def _pooled(self, inputs: Named, features: Sequence[Feature], num_rows: int) -> Tensor:
        """Sum-pooled embeddings of features of one side, (R, F, D), all in one lookup."""
        if not features:
            return torch.zeros(num_rows, 0, self.model.tables.embedding_dim)
        ids_L, feature_L, ends_G = _bags(inputs, features)
        row_L = _bag_of_each(ids_L, ends_G) - feature_L * num_rows
        bag_L = row_L * len(features) + feature_L
        return self._sums(self._rows(ids_L, features, feature_L), bag_L, num_rows, len(features))

    def _pooled_rows(self, side: SideFeatures, name: Side) -> Tensor:
        """The same of all features of a side whose bags are row-major."""
        features = self.model.tables.spec.sparse(name)
        if not features:
            return torch.zeros(side.num_rows, 0, self.model.tables.embedding_dim)
        bag_L = _bag_of_each(side.values_L, side.offsets[1:])
        rows_LD = self._rows(side.values_L, features, bag_L % len(features))
        return self._sums(rows_LD, bag_L, side.num_rows, len(features))

    def _sums(self, rows_LD: Tensor, bag_L: Tensor, num_rows: int, num_features: int) -> Tensor:
        """Sums of the rows of each bag, (R, F, D); an empty one gives zeros.

        `embedding_bag`, which ONNX has not, would become a loop over bags; `index_add` a ScatterND,
        whose sums ONNX Runtime's threads lose where they meet in one bag.
        """
        dim = self.model.tables.embedding_dim
        sums_GD = torch.zeros(num_rows * num_features, dim)
        sums_GD = sums_GD.scatter_add(0, bag_L.unsqueeze(1).expand(-1, dim), rows_LD)
        return sums_GD.view(num_rows, num_features, dim)

    def _sequence(self, inputs: Named, feature: Feature) -> SequenceRows:
        """A sequence that is read row by row."""
        ids_L = inputs[feature.name]
        rows_LD = self._rows(ids_L, [feature], torch.zeros_like(ids_L))
        return SequenceRows(rows_LD, inputs[feature.name + OFFSETS])

    def _rows(self, ids_L: Tensor, features: Sequence[Feature], feature_L: Tensor) -> Tensor:
        """The rows (L, D) of ids; one that is outside its feature's table stops the graph."""
        tables = [self.model.tables.spec.table(feature.table) for feature in features]
        first_F = torch.tensor([self.model.tables.first_row[table.name] for table in tables])
        count_F = torch.tensor([table.num_embeddings for table in tables])
        outside_L = (ids_L < 0) | (ids_L >= count_F[feature_L])
        row_L = torch.where(outside_L, self.weight_VD.shape[0], ids_L + first_F[feature_L])
        return self.weight_VD.index_select(0, row_L)


def _bags(inputs: Named, features: Sequence[Feature]) -> tuple[Tensor, Tensor, Tensor]:
    """Bags of several features, feature after feature.

    Returns:
        All ids (L,), the number of the feature of each (L,), and where bags end (F * R,).
    """
    num_ids, ends = 0, []
    for feature in features:
        ends.append(inputs[feature.name + OFFSETS][1:] + num_ids)
        num_ids = num_ids + inputs[feature.name].shape[0]
    ids = [inputs[feature.name] for feature in features]
    numbers = [torch.full_like(of_one_L, number) for number, of_one_L in enumerate(ids)]
    return torch.cat(ids), torch.cat(numbers), torch.cat(ends)


def _bag_of_each(ids_L: Tensor, ends_G: Tensor) -> Tensor:
    """The bag of each id, (L,): as many bags as end at its place or before it."""
    num_ids = ids_L.shape[0]
    ended = torch.zeros(num_ids + 1, dtype=torch.int64)
    return ended.scatter_add(0, ends_G, torch.ones_like(ends_G)).cumsum(0)[:num_ids]


def _row_major(
    ids_L: Tensor, feature_L: Tensor, ends_G: Tensor, offsets: Tensor, num_features: int
) -> Tensor:
    """Ids that stand feature after feature, put row after row, where `offsets` begin each bag."""
    num_rows = (offsets.shape[0] - 1) // num_features
    bag_L = _bag_of_each(ids_L, ends_G)
    row_L = bag_L - feature_L * num_rows
    place_L = torch.arange(ids_L.shape[0]) - F.pad(ends_G[:-1], (1, 0))[bag_L]
    place_L = place_L + offsets[row_L * num_features + feature_L]
    return torch.zeros_like(ids_L).index_put((place_L,), ids_L)


def _without_rows(model: RankingModel) -> RankingModel:
    """A shallow copy whose `tables` have no weight: a graph must not hold the rows twice."""
    bare, tables = copy.copy(model), copy.copy(model.tables)
    bare._modules = dict(model._modules)
    tables._parameters = {}
    bare.tables = tables
    return bare
