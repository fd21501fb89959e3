"""Queries as the engine holds them, and how a batch of them is ranked.

Knows no queue and no protocol.

Legend: B items, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import torch
from torch import Tensor

from tailrank.core.query import Batch, BatchPart, Query
from tailrank.features import FeatureBatch
from tailrank.serving.admission import OpenWork
from tailrank.serving.model import ServedModel


class Timing(NamedTuple):
    """Where a query's time went, in ns: waiting for a worker, being ranked, both."""

    queue_ns: int
    compute_ns: int
    total_ns: int


class Ranked(NamedTuple):
    """An answered query.

    Args:
        scores: (B,), or (B, T) of several tasks, in the order of its items.
        model: that scored it.
        timing: where its time went.
    """

    scores: Tensor
    model: ServedModel
    timing: Timing


class Asked(NamedTuple):
    """The payload of a query.

    Args:
        model: that ranks it.
        features: of its user and items.
        future: takes the answer.
        work: what it still costs.
    """

    model: ServedModel
    features: FeatureBatch
    future: Future[Ranked]
    work: OpenWork


def asked_of(query: Query) -> Asked:
    """The payload of a query."""
    assert isinstance(query.payload, Asked)
    return query.payload


def rank_batch(batch: Batch) -> Sequence[object]:
    """Scores of each part, or what the ranker raised: one bad query does not fail its company."""
    try:
        return _rank(batch.parts)
    except Exception as error:
        if len(batch.parts) == 1:
            return (error,)
        return [_rank_alone(part) for part in batch.parts]


def _features(part: BatchPart) -> FeatureBatch:
    """The features of a part."""
    features = asked_of(part.query).features
    if part.num_items == part.query.num_items:
        return features
    return features.items(part.first_item, part.num_items)


def _rank(parts: Sequence[BatchPart]) -> Sequence[object]:
    """Scores of parts that are ranked at once."""
    first = asked_of(parts[0].query).model
    if any(asked_of(part.query).model is not first for part in parts):
        return [_rank_alone(part) for part in parts]
    scores = first.ranker.rank(FeatureBatch.concat([_features(part) for part in parts]))
    if len(parts) == 1:
        return (scores,)
    return torch.split(scores, [part.num_items for part in parts])


def _rank_alone(part: BatchPart) -> object:
    """Scores of one part, or what the ranker raised."""
    try:
        (scores,) = _rank((part,))
    except Exception as error:
        return error
    return scores
