"""The document describes what the interface does."""

from tests.unit.serving.served import served
from tests.unit.serving.test_http import COLUMNS, LIMITS, USER

from tailrank.serving.openapi import describe


def test_the_features_of_the_model_are_all_there() -> None:
    document = describe([served()], LIMITS, with_token=False)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        *("/v1/rank", "/health/live", "/health/ready", "/metrics", "/openapi.json")
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
