"""Requests that bring ids in place of features are answered alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from starlette.testclient import TestClient
from tests.unit.serving.served import SPEC, PlainRanker, engine_of, row_ids_and_unknown, served

from tailrank.cli import main
from tailrank.core.errors import RequestError
from tailrank.data.row_encoder import row_ids
from tailrank.features import FeatureSpec
from tailrank.serving.http import build_app
from tailrank.serving.model import FeatureFile, ServedModel, with_tables
from tailrank.serving.rank_request import RequestLimits

USERS = [{"user": 10 * n, "age": float(n), "seen": list(range(n % 3))} for n in range(9)]
ITEMS = [
    {"id": f"m{n}", "movie": n * 37 % 101, "tags": list(range(n % 4)), "sizes": [n / 2, 1.0]}
    for n in range(60)
]


def files(folder: Path) -> list[FeatureFile]:
    pl.DataFrame(USERS).write_parquet(folder / "users.parquet")
    # The ids need not be the first column.
    pl.DataFrame(ITEMS).select("tags", "id", "movie", "sizes").write_parquet(folder / "items.pq")
    return [
        FeatureFile(side="user", path=folder / "users.parquet"),
        FeatureFile(side="item", path=folder / "items.pq", id_column="id"),
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("tables")
    plain = replace(served(), encoder=row_ids_and_unknown(SPEC))
    (model,) = with_tables({str(folder / "model/"): plain}, files(folder), lambda line: None)
    assert len(list((folder / "model.tables").iterdir())) == 2
    return model


@pytest.fixture(scope="module")
def client(model: ServedModel) -> Iterator[TestClient]:
    engine = engine_of(model)
    engine.start()
    app = build_app(engine, RequestLimits(items_max=50))
    yield TestClient(app, raise_server_exceptions=False)
    engine.drain()


def ranked(client: TestClient, **body: Any) -> Any:
    answer = client.post("/v1/rank", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def features(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key not in ("id", "user")} for row in rows]


def inferred(client: TestClient, *inputs: dict[str, Any], **parameters: Any) -> Any:
    body = {"inputs": list(inputs), "parameters": parameters}
    return client.post("/v2/models/plain/infer", json=body)


def named(name: str, datatype: str, *data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": list(data)}


def test_ids_come_as_tensors_too(client: TestClient, model: ServedModel) -> None:
    chosen = [ITEMS[n] for n in (3, 50, 7, 7, 0)]
    ids = [row["id"] for row in chosen]
    scores = {one["id"]: one["score"] for one in ranked(client, user_id=40, item_ids=ids)}
    items = named("known.item_ids", "BYTES", *ids)
    for datatype in ("INT64", "INT32", "UINT64", "UINT8"):
        answer = inferred(client, named("known.user_id", datatype, 40), items)
        assert answer.status_code == 200, answer.text
        (output,) = answer.json()["outputs"]
        assert output["data"] == [scores[one] for one in ids]
    told = {one["name"]: one for one in client.get("/v2/models/plain").json()["inputs"]}
    assert told["known.user_id"] == {"name": "known.user_id", "datatype": "INT64", "shape": [1]}
    assert told["known.item_ids"] == {"name": "known.item_ids", "datatype": "BYTES", "shape": [-1]}
    # One side by its ids, the other one by its features.
    user = [named("age", "FP32", 4.0), named("seen.values", "INT64", 0)]
    user += [named("seen.lengths", "INT64", 1)]
    answer = inferred(client, *user, items)
    assert answer.json()["outputs"][0]["data"] == [scores[one] for one in ids]


WHOLE = named("known.user_id", "INT64", 40), named("known.item_ids", "BYTES", "m1", "m2")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((WHOLE[0],), "movie"),
        ((WHOLE[1],), "age"),
        ((named("known.user_id", "INT64", 40, 50), WHOLE[1]), "known.user_id: shape"),
        ((named("known.user_id", "INT64"), WHOLE[1]), "known.user_id: shape"),
        ((named("known.user_id", "INT64", 41), WHOLE[1]), "not in the feature table: 41"),
        ((named("known.user_id", "UINT64", 2**64 - 1), WHOLE[1]), f"feature table: {2**64 - 1}"),
        ((named("known.user_id", "FP32", 40.0), WHOLE[1]), "a whole number, as in the feature"),
        ((named("known.user_id", "BOOL", True), WHOLE[1]), "a whole number, as in the feature"),
        ((named("known.user_id", "BYTES", "40"), WHOLE[1]), "a whole number, as in the feature"),
        (
            (WHOLE[0], named("known.item_ids", "INT64", 1)),
            r"known.item_ids[0]: got 1; allowed: a t",
        ),
        ((WHOLE[0], named("known.item_ids", "BYTES", "m1", "x", "y")), "'x', 'y'; "),
        ((WHOLE[0], named("known.item_ids", "BYTES")), "0 candidates"),
        ((WHOLE[0], named("known.item_ids", "BYTES", *["m1"] * 51)), "51 candidates"),
        ((*WHOLE, named("movie", "INT64", 1, 2)), "stands for all item features; leave movie out"),
        ((*WHOLE, named("seen.lengths", "INT64", 1)), "leave seen.lengths out"),
        ((*WHOLE, named("known.item_id", "INT64", 1)), "no such input; there are age, seen, "),
    ],
)
def test_bad_tensors_of_ids_are_named(client: TestClient, inputs: Any, message: str) -> None:
    answer = inferred(client, *inputs)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_unknown_ids_of_tensors_may_have_the_default_row(client: TestClient) -> None:
    ids = ["m3", "nobody"]
    asked = {"user_id": 999, "item_ids": ids, "unknown_ids": "default"}
    scores = {one["id"]: one["score"] for one in ranked(client, **asked)}
    inputs = named("known.user_id", "INT32", 999), named("known.item_ids", "BYTES", *ids)
    answer = inferred(client, *inputs, unknown_ids="default").json()
    assert answer["outputs"][0]["data"] == [scores[one] for one in ids]
    assert "feature table: 999" in inferred(client, *inputs, unknown_ids="error").json()["error"]
    assert "error or default" in inferred(client, *inputs, unknown_ids=1).json()["error"]


def test_a_server_without_tables_takes_no_tensors_of_ids() -> None:
    engine = engine_of(served())
    engine.start()
    with TestClient(build_app(engine), raise_server_exceptions=False) as client:
        answer = inferred(client, *WHOLE)
    engine.drain()
    assert answer.status_code == 400
    assert "known.user_id: no such input" in answer.json()["error"]


def test_ids_are_as_good_as_features(client: TestClient) -> None:
    chosen = [ITEMS[n] for n in (3, 50, 7, 7, 0)]
    ids = [row["id"] for row in chosen]
    (user,) = features([USERS[4]])
    by_features = ranked(client, user=user, items=features(chosen), item_ids=ids)
    assert len(by_features) == 5
    for other in (
        {"user_id": 40, "item_ids": ids},
        {"user": user, "item_ids": ids},
        {"user_id": 40, "items": features(chosen), "item_ids": ids},
    ):
        assert ranked(client, **other) == by_features


def test_unknown_ids_are_refused_or_stand_for_nobody(client: TestClient) -> None:
    asked = {"user_id": 41, "item_ids": ["m1", "new"]}
    answer = client.post("/v1/rank", json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "user_id"
    assert "not in the feature table: 41" in answer.json()["error"]["reason"]
    answer = client.post("/v1/rank", json=asked | {"user_id": 40})
    assert "'new'" in answer.json()["error"]["reason"]
    found = ranked(client, **asked, unknown_ids="default")
    nobody = {"movie": 0, "tags": [], "sizes": [0.0, 0.0]}
    items = [*features([ITEMS[1]]), nobody]
    plain = ranked(client, user={"age": 0.0, "seen": []}, items=items, item_ids=["m1", "new"])
    assert found == plain


def test_a_model_of_table_rows_ranks_no_unknown_ids(tmp_path: Path) -> None:
    (model,) = with_tables({str(tmp_path / "model/"): served()}, files(tmp_path), lambda line: None)
    engine = engine_of(model)
    engine.start()
    with TestClient(build_app(engine), raise_server_exceptions=False) as client:
        asked = {"item_ids": ["m1", "new"], "unknown_ids": "default"}
        answer = client.post("/v1/rank", json=asked | {"user_id": 40})
        assert answer.status_code == 400
        assert answer.json()["error"]["field"] == "item_ids"
        assert "'new'; there is no default row" in answer.json()["error"]["reason"]
        # A user of whom nothing is known has no list and zeros.
        nobody = ranked(client, user_id=41, item_ids=["m1"], unknown_ids="default")
        items = features([ITEMS[1]])
        plain = ranked(client, user={"age": 0.0, "seen": []}, items=items, item_ids=["m1"])
        assert nobody == plain
    engine.drain()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user_id": "40", "item_ids": ["m1"]}, "user_id"),
        ({"user_id": {"a": 1}, "item_ids": ["m1"]}, "user_id"),
        ({"user_id": 40, "user": {}, "item_ids": ["m1"]}, "user_id"),
        ({"item_ids": ["m1"]}, "user.age"),
        ({"user_id": 40}, "items"),
        ({"user_id": 40, "item_ids": []}, "item_ids"),
        ({"user_id": 40, "item_ids": "m1"}, "item_ids"),
        ({"user_id": 40, "item_ids": ["m1"] * 51}, "item_ids"),
        ({"user_id": 40, "item_ids": ["m1", 2]}, "item_ids[1]"),
        ({"user_id": 40, "item_ids": ["m1", [2]]}, "item_ids[1]"),
        ({"user_id": 40, "item_ids": ["m1"], "unknown_ids": "drop"}, "unknown_ids"),
        ({"user_id": 40, "item_ids": ["m1"], "unknown_ids": []}, "unknown_ids"),
    ],
)
def test_bad_ids_are_named(client: TestClient, body: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/rank", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_without_tables_ids_stand_for_nothing() -> None:
    engine = engine_of()
    engine.start()
    client = TestClient(build_app(engine), raise_server_exceptions=False)
    for body, field in (
        ({"user_id": 1, "items": features(ITEMS[:1])}, "user_id"),
        ({"user": features(USERS[:1])[0], "item_ids": ["m1"]}, "items"),
    ):
        answer = client.post("/v1/rank", json=body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    engine.drain()


def test_the_document_says_what_stands_for_what(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    schema = paths["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"user_id", "unknown_ids", "item_ids"} <= schema["properties"].keys()
    assert schema["required"] == []
    assert {"required": ["item_ids"]} in schema["anyOf"]


def test_files_that_no_model_reads_are_refused(tmp_path: Path) -> None:
    spec = FeatureSpec(features=SPEC.features[2:], tables=SPEC.tables)
    items_only = replace(served(PlainRanker()), spec=spec, encoder=row_ids(spec))
    with pytest.raises(RequestError, match="--user-features: the model has no user features"):
        with_tables({"m": items_only}, files(tmp_path), lambda line: None)


def test_bad_flags_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "preset:ncf", "--scale", "0.0001", "--sla", "p99=1s", "--port", "0"]
    for flags, said in (
        (["--item-id-column", "id"], "--item-id-column: goes with --item-features"),
        (["--item-features", "items.csv"], "--item-features: got 'items.csv'; allowed: a Parquet"),
        (["--item-features", str(tmp_path / "no.parquet")], "no.parquet: no such file"),
    ):
        assert main([*words, *flags]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.splitlines()[-1].startswith("tailrank: error: ")
