"""Which architectures there are, and how each is built and recorded.

To add one: a file beside this one, and a line in `_ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import EmbeddingTables, Pooled
from tailrank.features import FeatureBatch, FeatureSpec
from tailrank.models.dlrm import DLRM, DLRMConfig

ModelConfig = DLRMConfig

_ARCHITECTURES: dict[str, tuple[Callable[..., DLRMConfig], Callable[..., DLRM]]] = {
    "dlrm": (DLRMConfig, DLRM),
}


class RankingModel(Protocol):
    """What every model offers beside being an `nn.Module` that maps a batch to logits (B, T)."""

    tables: EmbeddingTables
    config: ModelConfig

    def embed(self, batch: FeatureBatch) -> Pooled:
        """Pooled embeddings."""
        ...

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, T) from pooled embeddings."""
        ...

    def dense_parameters(self) -> list[nn.Parameter]:
        """Every parameter outside the tables."""
        ...


def architecture_of(config: ModelConfig) -> str:
    """The registered name of a config's architecture."""
    return next(name for name, (kind, _) in _ARCHITECTURES.items() if type(config) is kind)


def build_model(config: ModelConfig, seed: int | None) -> DLRM:
    """A model with weights drawn from `seed`, or zeros with `seed=None` (weights follow)."""
    _, build = _ARCHITECTURES[architecture_of(config)]
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return build(config, generator)


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A JSON-ready record of architecture and sizes."""
    sizes = {name: value for name, value in asdict(config).items() if name != "spec"}
    return {"architecture": architecture_of(config), **sizes, "spec": config.spec.to_dict()}


def config_from_dict(record: dict[str, Any]) -> ModelConfig:
    """Read what `config_to_dict` wrote.

    Raises:
        ConfigError: unknown architecture, unknown or missing size.
    """
    sizes = dict(record)
    name = sizes.pop("architecture", None)
    if name not in _ARCHITECTURES:
        raise ConfigError("architecture", name, f"one of {sorted(_ARCHITECTURES)}")
    try:
        spec = FeatureSpec.from_dict(sizes.pop("spec"))
        tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in sizes.items()}
        return _ARCHITECTURES[name][0](spec=spec, **tuples)
    except (KeyError, TypeError) as error:
        raise ConfigError("model", str(error), "the fields of a recorded model") from None
