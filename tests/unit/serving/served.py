"""A served model whose scores are plain to state, and that can be made to wait or fail."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tailrank.core.sla import SLA
from tailrank.data.row_encoder import CategoryColumn, RowEncoder, row_ids
from tailrank.features import Feature, FeatureBatch, FeatureSpec, Side, TableSpec
from tailrank.runtime.live import LiveConfig
from tailrank.scheduling.policies import PolicyConfig
from tailrank.serving.engine import Engine
from tailrank.serving.engine_config import EngineConfig
from tailrank.serving.executors import Executor
from tailrank.serving.model import ServedModel

SPEC = FeatureSpec(
    features=(
        Feature(name="age", side="user", kind="dense"),
        Feature(name="seen", side="user", kind="sequence", table="movie", pooling_factor=2.0),
        Feature(name="movie", side="item", kind="bag", table="movie"),
        Feature(name="tags", side="item", kind="bag", table="tag", pooling_factor=1.5),
        Feature(name="sizes", side="item", kind="dense", width=2),
    ),
    tables=(
        TableSpec(name="movie", num_embeddings=1000, embedding_dim=4),
        TableSpec(name="tag", num_embeddings=50, embedding_dim=4),
    ),
)


def row_ids_and_unknown(spec: FeatureSpec, mean_sides: frozenset[Side] = frozenset()) -> RowEncoder:
    """`row_ids`, of a model that has row 0 of each table for what is unknown."""
    columns = row_ids(spec).columns
    sources = {}
    for feature in spec.features:
        source = columns[feature.side][feature.name]
        is_category = isinstance(source, CategoryColumn)
        sources[feature.name] = replace(source, unknown_row=0) if is_category else source
    return RowEncoder(spec, sources, mean_sides=mean_sides)


class PlainRanker:
    """Scores an item by all its numbers and those of its user."""

    device = "cpu"

    def __init__(self, num_tasks: int = 1) -> None:
        self.num_tasks = num_tasks
        self.go = threading.Event()
        self.go.set()
        self.fails: Any = lambda batch: None
        self.sizes: list[int] = []

    def rank(self, batch: FeatureBatch) -> Tensor:
        assert self.go.wait(30)
        self.fails(batch)
        self.sizes.append(batch.num_items)
        user_U = batch.user.dense_RN.sum(1) + _sums(batch.user.values_L, batch.user.offsets, 1)
        item_B = batch.item.dense_RN.sum(1) + _sums(batch.item.values_L, batch.item.offsets, 2)
        scores_B = (item_B + user_U[batch.item_to_user_B]).float() / 1e4
        if self.num_tasks == 1:
            return scores_B
        return torch.stack([scores_B, 1.0 - scores_B], dim=1)

    def describe(self) -> dict[str, object]:
        return {"table_bytes": 4096}


def _sums(values_L: Tensor, offsets: Tensor, num_features: int) -> Tensor:
    total = torch.cat([torch.zeros(1), values_L.double().cumsum(0)])
    return (total[offsets[1:]] - total[offsets[:-1]]).view(-1, num_features).sum(1)


def served(ranker: PlainRanker | None = None, name: str = "plain") -> ServedModel:
    ranker = ranker or PlainRanker()
    return ServedModel(
        name=name,
        version="0123456789ab",
        spec=SPEC,
        tasks=("label",) if ranker.num_tasks == 1 else ("first", "second"),
        ranker=ranker,
        encoder=row_ids(SPEC),
        table_bytes=4096,
    )


def engine_of(
    model: ServedModel | None = None,
    *,
    limit: str = "p99=100s",
    num_workers: int = 2,
    executor: Executor | None = "threads",
    fleet: Any = None,
    filters: Any = (),
    **policy: Any,
) -> Engine:
    settings = {"policy": "static", "batch_items_max": 16, **policy}
    config = EngineConfig(
        policy=PolicyConfig(**settings),
        num_workers=num_workers,
        sla=SLA.parse(limit),
        live=LiveConfig(pin=False),
        executor=executor,
    )
    return Engine(model or served(), config, fleet, filters)
