"""Queries as the engine holds them, and how a batch of them is ranked.

Knows no queue and no protocol.

Legend: B items, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tailrank.core.errors import Overloaded, RequestError, ServingError
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.features import FeatureBatch
from tailrank.runtime.record import QueryOutcome, QueryRecord
from tailrank.serving.admission import OpenWork
from tailrank.serving.candidates import FoundItems
from tailrank.serving.model import ServedModel

if TYPE_CHECKING:
    from tailrank.serving.lineup import Lineup
    from tailrank.serving.stages import Cascade


class Timing(NamedTuple):
    """Where a query's time went, in ns: waiting for a worker, being ranked, both."""

    queue_ns: int
    compute_ns: int
    total_ns: int


class StageTiming(NamedTuple):
    """One of several models that ranked a query: how many items, and where the time went."""

    model: ServedModel
    num_items: int
    timing: Timing


class Ranked(NamedTuple):
    """An answered query.

    Args:
        scores: (B,), or (B, T) of several tasks, in the order of its items.
        model: that scored it.
        timing: where its time went.
        places: of these items among all that came, rising; None: they are all.
        stages: the models that it went through, if there were several.
        expected_ns: when it was to be done, by the engine's clock, as predicted at the door.
    """

    scores: Tensor
    model: ServedModel
    timing: Timing
    places: Sequence[int] | None = None
    stages: tuple[StageTiming, ...] = ()
    expected_ns: int = 0


class Asked(NamedTuple):
    """The payload of a query.

    Args:
        model: that ranks it.
        features: of its user and items, or where they are.
        future: takes the answer.
        work: what it still costs.
        lineup: the models that served when it came, of which `model` is one.
        expected_ns: when it will be done, by the engine's clock, as predicted at the door.
        cascade: where it is on its way through several models; None: there is one.
    """

    model: ServedModel
    features: FeatureBatch | FoundItems
    future: Future[Ranked]
    work: OpenWork
    lineup: Lineup
    expected_ns: int
    cascade: Cascade | None = None


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
    if isinstance(features, FeatureBatch) and part.num_items == part.query.num_items:
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


def settle(future: Future[Ranked], outcome: Ranked | Exception) -> None:
    """Answer the one who asked."""
    # A client that has gone away cancels; the future then takes nothing.
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Ranked):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def outcome_of(record: QueryRecord, model: ServedModel) -> Ranked | Exception:
    """What is told to the one who asked, of a query that has ended."""
    if record.outcome is QueryOutcome.REJECTED:
        return Overloaded(str(record.reason), "the policy gave it up: it would be late")
    if record.outcome is not QueryOutcome.ANSWERED:
        return record.error or ServingError("the server went down before it was ranked")
    scores = []
    for result in record.results:
        if isinstance(result, Exception):
            return result
        assert isinstance(result, Tensor)
        scores.append(result)
    scheduled_ns = record.query.scheduled_ns
    timing = Timing(
        queue_ns=record.started_ns - scheduled_ns,
        compute_ns=record.done_ns - record.started_ns,
        total_ns=record.done_ns - scheduled_ns,
    )
    whole = scores[0] if len(scores) == 1 else torch.cat(scores)
    # A sum is quicker than a look at each, and is a number only if all are.
    if not math.isfinite(whole.sum().item()) and not bool((fine := torch.isfinite(whole)).all()):
        place = int(fine.reshape(len(whole), -1).all(1).int().argmin())
        reason = "the features lead the model beyond what it can compute with"
        return RequestError("items", f"no number for candidate {place}: {reason}")
    return Ranked(whole, model, timing)
