"""The user's side once for each part of a query, beside every item with features of its own.

DLRM-RMC1 with 6 of 8 tables on the user's side, and a DLRM on MovieLens-1M, whose users have a
profile and a history; 128 items of one user a part. `once` is the ranker's normal way. `all_items`
are items with a user each (the papers' setting), `copied` items that each carry a copy of the one
user, whose rows are then in the cache.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference_cases import Case, batch_of, draw_weights, tailrank_ranker
from inference_metrics import Figures, Floats
from tailrank.data.movielens import MovieLensConfig, MovieLensDataset
from tailrank.features import FeatureBatch, SideFeatures
from tailrank.inference import Ranker
from tailrank.models import build_model
from tailrank.models.dlrm import DLRM
from tailrank.models.presets import load_preset
from tailrank.training.recipe import recipe_for

ITEMS, USER_TABLES = 128, 6
# Largest difference of a score to that of copied users. The order of sums differs with the number
# of user rows; under fewer bits a sum near the edge of two codes may fall to either side.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3, "int8": 1e-3}
_POOL_ITEMS, _CALLS = 16_384, 5
NextBatch = Callable[[], FeatureBatch]


def movielens_folder() -> Path | None:
    """The published files, where they are."""
    data = os.environ.get("TAILRANK_DATA") or Path(__file__).parents[2] / "shared" / "data"
    folder = Path(data) / "movielens_1m"
    return folder if folder.is_dir() else None


def measure_rmc1(figures: Figures, scale: float, rounds: int) -> None:
    """RMC1 with users; `all_items` is the preset as the papers have it, of the same weights."""
    case = Case(preset="dlrm-rmc1", scale=scale, user_tables=USER_TABLES)
    model = case.model()
    papers = build_model(load_preset(case.preset, scale=scale), None).eval()
    assert isinstance(papers, DLRM)
    papers.load_state_dict(model.state_dict(), assign=True)
    rows, num_tables = case.pool("uniform"), len(model.config.spec.tables)
    values_RFL = rows.values_L.view(rows.num_rows, num_tables, -1)
    draw = Draw(
        user=_side(torch.empty(rows.num_rows, 0), values_RFL[:, :USER_TABLES]),
        item=_side(rows.dense_RN, values_RFL[:, USER_TABLES:]),
    )

    def all_items() -> FeatureBatch:
        return batch_of(rows, draw.row(rows.num_rows) // ITEMS, ITEMS)

    _measure(figures, "rmc1", (model, draw.once), (papers, all_items), rounds)


def measure_movielens(figures: Figures, folder: Path, rounds: int) -> None:
    """A DLRM of the recipe's sizes on real users and candidates; weights are drawn."""
    recipe = recipe_for("dlrm", "movielens")
    dim = recipe.data.embedding_dim
    dataset = MovieLensDataset(MovieLensConfig(path=folder, embedding_dim=dim))
    rows, _ = next(iter(dataset.batches(("test",), _POOL_ITEMS, shuffle_seed=0)))
    model = build_model(recipe.model_config(dataset), None).eval()
    assert isinstance(model, DLRM)
    draw_weights(model, 0)
    draw = Draw(user=rows.user, item=rows.item)

    def all_items() -> FeatureBatch:
        users = rows.user.rows(draw.row(rows.num_users - ITEMS), ITEMS)
        return dataclasses.replace(draw.once(), user=users, item_to_user_B=torch.arange(ITEMS))

    _measure(figures, "movielens", (model, draw.once), (model, all_items), rounds)


class Draw:
    """Draws parts: a user, and items that follow one another."""

    def __init__(self, user: SideFeatures, item: SideFeatures) -> None:
        self._user, self._item = user, item
        self._random = np.random.default_rng(0)

    def row(self, count: int) -> int:
        """A number from 0 to below `count`."""
        return int(self._random.integers(count))

    def once(self) -> FeatureBatch:
        """The next part, with its user once."""
        return FeatureBatch(
            user=self._user.rows(self.row(self._user.num_rows), 1),
            item=self._item.rows(self.row(self._item.num_rows - ITEMS), ITEMS),
            item_to_user_B=torch.zeros(ITEMS, dtype=torch.int64),
        )


def copied(batch: FeatureBatch) -> FeatureBatch:
    """The same items, each with a copy of the user."""
    users = SideFeatures.concat([batch.user] * ITEMS)
    return dataclasses.replace(batch, user=users, item_to_user_B=torch.arange(ITEMS))


def _measure(
    figures: Figures,
    name: str,
    with_users: tuple[DLRM, NextBatch],
    papers: tuple[DLRM, NextBatch],
    rounds: int,
) -> None:
    """The ways in turns in every precision, each on batches of its own; CPU time of this thread."""
    model, once = with_users
    for precision, tolerance in TOLERANCE.items():
        with tempfile.TemporaryDirectory() as folder:
            ranker = tailrank_ranker(model, precision, folder)
            papers_ranker = tailrank_ranker(papers[0], precision, folder)
        part = once()
        difference = float((ranker.rank(part) - ranker.rank(copied(part))).abs().max())
        assert difference <= tolerance, f"{name} {precision}: {difference} from copies"
        ways: dict[str, tuple[Ranker, NextBatch]] = {
            "once": (ranker, once),
            "copied": (ranker, lambda: copied(once())),
            "all_items": (papers_ranker, papers[1]),
        }
        times = _times(ways, rounds)
        for key, values in times.items():
            us = float(np.median(values))
            figures.metrics[f"us.{name}_user_{key}.b{ITEMS}.tailrank_{precision}"] = us
        ratios = [times["all_items"] / times["once"]], [times["copied"] / times["once"]]
        suffixes = (f".{precision}", "") if precision == "fp32" else (f".{precision}",)
        for suffix in suffixes:
            figures.add(f"user_once_speedup.{name}{suffix}", ratios[0])
            figures.add(f"user_once_speedup_over_copies.{name}{suffix}", ratios[1])


def _times(ways: Mapping[str, tuple[Ranker, NextBatch]], rounds: int) -> dict[str, Floats]:
    """Microseconds of each way, one number a round."""
    times = {key: np.empty(rounds) for key in ways}
    for number in range(rounds):
        for key, (ranker, next_batch) in ways.items():
            first, *batches = (next_batch() for _ in range(_CALLS + 1))
            ranker.rank(first)
            samples = []
            for batch in batches:
                started = time.thread_time_ns()
                ranker.rank(batch)
                samples.append((time.thread_time_ns() - started) / 1e3)
            times[key][number] = np.median(samples)
    return times


def _side(dense_RN: Tensor, values_RFL: Tensor) -> SideFeatures:
    """Rows with equal bags."""
    num_bags, bag_ids = values_RFL.shape[0] * values_RFL.shape[1], values_RFL.shape[2]
    return SideFeatures(
        dense_RN=dense_RN,
        values_L=values_RFL.flatten(),
        offsets=torch.arange(num_bags + 1) * bag_ids,
    )
