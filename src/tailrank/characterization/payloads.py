"""Features for generated queries: a pool of rows, random or real, that queries are cut from.

Random ids are uniform over each table's rows, so that almost every row read is cold, as it is for a
large table in production; a query that repeats the last one's ids would measure the cache. Ids of
another locality are drawn in the order of the pool's rows, of which a query takes a run. Real rows
come from a data set, with the popularity and the bag sizes that it has. This module knows no
clock and no scheduler.

Legend: R rows of one side, F sparse features of that side, N dense width, B items, U users.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError, RequestError
from tailrank.core.query import Batch, BatchPart
from tailrank.data.dataset import Dataset
from tailrank.features import FeatureBatch, FeatureSpec, Side, SideFeatures
from tailrank.inference import Ranker
from tailrank.workload.index_traces import IndexTrace, parse_index_trace

UNIFORM_IDS = parse_index_trace("uniform")

# One pool is far larger than any last-level cache and far smaller than the tables.
_POOL_BYTES = 192 << 20
_POOL_ROWS = (2048, 65536)
_READ_ITEMS = 4096


class QueryPool:
    """Rows to make queries of.

    Args:
        user: user rows; a query takes one.
        item: item rows; a query takes a run of them.
        first_item_U: where each user's items begin, rising; queries begin there and take that user.
            None: users and items have nothing to do with each other.
    """

    def __init__(
        self, user: SideFeatures, item: SideFeatures, first_item_U: Sequence[int] | None = None
    ) -> None:
        self._user, self._item, self._first_item_U = user, item, first_item_U
        self._item_to_user = torch.zeros(item.num_rows, dtype=torch.int64)

    @classmethod
    def random(cls, spec: FeatureSpec, seed: int, ids: IndexTrace = UNIFORM_IDS) -> QueryPool:
        """A pool of random ids and normal dense features for any specification.

        Raises:
            ConfigError: a table has too few rows for such ids.
        """
        generator = torch.Generator().manual_seed(seed)
        return cls(
            random_side(spec, "user", _pool_rows(spec, "user"), generator, ids),
            random_side(spec, "item", _pool_rows(spec, "item"), generator, ids),
        )

    @classmethod
    def from_dataset(cls, dataset: Dataset, seed: int) -> QueryPool:
        """A pool of validation and test rows, as many as fit into its bytes, in a random order.

        A query has the user of its first item; beyond that user's own candidates it goes on with
        those of the next, so that it can have any size.

        Raises:
            RequestError: there are no such rows.
        """
        if not dataset.num_rows(("validation", "test")):
            raise RequestError("--data", "too few rows to make queries of; name a longer log")
        batches, num_bytes = [], 0
        for batch, _ in dataset.batches(("validation", "test"), _READ_ITEMS, shuffle_seed=seed):
            batches.append(batch)
            num_bytes += _num_bytes(batch.user) + _num_bytes(batch.item)
            if num_bytes >= _POOL_BYTES:
                break
        rows = FeatureBatch.concat(batches)
        if not any(feature.side == "user" for feature in dataset.spec.features):
            return cls(rows.user, rows.item)
        first_U = torch.searchsorted(rows.item_to_user_B, torch.arange(rows.num_users))
        return cls(rows.user, rows.item, first_U.tolist())

    @property
    def num_items_max(self) -> int:
        """The largest query that the pool can supply."""
        return self._item.num_rows

    def payload(self, choice: int, num_items: int) -> tuple[int, int]:
        """The payload of a query: its user row and first item row.

        Args:
            choice: any number from 0; a random one gives random rows.
            num_items: the query's size.

        Raises:
            ConfigError: the pool has fewer items than the query.
        """
        if num_items > self.num_items_max:
            raise ConfigError("num_items", num_items, f"up to {self.num_items_max}")
        last_first = self._item.num_rows - num_items
        if self._first_item_U is None:
            return choice % self._user.num_rows, choice % (last_first + 1)
        user = choice % bisect_right(self._first_item_U, last_first)
        return user, self._first_item_U[user]

    def features(self, part: BatchPart) -> FeatureBatch:
        """The features of one part of a query whose payload came from `payload`."""
        payload = part.query.payload
        assert isinstance(payload, tuple)
        user_row, first_item = payload
        return FeatureBatch(
            user=self._user.rows(user_row, 1),
            item=self._item.rows(first_item + part.first_item, part.num_items),
            item_to_user_B=self._item_to_user[: part.num_items],
        )


def ids_per_item(spec: FeatureSpec) -> float:
    """Ids of a query per item, as `Query.num_ids` counts them: item side only.

    The user's ids come once per part, whatever its size; the grid over parts and items prices them.
    """
    return spec.ids_per_row("item")


def batch_runner(ranker: Ranker, pool: QueryPool) -> Callable[[Batch], Sequence[object]]:
    """What a worker does with a batch: cut features, join parts, score, split the scores."""

    def run(batch: Batch) -> Sequence[Tensor]:
        features = FeatureBatch.concat([pool.features(part) for part in batch.parts])
        scores_B = ranker.rank(features)
        if len(batch.parts) == 1:
            return (scores_B,)
        return torch.split(scores_B, [part.num_items for part in batch.parts])

    return run


def _num_bytes(side: SideFeatures) -> int:
    """Bytes of the rows of one side."""
    tensors = (side.dense_RN, side.values_L, side.offsets, side.weights_L)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _pool_rows(spec: FeatureSpec, side: Side) -> int:
    """Rows of one side of a pool."""
    row_bytes = 8 * (spec.ids_per_row(side) + len(spec.sparse(side))) + 4 * spec.dense_width(side)
    least, most = _POOL_ROWS
    return int(min(max(_POOL_BYTES / max(row_bytes, 1), least), most))


def random_side(
    spec: FeatureSpec,
    side: Side,
    rows: int,
    generator: torch.Generator,
    ids: IndexTrace = UNIFORM_IDS,
) -> SideFeatures:
    """Random rows of one side; bags hold the feature's pooling factor of ids on average.

    Sequences of one pooling factor are of one length in each row: they tell of the same events.
    """
    sparse = spec.sparse(side)
    lengths_RF = torch.empty(rows, len(sparse), dtype=torch.int64)
    of_events_R: Tensor | None = None
    for index, feature in enumerate(sparse):
        whole = math.floor(feature.pooling_factor)
        draw_R = torch.rand(rows, generator=generator)
        if feature.kind == "sequence":
            of_events_R = draw_R = draw_R if of_events_R is None else of_events_R
        extra_R = draw_R < feature.pooling_factor - whole
        lengths_RF[:, index] = whole + extra_R.long()
    offsets = torch.zeros(rows * len(sparse) + 1, dtype=torch.int64)
    torch.cumsum(lengths_RF.flatten(), 0, out=offsets[1:])
    if ids.spec == UNIFORM_IDS.spec:
        values_L = _uniform_ids(spec, side, lengths_RF, generator)
    else:
        values_L = _drawn_ids(spec, side, lengths_RF, generator, ids)
    return SideFeatures(
        dense_RN=torch.randn(rows, spec.dense_width(side), generator=generator),
        values_L=values_L,
        offsets=offsets,
    )


def _uniform_ids(
    spec: FeatureSpec, side: Side, lengths_RF: Tensor, generator: torch.Generator
) -> Tensor:
    """Uniform ids for bags of these lengths, of all features at once."""
    limits_F = torch.tensor([spec.table(f.table).num_embeddings for f in spec.sparse(side)])
    limit_L = torch.repeat_interleave(limits_F.repeat(len(lengths_RF)).long(), lengths_RF.flatten())
    uniform_L = torch.rand(limit_L.shape[0], generator=generator, dtype=torch.float64)
    return (uniform_L * limit_L).long()


def _drawn_ids(
    spec: FeatureSpec,
    side: Side,
    lengths_RF: Tensor,
    generator: torch.Generator,
    ids: IndexTrace,
) -> Tensor:
    """Ids of a trace for bags of these lengths, feature by feature in the order of the rows.

    Features that share a table share its popular rows.
    """
    features = spec.sparse(side)
    tables = [table.name for table in spec.tables]
    columns_F = torch.arange(len(features)).repeat(len(lengths_RF))
    feature_L = torch.repeat_interleave(columns_F, lengths_RF.flatten())
    values_L = torch.empty(len(feature_L), dtype=torch.int64)
    for index, feature in enumerate(features):
        own_L = feature_L == index
        table = spec.table(feature.table)
        seed = int(torch.randint(1 << 31, (), generator=generator))
        drawn = ids.draw(
            int(own_L.sum()), table.num_embeddings, seed, table_seed=tables.index(table.name)
        )
        values_L[own_L] = torch.from_numpy(drawn)
    return values_L
