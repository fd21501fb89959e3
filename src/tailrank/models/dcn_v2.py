"""DCN-V2: layers that multiply the inputs by a linear map of themselves, and an MLP.

    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l

Source: Wang et al., DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
Learning to Rank Systems, arXiv 2008.13535, sections 3.1 to 3.4; a low rank without its mixture of
experts (equation 4). Deviation: the user's half of the first layer of each part is computed once
per user and expanded late.

Legend: U user rows, B item rows, N inputs of a side, K inputs of both, T tasks (1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.checks import check_bags, check_item_side, check_widths
from tailrank.models.layers import SidedMlp, expand_users, mlp, side_widths
from tailrank.models.ranking_model import RankingModel

Structure = Literal["stacked", "parallel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DCNv2Config:
    """Sizes of a DCN-V2.

    Args:
        spec: features and tables; a bag or more, and an item feature or more.
        top_mlp: output widths of the deep part; the last is 1. Without hidden ones, `(1,)`, the
            model is its cross layers alone.
        num_crosses: cross layers, 1 or more.
        rank: W = U V with this inner width; None: full rank.
        structure: whether the deep part reads the last cross layer (`stacked`) or the inputs, its
            last hidden layer beside the last cross layer under the logit (`parallel`).
    """

    spec: FeatureSpec
    top_mlp: tuple[int, ...]
    num_crosses: int = 2
    rank: int | None = None
    structure: Structure = "stacked"

    def __post_init__(self) -> None:
        check_widths("top_mlp", self.top_mlp, last=1)
        check_bags(self.spec)
        check_item_side(self.spec)
        for field in ("num_crosses", "rank"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(field, value, "at least 1")
        if self.structure not in get_args(Structure):
            raise ConfigError("structure", self.structure, " or ".join(get_args(Structure)))
        if self.structure == "parallel" and len(self.top_mlp) < 2:
            allowed = "a hidden layer or more where structure is parallel"
            raise ConfigError("top_mlp", self.top_mlp, allowed)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        *,
        top_mlp: tuple[int, ...] = (64,),
        num_crosses: int = 2,
        rank: int | None = None,
        structure: Structure = "stacked",
    ) -> DCNv2Config:
        """Sizes for these features from *hidden* widths."""
        return cls(
            spec=spec,
            top_mlp=(*top_mlp, 1),
            num_crosses=num_crosses,
            rank=rank,
            structure=structure,
        )


class DCNv2(RankingModel):
    """The network.

    Args:
        config: sizes.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.
    """

    def __init__(self, config: DCNv2Config, generator: torch.Generator | None) -> None:
        super().__init__(config, generator)
        self.config: DCNv2Config = config
        widths = side_widths(config.spec, self.tables.embedding_dim)
        num_inputs, hidden = sum(widths), config.top_mlp[:-1]
        # W x as one layer, or as two with nothing between them.
        down, up = config.rank or num_inputs, (config.rank,) if config.rank else ()
        later = range(config.num_crosses - 1)
        self.down = nn.ModuleList([SidedMlp(widths, (down,), generator, last_linear=True)])
        self.down.extend(mlp((num_inputs, down), generator, last_linear=True) for _ in later)
        self.up = nn.ModuleList(
            mlp((*up, num_inputs), generator, last_linear=True) for _ in self.down
        )
        if config.structure == "stacked":
            self.top = mlp((num_inputs, *config.top_mlp), generator, last_linear=True)
        else:
            self.deep = SidedMlp(widths, hidden, generator, last_linear=False)
            self.top = mlp((num_inputs + hidden[-1], 1), generator, last_linear=True)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled embeddings, the part that autograd sees."""
        user_UN = torch.cat([pooled.user_UFD.flatten(1), batch.user.dense_RN], dim=1)
        item_BN = torch.cat([pooled.item_BFD.flatten(1), batch.item.dense_RN], dim=1)
        sides = user_UN, item_BN, batch.item_to_user_B
        input_BK = torch.cat([expand_users(user_UN, batch.item_to_user_B), item_BN], dim=1)
        crossed_BK = input_BK
        for index, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            mapped = down(crossed_BK) if index else down(*sides)
            crossed_BK = torch.addcmul(crossed_BK, input_BK, up(mapped))
        if self.config.structure == "parallel":
            crossed_BK = torch.cat([crossed_BK, self.deep(*sides)], dim=1)
        logits_BT: Tensor = self.top(crossed_BK)
        return logits_BT
