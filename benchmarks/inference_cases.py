"""What every candidate of `bench_inference.py` scores: one model's weights, and rows of features.

Both are drawn from a seed, so that each process draws the same for itself and nothing has to travel
between them. All features are on the item side, the papers' setting, unless said otherwise.

Legend: B items, R rows, F tables, V rows of a table, L ids.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tailrank.features import FeatureBatch, SideFeatures
from tailrank.inference import Ranker, load
from tailrank.inference.artifact import save_artifact
from tailrank.inference.precision import Precision
from tailrank.models import build_model
from tailrank.models.dlrm import DLRM
from tailrank.models.presets import load_preset

IdsFrom = Literal["uniform", "zipf"]
Prepare = Callable[[FeatureBatch], Callable[[], Tensor]]
"""Features in, a call on them out: what is made ready before the call is not timed."""

# Rows of every preset, so that its fp32 tables are some 0.6 GB, 20 times a large last-level cache,
# and the copies of them that some thirty candidates keep fit into memory together.
SCALES = {"dlrm-rmc1": 0.15, "dlrm-rmc2": 0.15, "dlrm-rmc3": 0.25}
ZIPF_EXPONENT = 1.05
# As `characterization.payloads`: ids and floats of a pool, far more than any cache holds.
_POOL_BYTES = 192 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model with drawn weights.

    Args:
        preset: its sizes.
        scale: factor on the rows of its tables.
        user_tables: how many tables are on the user's side.
    """

    preset: str
    scale: float
    user_tables: int = 0

    @property
    def name(self) -> str:
        """In names of metrics: `rmc1`."""
        return self.preset.removeprefix("dlrm-").replace("-", "_")

    def model(self, generator_seed: int = 0) -> DLRM:
        """The model; scores spread over most of (0, 1) and depend on rows and layers alike.

        Rows are drawn so that a pooled vector has variance 1, and layers keep a signal's size: a
        candidate that read a wrong row would not score within anyone's tolerance.
        """
        config = load_preset(self.preset, scale=self.scale, user_tables=self.user_tables)
        model = build_model(config, None).eval()
        assert isinstance(model, DLRM)
        draw_weights(model, generator_seed)
        return model

    def pool(self, ids_from: IdsFrom, seed: int = 1) -> SideFeatures:
        """Rows to cut batches from, all features on the item side."""
        spec = load_preset(self.preset, scale=self.scale).spec
        generator = torch.Generator().manual_seed(seed)
        bags = spec.sparse("item")
        bag_ids, width = int(bags[0].pooling_factor), spec.dense_width("item")
        num_rows = _POOL_BYTES // (8 * bag_ids * len(bags) + 4 * width)
        ids_RFL = torch.empty(num_rows, len(bags), bag_ids, dtype=torch.int64)
        draw = uniform_ids if ids_from == "uniform" else zipf_ids
        for index, bag in enumerate(bags):
            table_rows = spec.table(bag.table).num_embeddings
            ids_RFL[:, index] = draw(table_rows, num_rows * bag_ids, generator).view(-1, bag_ids)
        return SideFeatures(
            dense_RN=torch.randn(num_rows, width, generator=generator),
            values_L=ids_RFL.flatten(),
            offsets=torch.arange(num_rows * len(bags) + 1) * bag_ids,
        )


def draw_weights(model: DLRM, seed: int) -> None:
    """Weights of a model that was built without any, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        bound = math.sqrt(3.0 / max(f.pooling_factor for f in model.config.spec.sparse("item")))
        model.tables.weight_VD.uniform_(-bound, bound, generator=generator)
        for parameter in model.dense_parameters():
            inputs = parameter.shape[1] if parameter.dim() == 2 else 100
            parameter.normal_(0.0, math.sqrt(2.0 / inputs), generator=generator)


def uniform_ids(table_rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Every row equally often."""
    return torch.randint(table_rows, (count,), generator=generator)


def zipf_ids(table_rows: int, count: int, generator: torch.Generator) -> Tensor:
    """The k-th most frequent row k**-1.05 as often as the first; frequent rows lie anywhere."""
    ranks = torch.arange(1, table_rows + 1, dtype=torch.float64)
    cumulative = ranks.pow(-ZIPF_EXPONENT).cumsum(0)
    draws = torch.rand(count, generator=generator, dtype=torch.float64) * cumulative[-1]
    row_of_rank = torch.randperm(table_rows, generator=generator)
    return row_of_rank[torch.searchsorted(cumulative, draws).clamp_(max=table_rows - 1)]


def batch_of(pool: SideFeatures, choice: int, items: int) -> FeatureBatch:
    """Items of the pool without a user's side; successive choices have items of their own."""
    first = choice * items % (pool.num_rows - items + 1)
    return FeatureBatch(
        user=SideFeatures(
            dense_RN=torch.empty(1, 0),
            values_L=torch.empty(0, dtype=torch.int64),
            offsets=torch.zeros(1, dtype=torch.int64),
        ),
        item=pool.rows(first, items),
        item_to_user_B=torch.zeros(items, dtype=torch.int64),
    )


def ids_by_table(batch: FeatureBatch, num_tables: int) -> Tensor:
    """Ids of a batch whose bags are equally long: (F, B * ids of a bag)."""
    values = batch.item.values_L.view(batch.num_items, num_tables, -1)
    return values.transpose(0, 1).reshape(num_tables, -1)


def formats(precision: str) -> tuple[str, str]:
    """Of rows and dense layers: `int8`, or `rows=int4,dense=int8`; fp32 where not named."""
    if "=" not in precision:
        return precision, precision
    named = dict(part.split("=") for part in precision.split(","))
    return named.get("rows", "fp32"), named.get("dense", "fp32")


def tailrank_ranker(model: DLRM, precision: str, folder: str) -> Ranker:
    """The model as users get it: written as an artifact of that precision, and loaded.

    Raises:
        ConfigError, BackendUnavailable: no such precision, or not on this host.
    """
    with tempfile.TemporaryDirectory(dir=folder) as path:
        save_artifact(Path(path), model, training={}, precision=Precision.parse(precision))
        ranker, _ = load(Path(path))
    return ranker
