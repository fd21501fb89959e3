"""Full tables: one row per category, all tables of a model stacked in one merged weight.

One merged weight means one lookup per side instead of one per feature, and row-major offsets give
(row, feature, dim) without a transpose. Knows no model.

Legend: U user rows, B item rows, R rows of one side, F sparse features of that side, D dim, V rows
of the merged weight, L ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.features import SIDES, FeatureBatch, FeatureSpec, Side, SideFeatures
from tailrank.kernels import huge_pages
from tailrank.kernels.reference import pooled_lookup
from tailrank.kernels.row_formats import format_of, write_rows

# Factors as `reset` draws them, up to 0.6 in a table of 3 rows, drown the linear part at first: on
# Criteo a factorisation machine of dim 5 ended at a validation AUC of 0.755, with 0.01 at 0.760; of
# dim 17 at 0.742 and 0.760.
FACTOR_STD = 0.01
_QUANTISED_BLOCK_ROWS = 1 << 14


class SequenceRows(NamedTuple):
    """One sequence of each user, unpooled, its oldest id first.

    Args:
        rows_LD: a row for each id, times the id's weight where ids carry any.
        offsets: int64, U + 1 positions into `rows_LD`, from 0 to L.
    """

    rows_LD: Tensor
    offsets: Tensor


class Pooled(NamedTuple):
    """Sum-pooled embeddings of both sides of a batch; F may be 0.

    Args:
        user_UFD: without the unpooled sequences.
        item_BFD: of all item features.
        user_sequences: the unpooled sequences, in the order of the specification.
    """

    user_UFD: Tensor
    item_BFD: Tensor
    user_sequences: tuple[SequenceRows, ...] = ()


# Looks up bags whose ids are those of a batch that the caller gave: (number, bags) -> (G, D).
Lookup = Callable[[int, SideFeatures], Tensor]


class EmbeddingTables(nn.Module):
    """All tables of `spec`, stacked in the order of `spec.tables`.

    `weight_VD` takes no gradient from autograd: training updates just the rows that a step read
    (see `training/optimizers.py`).

    Args:
        spec: its tables must share one dim.
        generator: draws the weights, U(-1/sqrt(rows), 1/sqrt(rows)) per table; None: left
            unset, and its memory untouched, for weights that are about to be loaded.
        unpooled: sequences of the user side that the model reads row by row; all others are
            pooled, as bags are.

    Attributes:
        lookups: the features of each lookup, by its number: what is pooled of the user's side, of
            the item's side, then each unpooled sequence.

    Raises:
        ConfigError: tables of different dims, or no such sequence.

    Source: initial weights as facebookresearch/dlrm (arXiv 1906.00091).
    """

    def __init__(
        self,
        spec: FeatureSpec,
        generator: torch.Generator | None,
        unpooled: Sequence[str] = (),
    ) -> None:
        super().__init__()
        dims = {table.embedding_dim for table in spec.tables}
        if len(dims) > 1:
            raise ConfigError("embedding_dim", sorted(dims), "one dim for all tables of a model")
        self.spec = spec
        self.embedding_dim = dims.pop() if dims else 0
        rows = [table.num_embeddings for table in spec.tables]
        firsts = [sum(rows[:index]) for index in range(len(rows))]
        self.first_row = dict(zip((table.name for table in spec.tables), firsts, strict=True))
        weight_VD = huge_pages.empty(sum(rows), self.embedding_dim)
        self.weight_VD = nn.Parameter(weight_VD, requires_grad=False)
        if generator is not None:
            self.reset(generator)
        for side in SIDES:
            tables = [spec.table(feature.table) for feature in spec.sparse(side)]
            first_F = torch.tensor([self.first_row[table.name] for table in tables]).long()
            count_F = torch.tensor([table.num_embeddings for table in tables]).long()
            self.register_buffer(f"_{side}_first_F", first_F, persistent=False)
            self.register_buffer(f"_{side}_count_F", count_F, persistent=False)
        names = [feature.name for feature in spec.sparse("user") if feature.kind == "sequence"]
        for name in unpooled:
            if name not in names:
                raise ConfigError("unpooled", name, f"a sequence of the user side: {names}")
        user = spec.sparse("user")
        self._unpooled = [i for i, feature in enumerate(user) if feature.name in unpooled]
        self._pooled = [i for i, feature in enumerate(user) if feature.name not in unpooled]
        self.lookups = (
            tuple(user[i] for i in self._pooled),
            spec.sparse("item"),
            *((user[i],) for i in self._unpooled),
        )

    @property
    def reads_sequences(self) -> bool:
        """Whether any sequence is read row by row."""
        return bool(self._unpooled)

    def merged_ids(self, features: SideFeatures, side: Side) -> Tensor:
        """The row of the merged weight for each id, int64 (L,).

        Raises:
            ConfigError: an id is outside its table; names feature, position and value.
        """
        first_F: Tensor = getattr(self, f"_{side}_first_F")
        count_F: Tensor = getattr(self, f"_{side}_count_F")
        values_L, num_features = features.values_L, first_F.shape[0]
        if num_features == 0 or features.num_ids == 0:
            return values_L
        low, high = torch.aminmax(values_L)
        if int(low) < 0:
            self._refuse(features, side)
        # One reduction settles most batches: only ids above the smallest table need a closer look.
        suspicious = int(high) >= int(count_F.min())
        bag_size = features.uniform_bag_size
        if bag_size is not None:
            # Equal bags, the presets' and Criteo's case: a broadcast instead of an index.
            values = values_L.view(features.num_rows, num_features, bag_size)
            if suspicious and bool((values.amax((0, 2)) >= count_F).any()):
                self._refuse(features, side)
            return (values + first_F.unsqueeze(1)).flatten()
        index_F = torch.arange(num_features, device=values_L.device)
        feature_L = torch.repeat_interleave(
            index_F.repeat(features.num_rows), features.offsets.diff()
        )
        if suspicious and bool((values_L >= count_F[feature_L]).any()):
            self._refuse(features, side)
        return values_L + first_F[feature_L]

    def _refuse(self, features: SideFeatures, side: Side) -> NoReturn:
        """Raise the error that names the first id outside its table; there is one."""
        count_F: Tensor = getattr(self, f"_{side}_count_F")
        limit_L = torch.repeat_interleave(
            count_F.repeat(features.num_rows), features.offsets.diff()
        )
        outside_L = (features.values_L < 0) | (features.values_L >= limit_L)
        raise features.id_error(self.spec, side, int(outside_L.nonzero()[0]))

    def reset(self, generator: torch.Generator) -> None:
        """Draw every table's weights anew, in place: U(-1/sqrt(rows), 1/sqrt(rows)).

        They may be stored in any format.
        """
        row_format = format_of(self.weight_VD, self.embedding_dim)
        for table in self.spec.tables:
            first, bound = self.first_row[table.name], 1.0 / math.sqrt(table.num_embeddings)
            rows_VK = self.weight_VD[first : first + table.num_embeddings]
            if rows_VK.is_floating_point():
                rows_VK.uniform_(-bound, bound, generator=generator)
                continue
            for block_VK in torch.split(rows_VK, _QUANTISED_BLOCK_ROWS):
                drawn_VD = torch.empty(len(block_VK), self.embedding_dim)
                drawn_VD.uniform_(-bound, bound, generator=generator)
                write_rows(drawn_VD, row_format, block_VK)

    def reset_factors(self, generator: torch.Generator, num_linear: int = 1) -> None:
        """Draw anew, in place, for a model that keeps biases or linear weights in first columns.

        Those columns, `num_linear` of them, start at zero, the factors in the others at
        N(0, `FACTOR_STD`).
        """
        self.weight_VD[:, :num_linear] = 0.0
        self.weight_VD[:, num_linear:].normal_(0.0, FACTOR_STD, generator=generator)

    def merged(self, batch: FeatureBatch) -> FeatureBatch:
        """The batch with its ids as rows of the merged weight; raises as `merged_ids`."""
        user, item = (
            replace(features, values_L=self.merged_ids(features, side))
            for features, side in zip((batch.user, batch.item), SIDES, strict=True)
        )
        return replace(batch, user=user, item=item)

    def pool(self, batch: FeatureBatch, lookup: Lookup) -> Pooled:
        """All that a model reads of a batch, each of `lookups` done by `lookup`.

        Every lookup is a pooled one: of a sequence that is to stay unpooled, each id is a bag.
        Lookups of nothing are left out.
        """
        if not self._unpooled:
            return Pooled(self._side(0, batch.user, lookup), self._side(1, batch.item, lookup))
        sequences = [batch.user.select([column]) for column in self._unpooled]
        return Pooled(
            self._side(0, batch.user.select(self._pooled), lookup),
            self._side(1, batch.item, lookup),
            tuple(
                SequenceRows(lookup(number, sequence.one_bag_per_id()), sequence.offsets)
                for number, sequence in enumerate(sequences, start=2)
            ),
        )

    def _side(self, number: int, features: SideFeatures, lookup: Lookup) -> Tensor:
        """What is pooled of one side, (R, F, D)."""
        num_features = len(self.lookups[number])
        if num_features == 0:
            return features.dense_RN.new_zeros(features.num_rows, 0, self.embedding_dim)
        pooled = lookup(number, features)
        return pooled.view(features.num_rows, num_features, self.embedding_dim)

    def look_up(self, number: int, bags: SideFeatures) -> Tensor:
        """Pooled rows (G, D) of bags whose ids are rows of the merged weight."""
        return pooled_lookup(self.weight_VD, bags.values_L, bags.offsets, bags.weights_L)

    def forward(self, batch: FeatureBatch) -> Pooled:
        """Sum-pooled embeddings of both sides, and rows of what is not pooled."""
        return self.pool(self.merged(batch), self.look_up)
