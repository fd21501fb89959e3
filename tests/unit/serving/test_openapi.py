"""The document describes what the interface does."""

from dataclasses import asdict, fields
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.serving.served import engine_of, served
from tests.unit.serving.test_http import COLUMNS, LIMITS, USER
from tests.unit.serving.test_open_inference import ARRAYS, INFER, as_json

from tailrank.serving.http import build_app
from tailrank.serving.live_page import now
from tailrank.serving.openapi import describe
from tailrank.serving.recent import RecentSeconds, StageSecond

MODEL = "/v2/models/{name}"
VERSIONS, RESTS = ("", "/versions/{version}"), ("", "/ready", "/infer")


def test_the_features_of_the_model_are_all_there() -> None:
    document = describe([served()], LIMITS, with_token=False)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        *("/v1/rank", "/health/live", "/health/ready", "/metrics", "/openapi.json"),
        *("/v1/stats", "/"),
        *("/v2", "/v2/health/live", "/v2/health/ready"),
        *(f"/v2/models/{{name}}{version}{rest}" for version in VERSIONS for rest in RESTS),
    }
    operation = document["paths"]["/v1/rank"]["post"]
    assert {"200", "400", "413", "429", "500", "503"} <= operation["responses"].keys()
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["items", "user"]
    assert set(schema["properties"]) == {"user", "items", "item_ids", "top_k", "deadline_ms"}
    assert set(schema["properties"]["user"]["properties"]) == set(USER)
    rows, columns = schema["properties"]["items"]["oneOf"]
    assert set(rows["items"]["properties"]) == set(columns["properties"]) == set(COLUMNS)
    assert rows["maxItems"] == LIMITS.items_max
    assert "0 to 999" in rows["items"]["properties"]["movie"]["description"]
    assert "security" not in document


def test_the_state_of_the_server_is_described_as_it_is_told() -> None:
    document = describe([served()], LIMITS, with_token=False)
    operation = document["paths"]["/v1/stats"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    engine = engine_of()
    engine.start()
    recent = RecentSeconds(engine)
    recent.take()
    engine.drain()
    (second,) = recent.since(0.0)
    assert set(schema["properties"]["seconds"]["items"]["properties"]) == set(asdict(second))
    assert {*now(engine), "seconds"} >= set(schema["required"])
    stage = schema["properties"]["seconds"]["items"]["properties"]["stages"]["items"]
    assert set(stage["properties"]) == {field.name for field in fields(StageSecond)}


def test_values_are_described_as_they_are_taken() -> None:
    content = describe([served()], LIMITS, with_token=False)["paths"]["/v1/rank"]["post"]
    schema = content["requestBody"]["content"]["application/json"]["schema"]["properties"]
    rows = {n: {"type": "integer", "minimum": 0, "maximum": n - 1} for n in (1000, 50)}
    item = schema["items"]["oneOf"][0]["items"]["properties"]
    # What is one row has to be there; what is a list of them may be missing.
    assert item["movie"]["anyOf"] == [
        rows[1000],
        {"type": "array", "items": {"anyOf": [rows[1000]]}},
    ]
    assert {"type": "null"} in item["tags"]["anyOf"]
    assert rows[50] in item["tags"]["anyOf"]
    for key in ("top_k", "deadline_ms", "item_ids"):
        assert "null" in schema[key]["type"]


def test_every_path_is_there_and_answers_as_described() -> None:
    engine = engine_of()
    engine.start()
    with TestClient(build_app(engine, LIMITS), raise_server_exceptions=False) as client:
        document = client.get("/openapi.json").json()
        for path, operations in document["paths"].items():
            known = {"name": "plain", "version": "0123456789ab"}
            for place in operations.get("parameters", []):
                assert place["schema"]["enum"] == [known[place["name"]]]
            if "get" in operations:
                answer = client.get(path.format(**known))
                told = operations["get"]["responses"]["200"]["content"]
                media = answer.headers["content-type"].split(";")[0]
                assert (answer.status_code, media in told) == (200, True), path
                assert_has(told[media].get("schema", {}), answer)
        operation = document["paths"][f"{MODEL}/infer"]["post"]
        answer = client.post(INFER, json=as_json() | {"id": "7"})
        assert_has(operation["responses"]["200"]["content"]["application/json"]["schema"], answer)
        unknown = client.post(INFER.replace("plain", "other"), json=as_json())
        assert unknown.status_code == 404
        assert_has(operation["responses"]["404"]["content"]["application/json"]["schema"], unknown)
    engine.drain()
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    names = schema["properties"]["inputs"]["items"]["properties"]["name"]["enum"]
    assert set(names) == set(ARRAYS)
    assert "application/octet-stream" in operation["requestBody"]["content"]


def assert_has(schema: dict[str, Any], answer: Any) -> None:
    """An answer has the keys that are described as required."""
    if schema.get("type") == "object":
        assert set(schema.get("required", ())) <= answer.json().keys()


@pytest.mark.parametrize(("changes", "keys"), [("by name", set()), ("any in a folder", {"path"})])
def test_changes_of_models_are_described_as_they_may_be_asked_for(changes, keys) -> None:
    document = describe([served()], LIMITS, with_token=False, changes=changes)
    assert "/v2/repository/index" in document["paths"]
    load = document["paths"]["/v2/repository/models/{name}/load"]["post"]
    assert {"200", "400", "403", "404", "409"} <= load["responses"].keys()
    schema = load["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert schema["parameters"]["properties"].keys() == keys
