"""Factorisation machine: a linear part, and one vector per feature whose products are pairs.

Source: Rendle, Factorization Machines, ICDM 2010, equation 1, computed by lemma 3.1 in time linear
in the number of features. Deviations: a bag counts as one variable whose weight and vector are the
sums of its ids', so ids of one bag form no pairs; what belongs to the user is summed once per user
and expanded late.

Legend: U user rows, B item rows, R rows of one side, F sparse features, N dense width of both
sides, M of one, D dim = 1 + factors, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailrank.embeddings import FACTOR_STD, Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.checks import check_factors
from tailrank.models.layers import expand_users
from tailrank.models.ranking_model import ModelConfig, RankingModel


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorizationMachineConfig:
    """What a factorisation machine reads; its only size is the dim of the tables.

    Args:
        spec: at least one bag. The first column of a table is the linear weight, the others are
            factors: an `embedding_dim` of 17 gives 16 factors.
    """

    spec: FeatureSpec

    def __post_init__(self) -> None:
        check_factors(self.spec)

    @classmethod
    def for_spec(cls, spec: FeatureSpec) -> FactorizationMachineConfig:
        """The model for these features."""
        return cls(spec=spec)


class FactorizationMachine(RankingModel):
    """The model; linear weights start at zero, factors near it.

    Args:
        config: features.
        generator: draws the factors; None leaves the tables unset, for weights about to be loaded.
        dense_factors: whether dense features have vectors too, or linear weights alone.
    """

    def __init__(
        self,
        config: ModelConfig,
        generator: torch.Generator | None,
        *,
        dense_factors: bool = True,
    ) -> None:
        super().__init__(config, None)  # the tables are drawn in another way
        self.num_user_dense = config.spec.dense_width("user")
        num_dense = self.num_user_dense + config.spec.dense_width("item")
        weight_ND = torch.zeros(num_dense, self.tables.embedding_dim if dense_factors else 1)
        if generator is not None:
            self.tables.reset_factors(generator)
            weight_ND[:, 1:].normal_(0.0, FACTOR_STD, generator=generator)
        self.bias = nn.Parameter(torch.zeros(()))
        self.weight_ND = nn.Parameter(weight_ND)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled embeddings, the part that autograd sees."""
        weight_ND = F.pad(self.weight_ND, (0, self.tables.embedding_dim - self.weight_ND.shape[1]))
        user_MD, item_MD = weight_ND.tensor_split([self.num_user_dense])
        user_UD = _sums(pooled.user_UFD, batch.user.dense_RN, user_MD)
        item_BD = _sums(pooled.item_BFD, batch.item.dense_RN, item_MD)
        sums_BD = expand_users(user_UD, batch.item_to_user_B) + item_BD
        logit_B = self.bias + sums_BD[:, 0] + 0.5 * sums_BD[:, 1:].square().sum(1)
        return logit_B.unsqueeze(1)


def _sums(pooled_RFD: Tensor, dense_RM: Tensor, weight_MD: Tensor) -> Tensor:
    """What a side adds to the sums over all features, (R, D).

    Columns of factors hold the sum of the features' vectors. Column 0 holds the linear part less
    half of the vectors' own squares, which the square of the sum will contain too many.
    """
    sums_RD = pooled_RFD.sum(1) + dense_RM @ weight_MD
    squares_R1 = pooled_RFD[:, :, 1:].square().sum((1, 2)).unsqueeze(1)
    # By a column, not a vector: of no dense features, ONNX Runtime makes garbage by a vector.
    squares_R1 = squares_R1 + dense_RM.square() @ weight_MD[:, 1:].square().sum(1, keepdim=True)
    return torch.cat([sums_RD[:, :1] - 0.5 * squares_R1, sums_RD[:, 1:]], dim=1)
