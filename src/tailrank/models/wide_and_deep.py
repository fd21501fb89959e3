"""Wide & Deep: a linear model of ids and their combinations, and an MLP on embeddings, in one sum.

Source: Cheng et al., Wide & Deep Learning for Recommender Systems, arXiv 1606.07792, section 3.
Deviations: both parts are trained by the trainer's optimisers, not by FTRL and Adagrad; dense
features are in the wide part too; user features are looked up, and enter the first layer, once per
user.

Legend: U user rows, B item rows, M dense width of a side, N inputs of a side, T tasks (1, but for
models that share what is here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tailrank.embeddings import Pooled
from tailrank.features import SIDES, FeatureBatch, FeatureSpec
from tailrank.models.checks import check_factors, check_item_side, check_widths
from tailrank.models.crosses import Crosses
from tailrank.models.layers import SidedMlp, expand_users, factors_and_dense, linear_parts
from tailrank.models.ranking_model import ModelConfig, RankingModel


class WithCrosses(ModelConfig, Protocol):
    """A config whose model has a wide part."""

    @property
    def crosses(self) -> tuple[tuple[str, ...], ...]:
        """Names of the bags of each cross."""
        ...

    @property
    def cross_rows(self) -> int:
        """Rows of a cross's table at most."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WideAndDeepConfig:
    """Sizes of a Wide & Deep model.

    Args:
        spec: features and tables; a bag or more, and an item feature or more. The first column of a
            table is the wide part's weight, the others are the deep part's embedding: an
            `embedding_dim` of 17 gives 16.
        top_mlp: output widths of the deep part; the last is 1.
        crosses: names of the bags of each cross-product feature of the wide part.
        cross_rows: rows of a cross's table at most; see `models.crosses`.
    """

    spec: FeatureSpec
    top_mlp: tuple[int, ...]
    crosses: tuple[tuple[str, ...], ...] = ()
    cross_rows: int = 1 << 16

    def __post_init__(self) -> None:
        check_widths("top_mlp", self.top_mlp, last=1)
        check_factors(self.spec)
        check_item_side(self.spec)
        Crosses(self.spec, self.crosses, self.cross_rows)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        *,
        top_mlp: tuple[int, ...] = (64,),
        crosses: tuple[tuple[str, ...], ...] = (),
        cross_rows: int = 1 << 16,
    ) -> WideAndDeepConfig:
        """Sizes for these features from *hidden* widths."""
        return cls(spec=spec, top_mlp=(*top_mlp, 1), crosses=crosses, cross_rows=cross_rows)


class WideAndDeepInputs(RankingModel):
    """What goes before the deep layers: crosses, the wide part, the inputs of the deep one.

    Weights of the wide part start at zero, embeddings near it. Every task has a wide part of its
    own: its weights are the first T columns of the tables.

    Args:
        config: sizes; its `crosses` and `cross_rows` are read here.
        generator: draws the embeddings; None leaves the tables unset, for weights about to be
            loaded.
        num_tasks: T.

    Attributes:
        deep_widths: inputs of the deep part that are the user's, and the item's.
    """

    def __init__(
        self, config: WithCrosses, generator: torch.Generator | None, num_tasks: int = 1
    ) -> None:
        crosses = Crosses(config.spec, config.crosses, config.cross_rows)
        super().__init__(config, None, spec=crosses.spec)  # the tables are drawn in another way
        self._crosses, self.num_tasks = crosses, num_tasks
        if generator is not None:
            self.tables.reset_factors(generator, num_tasks)
        self.bias_T = nn.Parameter(torch.zeros(num_tasks))
        dense_width = [config.spec.dense_width(side) for side in SIDES]
        self.wide_user_MT, self.wide_item_MT = (
            nn.Parameter(torch.zeros(width, num_tasks)) for width in dense_width
        )
        self._num_sparse = [len(config.spec.sparse(side)) for side in SIDES]
        factors = self.tables.embedding_dim - num_tasks
        num_user, num_item = self._num_sparse
        self.deep_widths = (
            dense_width[0] + num_user * factors,
            dense_width[1] + num_item * factors,
        )

    def prepare(self, batch: FeatureBatch) -> FeatureBatch:
        """The batch with its crosses."""
        return self._crosses(batch)

    def wide(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """What the wide parts add to the logits, (B, T)."""
        user_UT = linear_parts(pooled.user_UFD, batch.user.dense_RN, self.wide_user_MT)
        item_BT = linear_parts(pooled.item_BFD, batch.item.dense_RN, self.wide_item_MT)
        return self.bias_T + expand_users(user_UT, batch.item_to_user_B) + item_BT

    def deep_inputs(self, batch: FeatureBatch, pooled: Pooled) -> tuple[Tensor, Tensor]:
        """Inputs of the deep part, (U, N) and (B, N): those of a side without its crosses."""
        num_user, num_item = self._num_sparse  # crosses come behind a side's own features
        user_UFD, item_BFD = pooled.user_UFD[:, :num_user], pooled.item_BFD[:, :num_item]
        return (
            factors_and_dense(user_UFD, batch.user.dense_RN, self.num_tasks),
            factors_and_dense(item_BFD, batch.item.dense_RN, self.num_tasks),
        )


class WideAndDeep(WideAndDeepInputs):
    """The model.

    Args:
        config: sizes.
        generator: draws the weights; None: as `WideAndDeepInputs`.
    """

    def __init__(self, config: WideAndDeepConfig, generator: torch.Generator | None) -> None:
        super().__init__(config, generator)
        self.deep = SidedMlp(self.deep_widths, config.top_mlp, generator, last_linear=True)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) of a prepared batch from its pooled embeddings; what autograd sees."""
        deep_B1: Tensor = self.deep(*self.deep_inputs(batch, pooled), batch.item_to_user_B)
        return self.wide(batch, pooled) + deep_B1
