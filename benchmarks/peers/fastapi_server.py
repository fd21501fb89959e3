"""A ranking server as people first write it: FastAPI, pydantic models, eager PyTorch.

It takes the requests of ours, finds their features in dictionaries and tensors in memory, and
scores by `nn.EmbeddingBag` modules with the weights that ours has.

    python benchmarks/peers/fastapi_server.py --users u.parquet --items i.parquet --port 8001
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peers.eager_model import EagerModel
from server_case import ID, PRESET, SCALE, SEED, USER_TABLES
from tailrank.features import FeatureBatch, FeatureSpec, Side, SideFeatures
from tailrank.models import build_model
from tailrank.models.presets import load_preset


class Question(BaseModel):
    """A user and candidates by ids."""

    user_id: int
    item_ids: list[int]


class Item(BaseModel):
    """An item of the answer."""

    id: int
    score: float


class Answer(BaseModel):
    """All candidates, best first."""

    items: list[Item]


class FeatureStore:
    """Features of one side by id: a row of numbers and one of ids, a bag after the other.

    Args:
        spec: the features of the model.
        side: which.
        path: a Parquet file of `server_case.write_features`.
    """

    def __init__(self, spec: FeatureSpec, side: Side, path: Path) -> None:
        frame = pl.read_parquet(path)
        features = [feature for feature in spec.features if feature.side == side]
        kinds: dict[bool, list[Tensor]] = {True: [], False: []}
        for feature in features:
            kinds[feature.kind == "dense"].append(torch.tensor(frame[feature.name].to_numpy()))
        self.row_of = {each: row for row, each in enumerate(frame[ID].to_list())}
        self._ids_RL = torch.cat(kinds[False], dim=1)
        self._dense_RN = torch.cat(kinds[True] or [torch.empty(len(frame), 0)], dim=1)
        # Every bag of this model holds equally many ids.
        self._bag_size = kinds[False][0].shape[1]

    def features(self, ids: Sequence[int]) -> SideFeatures:
        """The features of ids that are known."""
        row_B = torch.tensor([self.row_of[each] for each in ids])
        values_L = self._ids_RL[row_B].flatten()
        return SideFeatures(
            dense_RN=self._dense_RN[row_B],
            values_L=values_L,
            offsets=torch.arange(0, len(values_L) + 1, self._bag_size),
        )


class EagerServer:
    """Answers questions by eager modules.

    Args:
        users: their features, a Parquet file.
        items: likewise.
    """

    def __init__(self, users: Path, items: Path) -> None:
        config = load_preset(PRESET, scale=SCALE, user_tables=USER_TABLES)
        self._users = FeatureStore(config.spec, "user", users)
        self._items = FeatureStore(config.spec, "item", items)
        self._model = EagerModel(build_model(config, SEED).eval())

    def rank(self, user_id: int, item_ids: Sequence[int]) -> dict[str, Any]:
        """All items with their scores, best first."""
        return self.rank_many([(user_id, item_ids)])[0]

    def rank_many(self, asked: Sequence[tuple[int, Sequence[int]]]) -> list[dict[str, Any]]:
        """The same for several users and their items, in one call of the model."""
        sizes = torch.tensor([len(item_ids) for _, item_ids in asked])
        batch = FeatureBatch(
            user=self._users.features([user_id for user_id, _ in asked]),
            item=self._items.features([each for _, item_ids in asked for each in item_ids]),
            item_to_user_B=torch.arange(len(asked)).repeat_interleave(sizes),
        )
        scores_B = self._model.rank(self._model.split(batch))
        answers = []
        for (_, item_ids), scores in zip(asked, scores_B.split(sizes.tolist()), strict=True):
            best = torch.sort(scores, descending=True)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            answers.append(
                {"items": [{"id": item_ids[place], "score": score} for place, score in pairs]}
            )
        return answers


def arguments_of(description: str | None) -> argparse.Namespace:
    """What a server is told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--users", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of(__doc__)
    server = EagerServer(arguments.users, arguments.items)
    app = FastAPI()

    # Not a coroutine: FastAPI runs it on a thread, and PyTorch on as many as it likes.
    @app.post("/v1/rank")
    def rank(question: Question) -> Answer:
        return Answer(**server.rank(question.user_id, question.item_ids))

    @app.get("/health/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    uvicorn.run(app, port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
