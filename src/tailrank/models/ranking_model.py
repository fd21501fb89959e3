"""What every architecture is: tables, the part that reads them, and the part that autograd sees.

Knows no architecture. Legend: B item rows, T tasks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import EmbeddingTables, Pooled
from tailrank.features import FeatureBatch, FeatureSpec


class ModelConfig(Protocol):
    """Sizes of a model: a frozen dataclass beside it.

    Its classmethod `for_spec(spec, **sizes)` makes one from the sizes that a person chooses.
    """

    @property
    def spec(self) -> FeatureSpec:
        """Features and tables of a batch from outside; a model may derive more of them."""
        ...


class RankingModel(nn.Module):
    """Maps a batch to logits (B, T); an architecture adds its dense layers and `score`.

    Args:
        config: sizes.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.
        spec: features and tables with those that `prepare` adds; None: it adds none.
        unpooled: sequences that the architecture reads row by row, see `EmbeddingTables`.

    Attributes:
        num_tasks: T; 1 unless an architecture says otherwise.
    """

    num_tasks = 1

    def __init__(
        self,
        config: ModelConfig,
        generator: torch.Generator | None,
        *,
        spec: FeatureSpec | None = None,
        unpooled: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.tables = EmbeddingTables(config.spec if spec is None else spec, generator, unpooled)

    def prepare(self, batch: FeatureBatch) -> FeatureBatch:
        """The batch as tables and `score` take it, with the features that a model derives.

        Done before any lookup, where the batch comes from, which need not be the device that
        scores it. What comes in fits `config.spec`, what goes out `tables.spec`.
        """
        return batch

    def embed(self, batch: FeatureBatch) -> Pooled:
        """Pooled embeddings of a prepared batch, the part that touches the tables."""
        pooled: Pooled = self.tables(batch)
        return pooled

    @abstractmethod
    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, T) of a prepared batch from its pooled embeddings; what autograd sees."""

    def score_and_auxiliary(
        self, batch: FeatureBatch, pooled: Pooled
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T), and a loss of the model's own that training adds, if it has one."""
        return self.score(batch, pooled), None

    def forward(self, batch: FeatureBatch) -> Tensor:
        """Logits (B, T) of a batch."""
        batch = self.prepare(batch)
        return self.score(batch, self.embed(batch))

    def start_from(self, others: Sequence[RankingModel]) -> None:
        """Take over what trained models have learned, in place of weights drawn from a seed.

        Raises:
            ConfigError: the architecture starts from its seed only, or not from these.
        """
        others_in_words = [type(other).__name__ for other in others]
        raise ConfigError("--pretrained", others_in_words, "nothing: only ncf starts from others")

    def dense_parameters(self) -> list[nn.Parameter]:
        """Every parameter outside the tables."""
        tables = {id(parameter) for parameter in self.tables.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in tables]

    def statistics(self) -> list[Tensor]:
        """What layers remember of the activations that they have seen."""
        tables = {id(buffer) for buffer in self.tables.buffers()}
        outside = [buffer for buffer in self.buffers() if id(buffer) not in tables]
        return [buffer for buffer in outside if buffer.is_floating_point()]
