"""Deep Interest Network: how much each of the user's behaviours counts depends on the candidate.

An attention unit, a small MLP on [behaviour, candidate, difference, product], gives each behaviour
a weight; their weighted sum, not normalised by a softmax, is the user's interest in the candidate,
for a history of any length, and zero for none.

Source: Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018
(arXiv 1706.06978), section 4.3. Deviations: the unit's input has difference and product, as the
authors' released code, instead of an outer product; its first layer is computed in parts, what
depends on the behaviour alone once per user, what depends on the candidate alone once per item, and
only the product's for each pair.

Legend: U user rows, B item rows, L behaviours, P pairs of a candidate and a behaviour of its user,
K width of a behaviour, M width of the unit's first layer, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.activations import Activation, activation, check_activation
from tailrank.models.behaviours import Behaviours, behaviours, matches, top_inputs, top_widths
from tailrank.models.checks import check_widths
from tailrank.models.layers import SidedMlp, linear, mlp
from tailrank.models.ranking_model import RankingModel


@dataclass(frozen=True, slots=True, kw_only=True)
class DINConfig:
    """Sizes of a DIN.

    Args:
        spec: has sequences of the user's side that share their tables with item features, see
            `models/behaviours.py`.
        attention_mlp: output widths of the attention unit, at least two; the last is 1.
        top_mlp: output widths of the top MLP; the last is 1.
        activation: between the layers of both.
    """

    spec: FeatureSpec
    attention_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    activation: Activation = "dice"

    def __post_init__(self) -> None:
        matches(self.spec)
        check_widths("attention_mlp", self.attention_mlp, last=1)
        check_widths("top_mlp", self.top_mlp, last=1)
        if len(self.attention_mlp) < 2:
            raise ConfigError("attention_mlp", self.attention_mlp, "one hidden layer or more")
        check_activation(self.activation)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        *,
        attention_mlp: tuple[int, ...] = (80, 40),
        top_mlp: tuple[int, ...] = (200, 80),
        activation: Activation = "dice",
    ) -> DINConfig:
        """Sizes for these features from *hidden* widths; the last layers follow by themselves."""
        return cls(
            spec=spec,
            attention_mlp=(*attention_mlp, 1),
            top_mlp=(*top_mlp, 1),
            activation=activation,
        )


class AttentionUnit(nn.Module):
    """Users' interests: behaviours weighed by a small MLP on each and the candidate, and summed.

    Args:
        width: K.
        widths: output width of each layer, at least two; the last is 1.
        between: the activation between layers.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.
    """

    def __init__(
        self,
        width: int,
        widths: tuple[int, ...],
        between: Activation,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.first = linear(4 * width, widths[0], generator)
        rest = mlp(widths, generator, last_linear=True, between=between)
        self.rest = nn.Sequential(activation(between, widths[0]), *rest)

    def forward(self, read: Behaviours, item_to_user_B: Tensor) -> Tensor:
        """The weighted sum of its user's behaviours for each candidate, (B, K)."""
        length_B = read.length_U.index_select(0, item_to_user_B)
        end_B = length_B.cumsum(0)
        first_B = read.first_U.index_select(0, item_to_user_B) - (end_B - length_B)
        item_P = torch.repeat_interleave(length_B)
        behaviour_P = torch.arange(item_P.shape[0], device=item_P.device)
        behaviour_P = behaviour_P + first_B.index_select(0, item_P)
        return F.embedding_bag(
            behaviour_P,
            read.rows_LK,
            F.pad(end_B, (1, 0)),
            mode="sum",
            per_sample_weights=self._weights(read, behaviour_P, item_P),
            include_last_offset=True,
        )

    def _weights(self, read: Behaviours, behaviour_P: Tensor, item_P: Tensor) -> Tensor:
        """How much each behaviour counts for each candidate of its user, (P,)."""
        rows_LK, candidate_BK = read.rows_LK, read.candidate_BK
        of_row_MK, of_candidate_MK, of_difference_MK, of_product_MK = torch.chunk(
            self.first.weight, 4, dim=1
        )
        row_LM = F.linear(rows_LK, of_row_MK + of_difference_MK, self.first.bias)
        candidate_BM = F.linear(candidate_BK, of_candidate_MK - of_difference_MK)
        product_PK = rows_LK.index_select(0, behaviour_P) * candidate_BK.index_select(0, item_P)
        hidden_PM = F.linear(product_PK, of_product_MK)
        hidden_PM = hidden_PM + row_LM.index_select(0, behaviour_P)
        hidden_PM = hidden_PM + candidate_BM.index_select(0, item_P)
        weight_P1: Tensor = self.rest(hidden_PM)
        return weight_P1.squeeze(1)


class DIN(RankingModel):
    """The network.

    Args:
        config: sizes.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.
    """

    def __init__(self, config: DINConfig, generator: torch.Generator | None) -> None:
        columns = matches(config.spec)
        super().__init__(config, generator, unpooled=list(columns))
        self._columns = list(columns.values())
        width, between = len(columns) * self.tables.embedding_dim, config.activation
        self.attention = AttentionUnit(width, config.attention_mlp, between, generator)
        self.top = SidedMlp(
            top_widths(config.spec, len(columns), width),
            config.top_mlp,
            generator,
            last_linear=True,
            between=between,
        )

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from embeddings, the part that autograd sees."""
        read = behaviours(self.tables.spec, pooled, self._columns)
        interest_BK = self.attention(read, batch.item_to_user_B)
        inputs = top_inputs(batch, pooled, interest_BK)
        logits_BT: Tensor = self.top(*inputs, batch.item_to_user_B)
        return logits_BT
