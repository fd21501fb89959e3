"""Random queries as tensors: the same ones that are asked as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.serving.served import SPEC, served

from tailrank.core.errors import RequestError
from tailrank.data.row_encoder import CategoryColumn, NumberColumns, RowEncoder
from tailrank.features import Feature, FeatureSpec, TableSpec
from tailrank.serving.load_bodies import BodyPool
from tailrank.serving.load_tensors import TensorPool, binary_body
from tailrank.serving.model import ServedModel
from tailrank.serving.open_inference import describe_model, parse_infer
from tailrank.serving.openapi import describe
from tailrank.serving.rank_request import RequestLimits, parse_rank
from tailrank.serving.tensors import candidates_of

LIMITS = RequestLimits(items_max=700)


def pools(model: ServedModel, items_max: int = 700) -> tuple[BodyPool, TensorPool]:
    document = json.loads(json.dumps(describe([model], LIMITS, with_token=False)))
    tensors = TensorPool(document, describe_model(model), items_max, seed=1)
    return BodyPool(document, items_max, seed=1), tensors


def assert_same_query(model: ServedModel, choice: int, num_items: int, pair) -> None:
    bodies, tensors = pair
    asked = parse_rank(b"".join(bodies.body(choice, num_items)), [model], LIMITS)
    pieces, header_length = binary_body(tensors.tensors(choice, num_items))
    infer = parse_infer(b"".join(pieces), str(header_length), model, LIMITS)
    assert infer.outputs == {"score": True}
    by_json, by_tensors = (
        asked.candidates.features(model),
        candidates_of(infer.tensors, model, LIMITS).features(model),
    )
    for side in ("user", "item"):
        one, other = getattr(by_json, side), getattr(by_tensors, side)
        assert torch.equal(one.values_L, other.values_L)
        assert torch.equal(one.offsets, other.offsets)
        assert torch.equal(one.dense_RN, other.dense_RN)


@pytest.mark.parametrize(
    ("ids", "datatype"),
    [
        (list(range(90)), "INT32"),
        ([2**31, *range(89)], "INT64"),
        (list(map(str, range(90))), "BYTES"),
    ],
)
def test_ids_are_written_as_short_as_they_are(ids: list, datatype: str) -> None:
    table = {"datatype": "BYTES" if datatype == "BYTES" else "INT64"}
    names = {"user": "known.user_id", "item": "known.item_ids"}
    metadata = {"inputs": [{"name": name, "shape": [1], **table} for name in names.values()]}
    document = json.loads(json.dumps(describe([served()], LIMITS, with_token=False)))
    body = document["paths"]["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]
    known: dict = {"user_id": {}, "item_ids": {}, "unknown_ids": {}}
    body["schema"]["properties"] |= known
    pool = TensorPool(document, metadata, 50, 1, {"user": ids, "item": ids})
    bodies = BodyPool(document, 50, 1, {"user": ids, "item": ids})
    for choice in (0, 12345):
        user, items = pool.tensors(choice, 50)
        assert (user.name, user.datatype, user.shape) == ("known.user_id", datatype, [1])
        assert (items.name, items.datatype, items.shape) == ("known.item_ids", datatype, [50])
        pieces, length = binary_body([user, items])
        raw = b"".join(pieces)[length:]
        asked = json.loads(b"".join(bodies.body(choice, 50)))
        if datatype != "BYTES":
            kind = "<i4" if datatype == "INT32" else "<i8"
            assert np.frombuffer(raw, kind).tolist() == [asked["user_id"], *asked["item_ids"]]
    with pytest.raises(RequestError, match=r"user-features: its model names no input known.user"):
        TensorPool(document, {"inputs": []}, 50, 1, {"user": ids, "item": ids})
    numbers = [{"name": name, "shape": [1], "datatype": "INT64"} for name in names.values()]
    for strange in (["7", "8"], [7, 2**63], [7, 8.5]):
        with pytest.raises(RequestError, match=r"user-features: the server's ids are whole num"):
            TensorPool(document, {"inputs": numbers}, 50, 1, {"user": strange, "item": strange})


PAIR = pools(served())


@pytest.mark.parametrize("num_items", [1, 3, 700])
@pytest.mark.parametrize("choice", [0, 512, 2**31 - 1])
def test_tensors_hold_the_query_that_the_body_holds(choice: int, num_items: int) -> None:
    assert_same_query(served(), choice, num_items, PAIR)


def test_texts_lists_of_one_and_columns_of_both_sides() -> None:
    spec = FeatureSpec(
        features=(
            Feature(name="home", side="user", kind="bag", table="place"),
            Feature(name="shop", side="item", kind="bag", table="place"),
            Feature(name="price", side="item", kind="dense"),
        ),
        tables=(TableSpec(name="place", num_embeddings=9, embedding_dim=4),),
    )
    known = ("Aa", "Ü", "")

    def ids(values):
        return np.array([known.index(value) for value in values], dtype=np.int64)

    # Of one a row on average more than that, though it is no list: both sides call it `town`.
    town = CategoryColumn(column="town", ids=ids, allowed="a town", known=known, mean_length=1.5)
    sources = {
        "home": replace(town, mean_length=1.0),
        "shop": town,
        "price": NumberColumns(columns=("price",)),
    }
    model = replace(served(), spec=spec, encoder=RowEncoder(spec, sources))
    pair = pools(model, 50)
    names = [tensor.name for tensor in pair[1].tensors(0, 2)]
    assert names == ["user.town", "town.values", "town.lengths", "price"]
    for choice in (0, 700, 12345):
        assert_same_query(model, choice, 50, pair)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({}, "names no inputs"), ({"inputs": [3]}, "names no inputs"), ({"inputs": []}, "other")],
)
def test_another_server_is_refused(metadata, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TensorPool(describe([served()], LIMITS, with_token=False), metadata, 10, 0)


def test_inputs_of_another_stage_are_left_out() -> None:
    other = describe_model(served())
    other["inputs"] = [one for one in other["inputs"] if one["name"] == "movie"]
    pool = TensorPool(describe([served()], LIMITS, with_token=False), other, 10, 0)
    (tensor,) = pool.tensors(0, 4)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("movie", "INT64", [4])
    assert len(tensor.raw) == 32
    assert SPEC.table("movie").num_embeddings > np.frombuffer(tensor.raw, "<i8").max()
