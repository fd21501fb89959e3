"""Random queries for whatever a server describes."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tests.unit.serving.served import served

from tailrank.core.errors import DataError, RequestError
from tailrank.serving.load_bodies import BodyPool
from tailrank.serving.load_queries import items_limit, read_ids
from tailrank.serving.openapi import CATEGORIES, describe
from tailrank.serving.rank_request import RequestLimits, parse_rank

LIMITS = RequestLimits(items_max=700)
DOCUMENT = describe([served()], LIMITS, with_token=False)
POOL = BodyPool(DOCUMENT, 700, seed=1)


def body(pool: BodyPool, choice: int, num_items: int) -> bytes:
    return b"".join(pool.body(choice, num_items))


@pytest.mark.parametrize("num_items", [1, 3, 699, 700])
@pytest.mark.parametrize("choice", [0, 511, 512, 2**31 - 1])
def test_the_server_understands_what_its_document_led_to(choice: int, num_items: int) -> None:
    asked = parse_rank(body(POOL, choice, num_items), [served()], LIMITS)
    assert asked.candidates.features(served()).num_items == num_items
    assert asked.deadline_ns is None


def test_bags_are_as_long_as_the_model_says_and_ids_are_spread() -> None:
    asked = parse_rank(body(POOL, 5, 700), [served()], LIMITS)
    item = asked.candidates.features(served()).item
    lengths = item.offsets.diff().reshape(-1, 2)  # movie, tags
    assert lengths[:, 0].tolist() == [1] * 700
    assert lengths[:, 1].double().mean() == pytest.approx(1.5, abs=0.1)
    assert item.values_L.unique().numel() > 300


def test_the_same_seed_asks_the_same_and_another_one_does_not() -> None:
    first, again, other = (body(BodyPool(DOCUMENT, 10, seed), 7, 5) for seed in (1, 1, 2))
    assert first == again != other


def test_users_and_candidates_differ_between_queries() -> None:
    asked = [json.loads(body(POOL, choice, 5)) for choice in (0, 1, 512)]
    assert asked[0]["user"] != asked[1]["user"]
    assert asked[0]["items"] == asked[1]["items"] != asked[2]["items"]


def test_known_categories_are_asked_for() -> None:
    described = {"mean_length": 1.0, "is_list": False, "whole_numbers_below": None}
    column = {CATEGORIES: {**described, "examples": ["de", "fr"]}}
    document = json.loads(json.dumps(DOCUMENT))
    schema = document["paths"]["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]
    rows = schema["schema"]["properties"]["items"]["oneOf"][0]["items"]
    rows["properties"] = {"country": column}
    asked = json.loads(body(BodyPool(document, 100, seed=0), 0, 100))
    assert set(asked["items"]["country"]) == {"de", "fr"}


TABLED = json.loads(json.dumps(DOCUMENT))
TABLED["paths"]["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"][
    "properties"
] |= {"user_id": {}, "unknown_ids": {}}
USER_IDS, ITEM_IDS = [7, 8, 9], [f"m{n}" for n in range(1000)]


def test_ids_stand_for_features() -> None:
    pool = BodyPool(TABLED, 700, seed=1, ids={"user": USER_IDS, "item": ITEM_IDS})
    asked = [json.loads(body(pool, choice, 40)) for choice in (0, 2**31 - 1)]
    for one in asked:
        assert set(one) == {"user_id", "item_ids"}
        assert one["user_id"] in USER_IDS
        assert len(one["item_ids"]) == 40
        assert set(one["item_ids"]) <= set(ITEM_IDS)
    assert asked[0]["item_ids"] != asked[1]["item_ids"]


def test_one_side_by_id_and_the_other_by_features() -> None:
    by_user = json.loads(body(BodyPool(TABLED, 9, 1, {"user": USER_IDS}), 5, 9))
    by_item = json.loads(body(BodyPool(TABLED, 9, 1, {"item": ITEM_IDS}), 5, 9))
    assert set(by_user) == {"user_id", "items"}
    assert set(by_item) == {"user", "item_ids"}
    assert len(by_item["item_ids"]) == len(by_user["items"]["movie"]) == 9


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_server_without_tables_takes_no_ids(side) -> None:
    with pytest.raises(RequestError, match=f"--{side}-features: the server has no feature table"):
        BodyPool(DOCUMENT, 9, 1, {side: [1]})


def test_ids_are_read_from_a_file_of_features(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    pl.DataFrame({"id": ["a", "b"], "n": [1, 2], "x": [0.5, 1.5]}).write_parquet(file)
    assert read_ids(file, "item") == ["a", "b"]
    assert read_ids(file, "item", "n") == [1, 2]
    with pytest.raises(DataError, match="holds no item ids"):
        read_ids(file, "item", "x")
    with pytest.raises(DataError, match="no such column; there are id, n, x"):
        read_ids(file, "item", "m")


def test_the_server_says_how_many_candidates_it_takes() -> None:
    assert items_limit(DOCUMENT) == 700


@pytest.mark.parametrize("document", [{}, {"paths": {"/v1/rank": {}}}, {"paths": []}])
def test_another_server_is_refused(document) -> None:
    with pytest.raises(RequestError, match="describes no POST /v1/rank"):
        items_limit(document)
