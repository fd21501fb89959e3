"""What is loaded answers as the trained model does, to raw values of its training file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from tests.unit.data.table_files import in_order, make_rows, open_file, write_parquet
from tests.unit.serving.served import engine_of

from tailrank.characterization.target import TargetConfig
from tailrank.core.errors import DataError
from tailrank.data.dataset import SPLITS
from tailrank.inference.artifact import save_artifact
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig
from tailrank.serving.http import build_app
from tailrank.serving.model import open_model


def nobody(text: str) -> None:
    """Takes what is announced."""


def save(folder: Path, dataset: Any, seed: int = 0) -> Path:
    folder.mkdir()
    config = DLRMConfig.for_spec(dataset.spec, bottom_mlp=(8,), top_mlp=(8,))
    training = {"data": "table", "fitted_fingerprint": dataset.fitted_fingerprint}
    save_artifact(folder, build_model(config, seed=seed), training=training)
    dataset.save_fitted(folder)
    return folder


def test_rows_of_the_training_file_get_the_scores_that_the_model_gives_them(tmp_path: Path) -> None:
    rows = make_rows(num_queries=12)
    dataset = open_file(write_parquet(tmp_path / "t.parquet", rows), embedding_dim=8)
    folder = save(tmp_path / "model", dataset)
    model = open_model(TargetConfig(target=str(folder)), nobody)
    assert model.name == "model"
    ((batch, _),) = dataset.batches(SPLITS, 1 << 20)
    expected = model.ranker.rank(batch).tolist()
    engine = engine_of(model, batch_items_max=3)
    engine.start()
    client = TestClient(build_app(engine))
    found = []
    for query in in_order(rows):
        user = {name: query[0][name] for name in ("user", "age", "seen")}
        items = [{n: row[n] for n in ("item", "price", "rank", "tag", "hour")} for row in query]
        answer = client.post("/v1/rank", json={"user": user, "items": items}).json()
        assert answer["model_version"] == model.version
        found += [item["score"] for item in sorted(answer["items"], key=lambda item: item["id"])]
    engine.drain()
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_version_is_of_the_weights(tmp_path: Path) -> None:
    dataset = open_file(write_parquet(tmp_path / "t.parquet", make_rows(20)), embedding_dim=8)
    one, same, other = (
        open_model(TargetConfig(target=str(save(tmp_path / name, dataset, seed))), nobody)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one.version == same.version != other.version
    (one_of, two_of) = (
        open_model(TargetConfig(target="preset:ncf", scale=1e-4, seed=seed), nobody)
        for seed in (0, 1)
    )
    assert one_of.version != two_of.version


def test_a_folder_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    dataset = open_file(write_parquet(tmp_path / "t.parquet", make_rows(20)), embedding_dim=8)
    folder = save(tmp_path / "model", dataset)
    (folder / "schema.toml").unlink()
    with pytest.raises(DataError, match=r"schema\.toml"):
        open_model(TargetConfig(target=str(folder)), nobody)


def test_a_random_query_is_one_that_the_model_takes() -> None:
    model = open_model(TargetConfig(target="preset:din", scale=1e-4), nobody)
    query = model.random_query(5, seed=3)
    query.check(model.spec)
    assert torch.equal(query.item.values_L, model.random_query(5, seed=3).item.values_L)
    assert model.ranker.rank(query).shape == (5,)
    assert model.time_ns(5) > 0
