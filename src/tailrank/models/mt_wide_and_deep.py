"""Multi-task Wide & Deep: one deep part that all tasks share, and a head and a wide part for each.

Source: the model of several heads behind Wide & Deep that DeepRecSys (Gupta et al., ISCA 2020) runs
as MT-WnD, after Zhao et al., Recommending What Video to Watch Next, RecSys 2019. Deviations: the
shared part is a bottom of layers below all heads (Caruana, Multitask Learning, 1997), not a mixture
of experts, and there is no tower for selection bias; each task has a wide part of its own, for one
shared by opposite tasks could serve neither; of Wide & Deep's deviations, all.

Loss weights of tasks, and labels that are unknown, are the trainer's (`training.step.loss_of`).

Legend: B item rows, H width of the shared part, T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.checks import check_factors, check_item_side, check_widths
from tailrank.models.crosses import Crosses
from tailrank.models.layers import SidedMlp, mlp
from tailrank.models.wide_and_deep import WideAndDeepInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTaskWideAndDeepConfig:
    """Sizes of a multi-task Wide & Deep model.

    Args:
        spec: features and tables; a bag or more, and an item feature or more. The first T columns
            of a table are the wide parts' weights, the others are the shared part's embedding: of
            two tasks an `embedding_dim` of 18 gives 16.
        tasks: what is predicted, in the order of the scores.
        bottom_mlp: output widths of the layers that all tasks share, one or more.
        top_mlp: output widths of the head of each task; the last is 1.
        crosses: names of the bags of each cross-product feature of the wide parts.
        cross_rows: rows of a cross's table at most; see `models.crosses`.
    """

    spec: FeatureSpec
    tasks: tuple[str, ...]
    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    crosses: tuple[tuple[str, ...], ...] = ()
    cross_rows: int = 1 << 16

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError("tasks", self.tasks, "one name or more, each once")
        if not self.bottom_mlp or min(self.bottom_mlp) < 1:
            raise ConfigError("bottom_mlp", self.bottom_mlp, "one positive width or more")
        check_widths("top_mlp", self.top_mlp, last=1)
        check_factors(self.spec, len(self.tasks))
        check_item_side(self.spec)
        Crosses(self.spec, self.crosses, self.cross_rows)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        tasks: tuple[str, ...],
        *,
        bottom_mlp: tuple[int, ...] = (64,),
        top_mlp: tuple[int, ...] = (32,),
        crosses: tuple[tuple[str, ...], ...] = (),
        cross_rows: int = 1 << 16,
    ) -> MultiTaskWideAndDeepConfig:
        """Sizes for these features and tasks from *hidden* widths of the heads."""
        return cls(
            spec=spec,
            tasks=tasks,
            bottom_mlp=bottom_mlp,
            top_mlp=(*top_mlp, 1),
            crosses=crosses,
            cross_rows=cross_rows,
        )


class MultiTaskWideAndDeep(WideAndDeepInputs):
    """The model.

    Args:
        config: sizes.
        generator: draws the weights; None: as `WideAndDeepInputs`.
    """

    def __init__(
        self, config: MultiTaskWideAndDeepConfig, generator: torch.Generator | None
    ) -> None:
        super().__init__(config, generator, len(config.tasks))
        self.bottom = SidedMlp(self.deep_widths, config.bottom_mlp, generator, last_linear=False)
        widths = (config.bottom_mlp[-1], *config.top_mlp)
        self.heads = nn.ModuleList(mlp(widths, generator, last_linear=True) for _ in config.tasks)

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, T) of a prepared batch from its pooled embeddings; what autograd sees."""
        shared_BH = self.bottom(*self.deep_inputs(batch, pooled), batch.item_to_user_B)
        deep_BT = torch.cat([head(shared_BH) for head in self.heads], dim=1)
        return self.wide(batch, pooled) + deep_BT
