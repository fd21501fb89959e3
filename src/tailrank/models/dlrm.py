"""DLRM: bottom MLP on dense features, embedding bags, an interaction, top MLP.

Source: Deep Learning Recommendation Model, arXiv 1906.00091, section 2. Deviation: features have a
user or an item side; user embeddings are looked up once per user and repeated late.

Legend: U user rows, B item rows, F sparse features, N dense width, D dim, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.kernels.interaction import dot_interaction
from tailrank.models.checks import check_widths
from tailrank.models.layers import expand_users, mlp
from tailrank.models.ranking_model import RankingModel


@dataclass(frozen=True, slots=True, kw_only=True)
class DLRMConfig:
    """Sizes of a DLRM.

    Args:
        spec: features and tables; all tables share one dim D.
        bottom_mlp: output widths of the bottom MLP; the last equals D under `dot`; empty only if
            there is no dense feature.
        top_mlp: output widths of the top MLP; the last is 1.
        interaction: `dot` (pairwise products, lower triangle) or `cat` (concatenation).
    """

    spec: FeatureSpec
    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    interaction: Literal["dot", "cat"] = "dot"

    def __post_init__(self) -> None:
        if self.interaction not in ("dot", "cat"):
            raise ConfigError("interaction", self.interaction, "dot or cat")
        check_widths("top_mlp", self.top_mlp, last=1)
        if bool(self.bottom_mlp) != bool(self.num_dense):
            raise ConfigError("bottom_mlp", self.bottom_mlp, "widths if any feature is dense")
        if any(width < 1 for width in self.bottom_mlp):
            raise ConfigError("bottom_mlp", self.bottom_mlp, "positive widths")
        if not self.num_sparse:
            names = [feature.name for feature in self.spec.features]
            raise ConfigError("features", names, "one or more of categories: these are all dense")
        dim = self.spec.tables[0].embedding_dim
        if self.interaction == "dot" and self.bottom_mlp and self.bottom_mlp[-1] != dim:
            raise ConfigError("bottom_mlp", self.bottom_mlp, f"a last width of {dim}, the dim")
        if not self.top_input_width:
            allowed = "two features or more, as dot reads pairs; or --interaction cat"
            raise ConfigError("features", [f.name for f in self.spec.features], allowed)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        *,
        bottom_mlp: tuple[int, ...] = (64,),
        top_mlp: tuple[int, ...] = (64,),
        interaction: Literal["dot", "cat"] = "dot",
    ) -> DLRMConfig:
        """Sizes for these features from *hidden* widths; the last layers follow by themselves."""
        has_dense = any(feature.kind == "dense" for feature in spec.features)
        last = spec.tables[0].embedding_dim if spec.tables else 1
        return cls(
            spec=spec,
            bottom_mlp=(*bottom_mlp, last) if has_dense else (),
            top_mlp=(*top_mlp, 1),
            interaction=interaction,
        )

    @property
    def num_dense(self) -> int:
        """N over both sides."""
        return self.spec.dense_width("user") + self.spec.dense_width("item")

    @property
    def num_sparse(self) -> int:
        """F over both sides."""
        return len(self.spec.sparse("user")) + len(self.spec.sparse("item"))

    @property
    def top_input_width(self) -> int:
        """Width of the interaction's output."""
        vectors = self.num_sparse + bool(self.bottom_mlp)
        bottom = self.bottom_mlp[-1] if self.bottom_mlp else 0
        if self.interaction == "dot":
            return bottom + vectors * (vectors - 1) // 2
        return bottom + self.num_sparse * self.spec.tables[0].embedding_dim


class DLRM(RankingModel):
    """The network.

    Args:
        config: sizes.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.
    """

    def __init__(self, config: DLRMConfig, generator: torch.Generator | None) -> None:
        super().__init__(config, generator)
        self.config: DLRMConfig = config
        self.bottom = mlp((config.num_dense, *config.bottom_mlp), generator, last_linear=False)
        self.top = mlp((config.top_input_width, *config.top_mlp), generator, last_linear=True)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled embeddings, the part that autograd sees."""
        vectors_BFD = pooled.item_BFD
        if pooled.user_UFD.shape[1]:
            users_BFD = expand_users(pooled.user_UFD, batch.item_to_user_B)
            vectors_BFD = torch.cat([users_BFD, vectors_BFD], dim=1)
        if not self.config.bottom_mlp:
            return self._top(vectors_BFD, None)
        dense_BN = batch.item.dense_RN
        if batch.user.dense_RN.shape[1]:
            users_BN = expand_users(batch.user.dense_RN, batch.item_to_user_B)
            dense_BN = torch.cat([users_BN, dense_BN], dim=1)
        return self._top(vectors_BFD, self.bottom(dense_BN))

    def _top(self, vectors_BFD: Tensor, bottom_BD: Tensor | None) -> Tensor:
        """Interaction and top MLP; the bottom output, where there is one, is vector 0."""
        parts = [] if bottom_BD is None else [bottom_BD]
        if self.config.interaction == "cat":
            parts.append(vectors_BFD.flatten(1))
        else:
            if bottom_BD is not None:
                vectors_BFD = torch.cat([bottom_BD.unsqueeze(1), vectors_BFD], dim=1)
            parts.append(dot_interaction(vectors_BFD))
        logits_BT: Tensor = self.top(torch.cat(parts, dim=1))
        return logits_BT
