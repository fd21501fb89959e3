"""How far the scores of an exported file are from those of the model that it was made from.

Knows no file format. Legend: B items, U users, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tailrank.characterization.payloads import random_side
from tailrank.features import FeatureBatch, FeatureSpec, SideFeatures
from tailrank.inference.export_form import Scorer
from tailrank.models import RankingModel

# Users and items of the batches: one, several items of one, as many, any.
_SIZES = ((1, 1), (1, 256), (64, 64), (7, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What random batches say of a file.

    Args:
        num_items: items that were scored.
        difference_max: largest difference of two probabilities; inf where one is not a number.
    """

    num_items: int
    difference_max: float


def file_parity(model: RankingModel, scorer: Scorer, seed: int) -> Parity:
    """Score random batches with the model and with its file.

    Args:
        model: in fp32.
        scorer: its file.
        seed: of the batches: users with one item and with many, bags of the sizes that the
            features have, and no ids at all.
    """
    generator = torch.Generator().manual_seed(seed)
    num_items, difference_max = 0, 0.0
    for batch in _batches(model.config.spec, generator):
        with torch.inference_mode():
            expected_BT = torch.sigmoid(model(batch))
        difference = _largest(scorer(batch), expected_BT)
        num_items, difference_max = num_items + batch.num_items, max(difference_max, difference)
    return Parity(num_items=num_items, difference_max=difference_max)


def _largest(actual_BT: Tensor, expected_BT: Tensor) -> float:
    """Largest difference of two numbers; inf where one is none or the shapes differ."""
    if actual_BT.shape != expected_BT.shape:
        return math.inf
    difference = float((actual_BT - expected_BT).abs().max())
    return math.inf if math.isnan(difference) else difference


def _batches(spec: FeatureSpec, generator: torch.Generator) -> Iterator[FeatureBatch]:
    """Batches of every awkward shape."""
    for num_users, num_items in _SIZES:
        more = torch.randint(0, num_users, (num_items - num_users,), generator=generator)
        batch = FeatureBatch(
            user=random_side(spec, "user", num_users, generator),
            item=random_side(spec, "item", num_items, generator),
            item_to_user_B=torch.cat([torch.arange(num_users), more]).sort().values,
        )
        yield batch
    yield replace(batch, user=_without_ids(batch.user))
    yield replace(batch, user=_without_ids(batch.user), item=_without_ids(batch.item))


def _without_ids(side: SideFeatures) -> SideFeatures:
    """The same rows, all bags empty."""
    return replace(
        side, values_L=side.values_L[:0], offsets=torch.zeros_like(side.offsets), weights_L=None
    )
