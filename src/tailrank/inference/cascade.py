"""Ranking in stages: each model passes the best of its candidates on to the next, heavier one.

What is meant by that is here, for serving and for evaluation alike. Knows no queue and no file.

Source: Gupta et al., DeepRecSys, ISCA 2020, section 2 (filtering thousands, ranking hundreds).
Legend: B items, K kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError

_FORM = "MODEL:keep=K, and MODEL for the last one"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageName:
    """A stage as it is typed.

    Args:
        target: folder of an artifact, or `preset:NAME`.
        keep: how many of its best candidates go on; None: it is the last stage.
    """

    target: str
    keep: int | None = None

    @classmethod
    def parse(cls, text: str) -> StageName:
        """Read `MODEL:keep=256`, or `MODEL`.

        Raises:
            ConfigError: it is neither, or keep is no whole number from 1.
        """
        target, colon, setting = text.rpartition(":")
        if not colon or "=" not in setting:
            return cls(target=text)
        name, _, value = setting.partition("=")
        if name != "keep" or not (value.isascii() and value.isdecimal() and int(value) >= 1):
            raise ConfigError("--stage", text, f"{_FORM}, with K a whole number from 1")
        return cls(target=target, keep=int(value))


def parse_stages(texts: Sequence[str]) -> tuple[StageName, ...]:
    """Read all stages, the lightest first.

    Raises:
        ConfigError: fewer than two, a wrong one, one that is there twice, one without `keep` before
            the last, one with it there, or one that keeps as many as the one before it.
    """
    stages = tuple(StageName.parse(text) for text in texts)
    if len(stages) < 2:
        raise ConfigError("--stage", list(texts), f"at least two: {_FORM}")
    targets = [stage.target for stage in stages]
    if len(set(targets)) < len(targets):
        raise ConfigError("--stage", list(texts), "another model in each stage")
    room = None
    for text, stage in zip(texts, stages, strict=True):
        if (stage.keep is None) != (stage is stages[-1]):
            raise ConfigError("--stage", text, _FORM)
        if stage.keep is not None and room is not None and stage.keep >= room:
            raise ConfigError("--stage", text, f"to keep fewer than {room}, as many as come to it")
        room = stage.keep
    return stages


def best_items(scores: Tensor, keep: int) -> Tensor:
    """The places of the `keep` best items, in the order in which they were named.

    Args:
        scores: (B,), or (B, T) of several tasks, of which the first counts.
        keep: K; of items with equal scores, those that were named first.

    Returns:
        (K,) int64, rising; all B where they are no more.
    """
    score_B = scores if scores.dim() == 1 else scores[:, 0]
    return torch.sort(score_B, descending=True, stable=True).indices[:keep].sort().values
