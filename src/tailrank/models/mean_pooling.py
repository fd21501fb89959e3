"""Embedding & MLP: the mean of each of the user's sequences, and an MLP on all features.

What models with attention are compared with: it differs from them only in how it reads sequences.

Source: the base model of Zhou et al., Deep Interest Network, KDD 2018 (arXiv 1706.06978), section
4.2, with average pooling. Sequences without ids count as zeros.

Legend: U user rows, B item rows, F sparse features, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.activations import Activation, check_activation
from tailrank.models.behaviours import top_inputs, top_widths
from tailrank.models.checks import check_bags, check_item_side, check_widths
from tailrank.models.layers import SidedMlp
from tailrank.models.ranking_model import RankingModel


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanPoolingConfig:
    """Sizes of an Embedding & MLP model.

    Args:
        spec: at least one bag or sequence, and an item feature.
        top_mlp: output widths of the MLP; the last is 1.
        activation: between its layers.
    """

    spec: FeatureSpec
    top_mlp: tuple[int, ...]
    activation: Activation = "dice"

    def __post_init__(self) -> None:
        check_bags(self.spec)
        check_item_side(self.spec)
        check_widths("top_mlp", self.top_mlp, last=1)
        check_activation(self.activation)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        *,
        top_mlp: tuple[int, ...] = (200, 80),
        activation: Activation = "dice",
    ) -> MeanPoolingConfig:
        """Sizes for these features from *hidden* widths; the last layer follows by itself."""
        return cls(spec=spec, top_mlp=(*top_mlp, 1), activation=activation)


class MeanPooling(RankingModel):
    """The network.

    Args:
        config: sizes.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.
    """

    def __init__(self, config: MeanPoolingConfig, generator: torch.Generator | None) -> None:
        super().__init__(config, generator)
        is_mean = [feature.kind == "sequence" for feature in config.spec.sparse("user")]
        self.register_buffer("_is_mean_F", torch.tensor(is_mean), persistent=False)
        self.top = SidedMlp(
            top_widths(config.spec, 0, 0),
            config.top_mlp,
            generator,
            last_linear=True,
            between=config.activation,
        )

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled embeddings, the part that autograd sees."""
        is_mean_F: Tensor = self._is_mean_F  # type: ignore[assignment]  # a buffer
        user = batch.user
        if len(is_mean_F):
            length_UF = user.offsets.diff().view(user.num_rows, len(is_mean_F)).clamp(min=1)
            share_UF = torch.where(is_mean_F, 1.0 / length_UF, 1.0)
            pooled = pooled._replace(user_UFD=pooled.user_UFD * share_UF.unsqueeze(2))
        logits_BT: Tensor = self.top(*top_inputs(batch, pooled), batch.item_to_user_B)
        return logits_BT
