"""DeepFM: a factorisation machine and an MLP on the same embeddings, in one sum.

Source: Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, arXiv
1703.04247, section 2. Deviations: a dense feature has a weight in the linear part and enters the
MLP as the number that it is, but has no vector in the machine: with one, validation AUC on Criteo
was lower by 0.0016 (docs/lab-notes.md); no dropout; and those of `factorization_machine`.

Legend: U user rows, B item rows, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.checks import check_factors, check_item_side, check_widths
from tailrank.models.factorization_machine import FactorizationMachine
from tailrank.models.layers import SidedMlp, factors_and_dense, side_widths


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepFMConfig:
    """Sizes of a DeepFM.

    Args:
        spec: features and tables; a bag or more, and an item feature or more. The first column of a
            table is the linear weight, the others are the embedding that both parts share.
        top_mlp: output widths of the deep part; the last is 1.
    """

    spec: FeatureSpec
    top_mlp: tuple[int, ...]

    def __post_init__(self) -> None:
        check_widths("top_mlp", self.top_mlp, last=1)
        check_factors(self.spec)
        check_item_side(self.spec)

    @classmethod
    def for_spec(cls, spec: FeatureSpec, *, top_mlp: tuple[int, ...] = (64,)) -> DeepFMConfig:
        """Sizes for these features from *hidden* widths."""
        return cls(spec=spec, top_mlp=(*top_mlp, 1))


class DeepFM(FactorizationMachine):
    """The model.

    Args:
        config: sizes.
        generator: draws the weights; None: as `FactorizationMachine`.
    """

    def __init__(self, config: DeepFMConfig, generator: torch.Generator | None) -> None:
        super().__init__(config, generator, dense_factors=False)
        widths = side_widths(config.spec, self.tables.embedding_dim - 1)
        self.deep = SidedMlp(widths, config.top_mlp, generator, last_linear=True)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled embeddings, the part that autograd sees."""
        deep_B1: Tensor = self.deep(
            factors_and_dense(pooled.user_UFD, batch.user.dense_RN),
            factors_and_dense(pooled.item_BFD, batch.item.dense_RN),
            batch.item_to_user_B,
        )
        return super().score(batch, pooled) + deep_B1
