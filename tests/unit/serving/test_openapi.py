"""The document describes what the interface does."""

from dataclasses import asdict, fields

from tests.unit.serving.served import engine_of, served
from tests.unit.serving.test_http import COLUMNS, LIMITS, USER

from tailrank.serving.live_page import now
from tailrank.serving.openapi import describe
from tailrank.serving.recent import RecentSeconds, StageSecond


def test_the_features_of_the_model_are_all_there() -> None:
    document = describe([served()], LIMITS, with_token=False)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        *("/v1/rank", "/health/live", "/health/ready", "/metrics", "/openapi.json"),
        *("/v1/stats", "/"),
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
