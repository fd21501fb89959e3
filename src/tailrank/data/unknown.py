"""How much of what a model is asked about it has never seen: ids that no training row had.

Knows no file format. Legend: R rows, F sparse features of one side, L ids.
"""

from __future__ import annotations

import torch

from tailrank.data.vocabulary import MISSING_ID, UNKNOWN_ID
from tailrank.features import SIDES, FeatureBatch, FeatureSpec

_WORTH_SAYING = 0.5  # rare categories are unknown in every log; these are most of them


class UnknownIds:
    """Counts the unknown ids of every feature, batch by batch.

    Args:
        spec: of data whose tables keep row `UNKNOWN_ID` for categories that they do not know.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._names = {side: [f.name for f in spec.sparse(side)] for side in SIDES}
        self._unknown, self._given = (
            {
                side: torch.zeros(len(names), dtype=torch.int64)
                for side, names in self._names.items()
            }
            for _ in range(2)
        )

    def count(self, batch: FeatureBatch) -> None:
        """Add the rows of a batch."""
        for side, features in zip(SIDES, (batch.user, batch.item), strict=True):
            num_features, values_L = len(self._names[side]), features.values_L
            feature_F = torch.arange(num_features).repeat(features.num_rows)
            feature_L = torch.repeat_interleave(feature_F, features.offsets.diff())
            for counts, counted_L in (
                (self._unknown, values_L == UNKNOWN_ID),
                (self._given, values_L != MISSING_ID),
            ):
                counts[side] += torch.bincount(feature_L[counted_L], minlength=num_features)

    def shares(self) -> dict[str, float]:
        """Unknown ids of each feature as a part of those given, where any are."""
        return {
            name: float(unknown / given)
            for side in SIDES
            for name, unknown, given in zip(
                self._names[side], self._unknown[side], self._given[side], strict=True
            )
            if given
        }

    def in_words(self) -> list[str]:
        """A line for each feature of which most ids are unknown."""
        return [
            f"{name}: {part:.0%} of its ids are unknown to the model, which scores them all alike"
            for name, part in self.shares().items()
            if part > _WORTH_SAYING
        ]
