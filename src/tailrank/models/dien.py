"""Deep Interest Evolution Network: interests as states of a recurrence, drawn on by the candidate.

A GRU over a user's behaviours makes each an interest state; an auxiliary loss asks each state to
tell the next behaviour from another one. Attention says how much each state has to do with the
candidate, and scales the updates of a second recurrence over the states, whose last state goes into
the MLP on top.

Source: Zhou et al., Deep Interest Evolution Network for Click-Through Rate Prediction, AAAI 2019
(arXiv 1809.03672), interest extractor and interest evolving layers. Deviations: the auxiliary
loss is a mean over places, as in the authors' released code, not a sum over each user's; its
negatives, drawn there from all behaviours of the log, are behaviours of the batch. The first
recurrence, and what the second reads of its states, is computed once per user.

Legend: U user rows, B item rows, L behaviours, P pairs of a candidate and a behaviour of its user,
in the order of time, K width of a behaviour, H hidden width, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.activations import Activation, check_activation
from tailrank.models.behaviours import Behaviours, behaviours, matches, top_inputs, top_widths
from tailrank.models.checks import check_widths
from tailrank.models.layers import SidedMlp, linear
from tailrank.models.ranking_model import RankingModel
from tailrank.models.recurrent import GRU, TimeOrder, inverse, time_order


@dataclass(frozen=True, slots=True, kw_only=True)
class DIENConfig:
    """Sizes of a DIEN.

    Args:
        spec: has sequences of the user's side that share their tables with item features, see
            `models/behaviours.py`.
        hidden: width H of both recurrences; with an auxiliary loss, that of a behaviour, as states
            and behaviours are multiplied there.
        top_mlp: output widths of the top MLP; the last is 1.
        activation: between its layers.
        auxiliary: factor of the auxiliary loss; 0: none.
    """

    spec: FeatureSpec
    hidden: int
    top_mlp: tuple[int, ...]
    activation: Activation = "dice"
    auxiliary: float = 1.0

    def __post_init__(self) -> None:
        check_widths("top_mlp", self.top_mlp, last=1)
        check_activation(self.activation)
        if not 0.0 <= self.auxiliary < 1e3:
            raise ConfigError("auxiliary", self.auxiliary, "0 or above, and below 1000")
        if self.hidden < 1:
            raise ConfigError("hidden", self.hidden, "at least 1")
        width = behaviour_width(self.spec)
        if self.auxiliary and self.hidden != width:
            allowed = f"{width}, the width of a behaviour; any with an auxiliary of 0"
            raise ConfigError("hidden", self.hidden, allowed)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        *,
        hidden: int | None = None,
        top_mlp: tuple[int, ...] = (200, 80),
        activation: Activation = "dice",
        auxiliary: float = 1.0,
    ) -> DIENConfig:
        """Sizes for these features from *hidden* widths; None: the width of a behaviour."""
        return cls(
            spec=spec,
            hidden=behaviour_width(spec) if hidden is None else hidden,
            top_mlp=(*top_mlp, 1),
            activation=activation,
            auxiliary=auxiliary,
        )


def behaviour_width(spec: FeatureSpec) -> int:
    """K."""
    return len(matches(spec)) * spec.tables[0].embedding_dim


class StateAttention(nn.Module):
    """How much each state has to do with a candidate: a softmax over h W e.

    Args:
        width: K.
        hidden: H.
        generator: draws W; None: zeros, for weights about to be loaded.
    """

    def __init__(self, width: int, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = linear(width, hidden, generator, bias=False).weight

    def forward(self, read: Behaviours, states_LH: Tensor, order: TimeOrder) -> Tensor:
        """The share of each place of each candidate, (P,)."""
        wanted_BH = F.linear(read.candidate_BK, self.weight)
        state_PH = states_LH.index_select(0, order.place_P)
        score_P = (state_PH * wanted_BH.index_select(0, order.row_P)).sum(1)
        num_items = wanted_BH.shape[0]
        largest_B = score_P.detach().new_full((num_items,), -torch.inf)
        largest_B = largest_B.scatter_reduce(0, order.row_P, score_P.detach(), "amax")
        share_P = torch.exp(score_P - largest_B.index_select(0, order.row_P))
        # Not `index_add`: ONNX Runtime's threads would race for its sums.
        total_B = score_P.new_zeros(num_items).scatter_add(0, order.row_P, share_P)
        return share_P / total_B.index_select(0, order.row_P)


class DIEN(RankingModel):
    """The network.

    Args:
        config: sizes.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.
    """

    def __init__(self, config: DIENConfig, generator: torch.Generator | None) -> None:
        columns = matches(config.spec)
        super().__init__(config, generator, unpooled=list(columns))
        self.config: DIENConfig = config
        self._columns = list(columns.values())
        width, hidden = behaviour_width(config.spec), config.hidden
        self.extraction = GRU(width, hidden, generator)
        self.attention = StateAttention(width, hidden, generator)
        self.evolution = GRU(hidden, hidden, generator)
        self.top = SidedMlp(
            top_widths(config.spec, len(columns), hidden),
            config.top_mlp,
            generator,
            last_linear=True,
            between=config.activation,
        )

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from embeddings, the part that autograd sees."""
        read = behaviours(self.tables.spec, pooled, self._columns)
        return self._score(batch, pooled, read, self._states(read))

    def score_and_auxiliary(
        self, batch: FeatureBatch, pooled: Pooled
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, 1) and the auxiliary loss."""
        read = behaviours(self.tables.spec, pooled, self._columns)
        states_LH = self._states(read)
        logits_BT = self._score(batch, pooled, read, states_LH)
        if not self.config.auxiliary:
            return logits_BT, None
        return logits_BT, self.config.auxiliary * auxiliary_loss(read, states_LH)

    def _states(self, read: Behaviours) -> Tensor:
        """Interest states of all users, (L, H), in the order of behaviours."""
        order = time_order(read.first_U, read.length_U)
        states_PH, _ = self.extraction(read.rows_LK, order)
        in_place_LH: Tensor = states_PH.index_select(0, inverse(order.place_P))
        return in_place_LH

    def _score(
        self, batch: FeatureBatch, pooled: Pooled, read: Behaviours, states_LH: Tensor
    ) -> Tensor:
        """Logits (B, 1): the evolution of interests for each candidate, and the MLP."""
        to_user_B = batch.item_to_user_B
        order = time_order(
            read.first_U.index_select(0, to_user_B), read.length_U.index_select(0, to_user_B)
        )
        scale_P = self.attention(read, states_LH, order)
        _, last_BH = self.evolution(states_LH, order, scale_P, last_only=True)
        logits_BT: Tensor = self.top(*top_inputs(batch, pooled, last_BH), to_user_B)
        return logits_BT


def auxiliary_loss(read: Behaviours, states_LH: Tensor) -> Tensor:
    """How badly states tell the next behaviour from another one: nats per place, a scalar.

    Places whose other behaviour is the next one itself are left out; without any place it is 0.

    Source: the paper's auxiliary loss, its score a sigmoid of the inner product.
    """
    rows_LK, num_places = read.rows_LK, read.rows_LK.shape[0]
    has_next_L = torch.ones(num_places, dtype=torch.bool, device=rows_LK.device)
    last_U = (read.first_U + read.length_U - 1)[read.length_U > 0]
    has_next_L[last_U] = False
    state_H, next_K = states_LH[has_next_L], rows_LK[1:][has_next_L[:-1]]
    # Half a batch away: another user's, as a rule, and the same in every run.
    other_K = rows_LK.roll(-(num_places // 2), 0)[1:][has_next_L[:-1]]
    differs = (next_K != other_K).any(1)
    right = F.softplus(-(state_H * next_K).sum(1))
    wrong = F.softplus((state_H * other_K).sum(1))
    return torch.sum((right + wrong) * differs) / differs.sum().clamp(min=1)
