"""Matrix factorisation with biases: one vector per user, one per item, their product.

Source: Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems, IEEE
Computer 42(8), 2009, equation 4. Deviations: the sum is the logit of a click, trained on cross
entropy, where the paper predicts a rating; regularisation is the trainer's; a bag of several ids
has the sum of their biases and vectors.

Legend: U user rows, B item rows, F sparse features of a side (1), D dim = 1 + factors, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import SIDES, FeatureBatch, FeatureSpec
from tailrank.models.layers import expand_users
from tailrank.models.ranking_model import RankingModel


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFactorizationConfig:
    """What a matrix factorisation reads; its only size is the dim of the tables.

    Args:
        spec: one bag on each side and nothing else. The first column of a table is the bias, the
            others are factors: an `embedding_dim` of 17 gives 16 factors.
    """

    spec: FeatureSpec

    def __post_init__(self) -> None:
        bags = [[f.name for f in self.spec.sparse(side)] for side in SIDES]
        dense = [feature.name for feature in self.spec.features if feature.kind == "dense"]
        if [len(names) for names in bags] != [1, 1] or dense:
            named = zip(("user bags", "item bags", "dense"), (*bags, dense), strict=True)
            present = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in named)
            allowed = "one user bag and one item bag only; --features USER,ITEM selects them"
            raise ConfigError("features", present, allowed)
        for table in self.spec.tables:
            if table.embedding_dim < 2:
                allowed = "at least 2: a bias and one factor"
                raise ConfigError("embedding_dim", table.embedding_dim, allowed)

    @classmethod
    def for_spec(cls, spec: FeatureSpec) -> MatrixFactorizationConfig:
        """The model for these features."""
        return cls(spec=spec)


class MatrixFactorization(RankingModel):
    """The model; biases start at zero, factors near it.

    Args:
        config: features.
        generator: draws the factors; None leaves the tables unset, for weights about to be loaded.
    """

    def __init__(
        self, config: MatrixFactorizationConfig, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, None)  # the tables are drawn in another way
        self.bias = nn.Parameter(torch.zeros(()))
        if generator is not None:
            self.tables.reset_factors(generator)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled embeddings, the part that autograd sees."""
        user_BD = expand_users(pooled.user_UFD.squeeze(1), batch.item_to_user_B)
        item_BD = pooled.item_BFD.squeeze(1)
        product_B = (user_BD[:, 1:] * item_BD[:, 1:]).sum(1)
        logit_B = self.bias + user_BD[:, 0] + item_BD[:, 0] + product_B
        return logit_B.unsqueeze(1)
