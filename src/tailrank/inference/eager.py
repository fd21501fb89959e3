"""The reference ranker: the training model itself, in fp32, op by op."""

from __future__ import annotations

import torch
from torch import Tensor

from tailrank.features import FeatureBatch
from tailrank.models import RankingModel


class EagerRanker:
    """Scores with the model as it was trained.

    Rows and weights keep the values that the artifact's precision gave them; all arithmetic is
    fp32.

    Args:
        model: fp32 weights.
    """

    device = "eager"

    def __init__(self, model: RankingModel) -> None:
        self.model = model.eval()

    def rank(self, batch: FeatureBatch) -> Tensor:
        """Probabilities (B,), or (B, T) of several tasks; ConfigError: an id outside its table."""
        with torch.inference_mode():
            return torch.sigmoid(self.model(batch)).squeeze(1)

    def describe(self) -> dict[str, object]:
        """What was chosen, for the result file."""
        return {"device": self.device, "dense_backend": "torch", "embedding_backend": "torch"}
