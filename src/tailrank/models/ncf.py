"""Neural collaborative filtering: GMF, MLP, and NeuMF, which joins the two before one last layer.

Source: He et al., Neural Collaborative Filtering, arXiv 1708.05031, section 3. For f predictive
factors MLP has embeddings of width 2f and hidden layers of 4f, 2f and f, as its section 4.1 has
them; the released code's default has embeddings of 4f before the same layers.
Deviations: the last layer has a bias, as in the released code, which equation 12 leaves out; what
MLP's first layer makes of a user is computed once per user.

Legend: U user rows, B item rows, D dim = factors + width of an id's MLP vector, T tasks (1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tailrank.core.errors import ConfigError
from tailrank.embeddings import FACTOR_STD, Pooled
from tailrank.features import SIDES, FeatureBatch, FeatureSpec
from tailrank.models.layers import SidedMlp, expand_users, mlp
from tailrank.models.ranking_model import ModelConfig, RankingModel

Variant = Literal["gmf", "mlp", "neumf"]
_COLUMNS_PER_FACTOR = {"gmf": 1, "mlp": 2, "neumf": 3}
"""Columns of a table row for each predictive factor, in the paper's proportions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NCFConfig:
    """Sizes of an NCF model.

    Args:
        spec: one bag on each side and nothing else. A row of a table holds the vectors of an id
            side by side: `factors` columns for GMF, all others for MLP.
        factors: columns of GMF; 0 leaves GMF out.
        tower: output widths of MLP's layers; none leaves MLP out.
    """

    spec: FeatureSpec
    factors: int
    tower: tuple[int, ...]

    def __post_init__(self) -> None:
        bags = [[f.name for f in self.spec.sparse(side)] for side in SIDES]
        dense = [feature.name for feature in self.spec.features if feature.kind == "dense"]
        if [len(names) for names in bags] != [1, 1] or dense:
            named = zip(("user bags", "item bags", "dense"), (*bags, dense), strict=True)
            present = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in named)
            allowed = "one user bag and one item bag only; --features USER,ITEM selects them"
            raise ConfigError("features", present, allowed)
        dim = self.spec.tables[0].embedding_dim
        if any(width < 1 for width in self.tower):
            raise ConfigError("tower", self.tower, "positive widths")
        if not 0 <= self.factors <= dim:
            raise ConfigError("factors", self.factors, f"0 to {dim}, the dim")
        if bool(self.tower) != (self.factors < dim):
            allowed = f"widths if and only if factors leave columns of the dim, {dim}, to the MLP"
            raise ConfigError("tower", self.tower, allowed)

    @classmethod
    def for_spec(
        cls,
        spec: FeatureSpec,
        *,
        variant: Variant = "neumf",
        factors: int | None = None,
        tower: tuple[int, ...] | None = None,
    ) -> NCFConfig:
        """Sizes for these features; by default the paper's, as many factors as the dim allows."""
        if variant not in get_args(Variant):
            raise ConfigError("variant", variant, " or ".join(get_args(Variant)))
        dim, parts = (
            spec.tables[0].embedding_dim if spec.tables else 0,
            _COLUMNS_PER_FACTOR[variant],
        )
        if factors is None:
            if dim % parts and (variant, tower is None) != ("mlp", False):
                near = max(parts, dim - dim % parts)
                allowed = f"a multiple of {parts} for {variant}: --embedding-dim {near}, for one"
                raise ConfigError("embedding_dim", dim, allowed)
            factors = dim // parts
        if variant != "gmf" and tower is None:
            tower = (4 * factors, 2 * factors, factors)
        return cls(spec=spec, factors=0 if variant == "mlp" else factors, tower=tower or ())

    @property
    def mlp_width(self) -> int:
        """Columns of an id's MLP vector."""
        return self.spec.tables[0].embedding_dim - self.factors


class NCF(RankingModel):
    """The network.

    Args:
        config: sizes.
        generator: draws the initial weights; None: zeros, for weights about to be loaded.

    Source: embeddings N(0, 0.01), hidden layers with Glorot's variance, the last uniform with
    LeCun's, biases zero: as the released code, but that hidden layers are normal here and uniform
    there; the paper draws everything from N(0, 0.01).
    """

    def __init__(self, config: NCFConfig, generator: torch.Generator | None) -> None:
        super().__init__(config, None)  # the tables are drawn in another way
        self.config: NCFConfig = config
        widths = (config.mlp_width, config.mlp_width)
        self.tower = SidedMlp(widths, config.tower, generator, last_linear=False)
        width = config.factors + (config.tower[-1] if config.tower else 0)
        self.last = mlp((width, 1), None, last_linear=True)
        if generator is not None:
            with torch.no_grad():
                self.tables.weight_VD.normal_(0.0, FACTOR_STD, generator=generator)
                for name, parameter in self.tower.named_parameters():
                    if name.endswith("bias"):
                        parameter.zero_()
                bound, last = math.sqrt(3.0 / width), self.last[0]
                assert isinstance(last, nn.Linear)
                last.weight.uniform_(-bound, bound, generator=generator)

    def start_from(self, others: Sequence[RankingModel], alpha: float = 0.5) -> None:
        """Start NeuMF from a trained GMF and a trained MLP: at first it is a mean of their logits.

        Args:
            others: the GMF, then the MLP, of the same ids and sizes.
            alpha: weight of the GMF; the MLP has the rest.

        Source: arXiv 1708.05031, section 3.4.1, equation 13.

        Raises:
            ConfigError: they are no such models; says what differs.
        """
        config = self.config
        if not config.factors or not config.tower:
            raise ConfigError("--pretrained", "gmf or mlp", "nothing: neumf starts from these two")
        halves = [
            replace(config, spec=_of_dim(config.spec, config.factors), tower=()),
            replace(config, spec=_of_dim(config.spec, config.mlp_width), factors=0),
        ]
        found = [other.config for other in others]
        if len(found) != 2:
            raise ConfigError("--pretrained", len(found), "two models: a GMF, then an MLP")
        for place, (one, wanted) in enumerate(zip(found, halves, strict=True)):
            if one != wanted:
                name = f"--pretrained, model {place + 1}"
                raise ConfigError(name, _in_words(one), f"{_in_words(wanted)} of the same ids")
        first, second = others
        assert isinstance(first, NCF)
        assert isinstance(second, NCF)
        with torch.no_grad():
            rows_VD = torch.cat([first.tables.weight_VD, second.tables.weight_VD], dim=1)
            self.tables.weight_VD.copy_(rows_VD)
            self.tower.load_state_dict(second.tower.state_dict())
            ours, of_gmf, of_mlp = (model.last.state_dict() for model in (self, first, second))
            weights = [alpha * of_gmf["0.weight"], (1.0 - alpha) * of_mlp["0.weight"]]
            ours["0.weight"].copy_(torch.cat(weights, dim=1))
            ours["0.bias"].copy_(alpha * of_gmf["0.bias"] + (1.0 - alpha) * of_mlp["0.bias"])

    def score(self, batch: FeatureBatch, pooled: Pooled) -> Tensor:
        """Logits (B, 1) from pooled embeddings, the part that autograd sees."""
        factors = self.config.factors
        user_UD, item_BD = pooled.user_UFD.squeeze(1), pooled.item_BFD.squeeze(1)
        parts, to_user_B = [], batch.item_to_user_B
        if factors:
            parts.append(expand_users(user_UD[:, :factors], to_user_B) * item_BD[:, :factors])
        if self.config.tower:
            parts.append(self.tower(user_UD[:, factors:], item_BD[:, factors:], to_user_B))
        logits_BT: Tensor = self.last(torch.cat(parts, dim=1))
        return logits_BT


def _of_dim(spec: FeatureSpec, dim: int) -> FeatureSpec:
    """The features with tables of another dim."""
    return replace(spec, tables=tuple(replace(t, embedding_dim=dim) for t in spec.tables))


def _in_words(config: ModelConfig) -> str:
    """What a model is, for an error."""
    if not isinstance(config, NCFConfig):
        return type(config).__name__.removesuffix("Config")
    ids = ", ".join(f"{table.num_embeddings} {table.name}s" for table in config.spec.tables)
    gmf, tower = config.factors, "-".join(map(str, (2 * config.mlp_width, *config.tower)))
    parts = ([f"GMF of {gmf} factors"] if gmf else []) + ([f"MLP {tower}"] if config.tower else [])
    return " and ".join(parts) + f" ({ids})"
