"""What `tailrank train` does when told nothing but the data: sizes and settings per data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from tailrank.core.errors import ConfigError
from tailrank.features import FeatureSpec
from tailrank.models.dlrm import DLRMConfig
from tailrank.training.config import TrainingConfig
from tailrank.training.optimizers import state_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model's sizes and how to train it.

    Args:
        embedding_dim: dim D of every table.
        bottom_mlp: hidden widths of the bottom MLP; its last layer, of D, follows by itself.
        top_mlp: hidden widths of the top MLP; its last layer, of 1, follows by itself.
        interaction: `dot` or `cat`.
        min_count: categories seen fewer times become *unknown*; for data that has rare ones.
        integer_buckets: whether Criteo's integers are also categories; 13 more tables.
        training: settings of the run.
    """

    embedding_dim: int = 16
    bottom_mlp: tuple[int, ...] = (64,)
    top_mlp: tuple[int, ...] = (64,)
    interaction: Literal["dot", "cat"] = "dot"
    min_count: int = 2
    integer_buckets: bool = False
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "min_count"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "at least 1")
        for name in ("bottom_mlp", "top_mlp"):
            if any(width < 1 for width in getattr(self, name)):
                raise ConfigError(name, getattr(self, name), "widths of at least 1")

    def model_config(self, spec: FeatureSpec) -> DLRMConfig:
        """The model for these features."""
        dense = spec.dense_width("user") + spec.dense_width("item")
        return DLRMConfig(
            spec=spec,
            bottom_mlp=(*self.bottom_mlp, self.embedding_dim) if dense else (),
            top_mlp=(*self.top_mlp, 1),
            interaction=self.interaction,
        )

    def bytes_needed(self, spec: FeatureSpec) -> int:
        """Bytes that training allocates for model, gradients and optimiser state."""
        config = self.model_config(spec)
        widths = [
            (config.num_dense, *config.bottom_mlp),
            (config.top_input_width, *config.top_mlp),
        ]
        num_dense = sum(n * m + m for w in widths for n, m in pairwise(w))
        num_rows = sum(table.num_embeddings for table in spec.tables)
        training = self.training
        state = state_bytes(num_rows, num_dense, training.table_optimizer, training.dense_optimizer)
        return spec.table_bytes + 4 * num_dense + state

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)


RECIPES = {
    # Chosen on validation rows; benchmarks/results says how, and how often the test was scored.
    "criteo": Recipe(
        embedding_dim=32,
        bottom_mlp=(256,),
        top_mlp=(128,),
        integer_buckets=True,
        training=TrainingConfig(
            batch_items=128, lr=0.01, table_lr=0.03, lr_decay=True, evaluate_every=192
        ),
    ),
    "synthetic": Recipe(
        training=TrainingConfig(batch_items=1024, epochs=2, lr=0.03, table_lr=0.1, lr_decay=True)
    ),
}
