"""Logistic regression: one weight per category, one per dense feature, and a bias.

What every other model must beat. Source: McMahan et al., Ad Click Prediction: a View from the
Trenches, KDD 2013, section 2. Deviations: optimiser and regularisation are the trainer's, not
FTRL-Proximal with L1; the user's share is summed once per user and expanded late.

Legend: U user rows, B item rows, R rows of one side, F sparse features, N dense width of both
sides, M of one, D dim (1), T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.checks import check_bags
from tailrank.models.layers import expand_users, linear_part
from tailrank.models.ranking_model import RankingModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRegressionConfig:
    """What a logistic regression reads; it has no sizes of its own.

    Args:
        spec: features and tables; at least one bag, every table of dim 1.
    """

    spec: FeatureSpec

    def __post_init__(self) -> None:
        check_bags(self.spec)
        for table in self.spec.tables:
            if table.embedding_dim != 1:
                raise ConfigError(
                    "embedding_dim", table.embedding_dim, "1: one weight per category"
                )

    @classmethod
    def for_spec(cls, spec: FeatureSpec) -> LogisticRegressionConfig:
        """The model for these features."""
        return cls(spec=spec)


class LogisticRegression(RankingModel):
    """The model; every weight starts at zero.

    Args:
        config: features.
        generator: None leaves the tables unset, for weights about to be loaded.
    """

    def __init__(self, config: LogisticRegressionConfig, generator: torch.Generator | None) -> None:
        super().__init__(config, None)  # the tables are drawn in another way
        self.num_user_dense = config.spec.dense_width("user")
        self.bias = nn.Parameter(torch.zeros(()))
        self.weight_N = nn.Parameter(
            torch.zeros(self.num_user_dense + config.spec.dense_width("item"))
        )
        if generator is not None:
            self.tables.reset_factors(generator)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled weights, the part that autograd sees."""
        user_M, item_M = self.weight_N[: self.num_user_dense], self.weight_N[self.num_user_dense :]
        user_U = linear_part(pooled.user_UFD, batch.user.dense_RN, user_M)
        item_B = linear_part(pooled.item_BFD, batch.item.dense_RN, item_M)
        logit_B = self.bias + expand_users(user_U, batch.item_to_user_B) + item_B
        return logit_B.unsqueeze(1)
