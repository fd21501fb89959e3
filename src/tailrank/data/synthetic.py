"""A click log whose labels can be learned, of any size, without a file.

A planted teacher gives every id an effect and a low-rank latent vector; a label is drawn from
sigmoid(bias + dense effects + id effects + <user latents, item latents>). So a model with a dot
interaction can learn it, and the AUC of the true probability bounds what any model can reach.

Every value is a hash of (seed, stream, row): any row can be made on its own, in any order, and
memory does not grow with the number of rows. Knows no model.

Legend: U user rows, B item rows, F tables of one side, N dense width, K ids of one bag at most,
V table rows, R rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from tailrank.core.errors import ConfigError
from tailrank.data.dataset import Batches, Split, contiguous_range, split_bounds
from tailrank.data.jagged import range_indices
from tailrank.data.queries import cut_queries
from tailrank.features import (
    SIDES,
    Feature,
    FeatureBatch,
    FeatureSpec,
    Labels,
    Side,
    SideFeatures,
    TableSpec,
)
from tailrank.metrics import BinaryMetrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK_ROWS = 1 << 16
_STREAMS = {"user": 0, "item": 32, "label": 64}  # each side may have 16 tables and 8 dense


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticConfig:
    """Size and shape of the log.

    The defaults leave a DLRM of dim 16 within 0.02 of the attainable AUC after one pass over
    300,000 rows (tests/integration/test_training_learns.py).

    Args:
        rows: item rows, a multiple of `items_per_user` and at least 7 users' worth.
        seed: of teacher, features and labels.
        items_per_user: candidate items that share one user row.
        user_tables: sparse user features; the first one is a bag of 1 to `history_max` ids, the
            others hold one id each.
        item_tables: sparse item features, one id each.
        num_embeddings: rows of each table.
        embedding_dim: dim of each table.
        dense_per_side: dense features of each side, standard normal.
        history_max: longest bag of the first user feature.
        zipf_exponent: popularity of the k-th most popular id is about k ** -exponent; > 0.
        rank: width of the latent vectors.
        click_rate: rough share of positive labels, in (0, 1).
        dense_std: spread of the dense effects in the logit.
        effect_std: spread of the id effects in the logit.
        interaction_std: spread of the user-item interaction in the logit.
    """

    rows: int = 300_000
    seed: int = 0
    items_per_user: int = 8
    user_tables: int = 3
    item_tables: int = 3
    num_embeddings: int = 500
    embedding_dim: int = 16
    dense_per_side: int = 2
    history_max: int = 4
    zipf_exponent: float = 1.6
    rank: int = 1
    click_rate: float = 0.3
    dense_std: float = 1.0
    effect_std: float = 1.0
    interaction_std: float = 0.5

    def __post_init__(self) -> None:
        for field in ("items_per_user", "num_embeddings", "embedding_dim", "history_max", "rank"):
            if getattr(self, field) < 1:
                raise ConfigError(f"synthetic.{field}", getattr(self, field), "at least 1")
        for field, least, most in (
            ("user_tables", 1, 16),
            ("item_tables", 1, 16),
            ("dense_per_side", 0, 8),
        ):
            if not least <= getattr(self, field) <= most:
                raise ConfigError(f"synthetic.{field}", getattr(self, field), f"{least} to {most}")
        group = self.items_per_user
        if self.rows < 7 * group or self.rows % group:
            raise ConfigError(
                "synthetic.rows", self.rows, f"a multiple of items_per_user ({group}), 7 users up"
            )
        if self.seed < 0:
            raise ConfigError("synthetic.seed", self.seed, "0 or more")
        if not 0.0 < self.click_rate < 1.0:
            raise ConfigError("synthetic.click_rate", self.click_rate, "above 0 and below 1")
        if not 0.0 < self.zipf_exponent < 100.0:
            raise ConfigError(
                "synthetic.zipf_exponent", self.zipf_exponent, "above 0 and below 100"
            )
        for field in ("dense_std", "effect_std", "interaction_std"):
            if getattr(self, field) < 0.0:
                raise ConfigError(f"synthetic.{field}", getattr(self, field), "0 or more")

    def spec(self) -> FeatureSpec:
        """Features and tables of the log."""
        features: list[Feature] = []
        tables: list[TableSpec] = []
        for side in SIDES:
            num_tables = self.user_tables if side == "user" else self.item_tables
            if self.dense_per_side:
                features.append(
                    Feature(
                        name=f"{side}_dense", side=side, kind="dense", width=self.dense_per_side
                    )
                )
            for index in range(num_tables):
                name = f"{side}_{index}"
                ids = (1 + self.history_max) / 2 if name == "user_0" else 1.0
                features.append(
                    Feature(name=name, side=side, kind="bag", table=name, pooling_factor=ids)
                )
                tables.append(
                    TableSpec(
                        name=name,
                        num_embeddings=self.num_embeddings,
                        embedding_dim=self.embedding_dim,
                    )
                )
        return FeatureSpec(features=tuple(features), tables=tuple(tables))


class SyntheticDataset:
    """The log of a `SyntheticConfig`; see `data.dataset.Dataset`."""

    name = "synthetic"
    tasks: tuple[str, ...] = ("label",)

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.spec = config.spec()
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()
        rows = repr(replace(config, embedding_dim=1))
        self.rows_fingerprint = hashlib.sha256(rows.encode()).hexdigest()
        self.fitted_fingerprint: str | None = None
        # Splits end on whole users: rows of one user share features and may not leak over.
        bounds = split_bounds(config.rows // config.items_per_user)
        self._user_bounds: dict[Split, tuple[int, int]] = bounds
        self._attainable: float | None = None

    @cached_property
    def _teacher(self) -> dict[Side, _Teacher]:
        """Made when the first row is asked for, so that a caller can check memory before."""
        return {
            "user": _Teacher(self.config, self.config.user_tables, stream=1),
            "item": _Teacher(self.config, self.config.item_tables, stream=2),
        }

    def num_rows(self, splits: Sequence[Split]) -> int:
        """Item rows of these splits together."""
        return len(contiguous_range(self._user_bounds, splits)) * self.config.items_per_user

    def save_fitted(self, folder: Path) -> None:
        """Nothing: nothing is fitted."""

    def for_refit(self) -> SyntheticDataset:
        """Itself: nothing is fitted."""
        return self

    def batches(
        self,
        splits: Sequence[Split],
        batch_items: int,
        *,
        shuffle_seed: int | None = None,
        first_batch: int = 0,
    ) -> Batches:
        """See `Dataset.batches`; a shuffle reorders users, whose items stay together."""
        for rows in self._rows(splits, batch_items, shuffle_seed, first_batch):
            yield (
                rows.features,
                Labels(
                    values_BT=torch.from_numpy(rows.label_B).unsqueeze(1),
                    group_B=torch.from_numpy(rows.user_B),
                ),
            )

    def attainable_auc(self) -> float:
        """AUC of the true probability on the test rows: no model can expect to do better."""
        if self._attainable is None:
            metrics = BinaryMetrics()
            for rows in self._rows(("test",), _CHUNK_ROWS, None, 0):
                metrics.update(rows.probability_B, rows.label_B)
            self._attainable = metrics.compute().auc
        return self._attainable

    def _rows(
        self, splits: Sequence[Split], batch_items: int, shuffle_seed: int | None, first_batch: int
    ) -> Iterator[_Rows]:
        """Batches, with the true probabilities."""
        user_range, group = contiguous_range(self._user_bounds, splits), self.config.items_per_user
        order = np.arange(user_range.start, user_range.stop)
        if shuffle_seed is not None:
            order = np.random.default_rng(shuffle_seed).permutation(order)
        length_Q = np.full(self._user_bounds["test"][1], group)
        for user_U, skip_U, length_U in cut_queries(order, length_Q, batch_items, first_batch):
            to_user_B = np.repeat(np.arange(len(user_U)), length_U)
            yield self._generate(
                user_U, to_user_B, range_indices(user_U * group + skip_U, length_U)
            )

    def _generate(self, user_U: Ints, to_user_B: Ints, item_B: Ints) -> _Rows:
        """These items of these users."""
        config = self.config
        user, user_logit_U, user_latent_UR = self._teacher["user"].rows(
            user_U, _STREAMS["user"], config.history_max
        )
        item, item_logit_B, item_latent_BR = self._teacher["item"].rows(item_B, _STREAMS["item"], 1)
        product_B = np.einsum("br,br->b", user_latent_UR[to_user_B], item_latent_BR)
        logit_B = user_logit_U[to_user_B] + item_logit_B
        logit_B += config.interaction_std / np.sqrt(config.rank) * product_B
        logit_B += np.log(config.click_rate / (1.0 - config.click_rate))
        probability_B = expit(logit_B)
        label_B = _uniform(config.seed, _STREAMS["label"], item_B) < probability_B
        features = FeatureBatch(user=user, item=item, item_to_user_B=torch.from_numpy(to_user_B))
        return _Rows(features, label_B.astype(np.float32), probability_B, user_U[to_user_B])


class _Rows(NamedTuple):
    """Features, labels, true probabilities and users of one batch."""

    features: FeatureBatch
    label_B: NDArray[np.float32]
    probability_B: Floats
    user_B: Ints


class _Teacher:
    """The planted effects of one side."""

    def __init__(self, config: SyntheticConfig, num_tables: int, stream: int) -> None:
        self._config, self._num_tables = config, num_tables
        rng = np.random.default_rng((config.seed, stream))
        shape = (num_tables, config.num_embeddings)
        # Popularity must not follow the row number, or neighbouring rows would share cache lines.
        self._id_of_rank = np.stack(
            [rng.permutation(config.num_embeddings) for _ in range(num_tables)]
        )
        tables_total = config.user_tables + config.item_tables
        scale = np.float32(config.effect_std / np.sqrt(tables_total))
        self._effect_FV = rng.standard_normal(shape, dtype=np.float32) * scale
        self._latent_FVR = rng.standard_normal((*shape, config.rank), dtype=np.float32)
        self._latent_FVR /= np.float32(np.sqrt(num_tables))
        weight_N = rng.standard_normal(config.dense_per_side)
        norm = np.linalg.norm(weight_N) if config.dense_per_side else 1.0
        self._weight_N = weight_N * config.dense_std / np.sqrt(2.0) / norm

    def rows(self, row_R: Ints, stream: int, bag_max: int) -> tuple[SideFeatures, Floats, Floats]:
        """Features, logit part and latent vectors of rows; table 0 holds up to `bag_max` ids."""
        config = self._config
        dense_RN = np.stack(
            [
                ndtri(_uniform(config.seed, stream + 16 + column, row_R))
                for column in range(config.dense_per_side)
            ]
            or [np.empty((0, len(row_R)))],
            axis=-1,
        ).reshape(len(row_R), config.dense_per_side)
        logit_R = dense_RN @ self._weight_N
        latent_RR = np.zeros((len(row_R), config.rank))
        width = bag_max + self._num_tables - 1
        id_RL = np.empty((len(row_R), width), dtype=np.int64)
        length_RF = np.ones((len(row_R), self._num_tables), dtype=np.int64)
        length_R = 1 + _index(_uniform(config.seed, stream + 31, row_R), bag_max)
        length_RF[:, 0] = length_R
        used_RL = np.ones((len(row_R), width), dtype=np.bool_)
        used_RL[:, :bag_max] = np.arange(bag_max) < length_R[:, None]
        for column in range(width):
            table = max(0, column - bag_max + 1)
            place_R = row_R * width + column
            rank_R = self._zipf_rank(_uniform(config.seed, stream + table, place_R))
            id_R = self._id_of_rank[table][rank_R]
            id_RL[:, column] = id_R
            # A bag adds up, as sum pooling does; scaled so that its spread is that of one id.
            scale_R = used_RL[:, column] / np.sqrt((1 + bag_max) / 2 if table == 0 else 1.0)
            logit_R += self._effect_FV[table][id_R] * scale_R
            latent_RR += self._latent_FVR[table][id_R] * scale_R[:, None]
        features = SideFeatures(
            dense_RN=torch.from_numpy(dense_RN.astype(np.float32)),
            values_L=torch.from_numpy(id_RL[used_RL]),
            offsets=torch.from_numpy(np.r_[0, np.cumsum(length_RF.reshape(-1))]),
        )
        return features, logit_R, latent_RR

    def _zipf_rank(self, uniform: Floats) -> Ints:
        """Popularity ranks from 0: the density x ** -exponent on [1, V + 1), cut to integers."""
        top, power = self._config.num_embeddings + 1.0, 1.0 - self._config.zipf_exponent
        if power == 0.0:
            value = top**uniform
        else:
            value = ((top**power - 1.0) * uniform + 1.0) ** (1.0 / power)
        return np.minimum(value.astype(np.int64), self._config.num_embeddings) - 1


def _index(uniform: Floats, count: int) -> Ints:
    """Uniform integers below `count`."""
    return (uniform * count).astype(np.int64)


def _uniform(seed: int, stream: int, index: Ints) -> Floats:
    """One number in (0, 1) per index, the same wherever and whenever it is asked for.

    Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014, as a counter-based generator.
    """
    mask = (1 << 64) - 1
    key = _mix(np.array([(seed * 0x9E3779B97F4A7C15 + stream + 1) & mask], dtype=np.uint64))
    bits = _mix(key ^ _mix(index.astype(np.uint64)))
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64; wraps around on purpose."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
