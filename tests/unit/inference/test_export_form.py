"""The inputs of exported models."""

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.inference.export_form import ExportForm, describe, inputs_of, named_tensors
from tailrank.inference.precision import Precision
from tailrank.inference.torch_export import capture
from tailrank.models import build_model
from tailrank.models.registry import config_for

TABLE = TableSpec(name="t", num_embeddings=9, embedding_dim=4)


def bag(name: str, side: str) -> Feature:
    return Feature(name=name, side=side, kind="bag", table="t")


def one_id_each(ids: list[int]) -> SideFeatures:
    return SideFeatures(
        dense_RN=torch.zeros(len(ids), 0),
        values_L=torch.tensor(ids, dtype=torch.int64),
        offsets=torch.arange(len(ids) + 1),
    )


SPEC = FeatureSpec(
    features=(
        bag("seen", "user"),
        Feature(name="price", side="item", kind="dense", width=2),
        bag("item id", "item"),
        bag("country", "user"),
        Feature(name="age", side="item", kind="dense"),
    ),
    tables=(TABLE,),
)


def test_a_batch_by_name() -> None:
    batch = FeatureBatch(
        user=SideFeatures(  # seen and country of each user
            dense_RN=torch.zeros(2, 0),
            values_L=torch.tensor([1, 2, 3, 4, 5]),
            offsets=torch.tensor([0, 2, 3, 3, 5]),
        ),
        item=SideFeatures(
            dense_RN=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]),
            values_L=torch.tensor([6, 7, 8]),
            offsets=torch.tensor([0, 1, 1, 3]),
        ),
        item_to_user_B=torch.tensor([0, 1, 1]),
    )
    tensors = named_tensors(batch, SPEC)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "seen": [1, 2],
        "seen.offsets": [0, 2, 2],
        "price": [[1.0, 2.0], [4.0, 5.0], [7.0, 8.0]],
        "item id": [6, 7, 8],
        "item id.offsets": [0, 1, 1, 3],
        "country": [3, 4, 5],
        "country.offsets": [0, 1, 3],
        "age": [[3.0], [6.0], [9.0]],
        "item_to_user": [0, 1, 1],
    }
    assert list(tensors) == [one.name for one in inputs_of(SPEC)]
    config = config_for("dlrm", SPEC, {})
    model = build_model(config, seed=1)
    torch.testing.assert_close(ExportForm(model)(tensors), torch.sigmoid(model(batch)))
    described = describe(config, Precision())
    assert [one["name"] for one in described["inputs"]] == list(tensors)
    assert described["inputs"][1]["shape"] == ["users + 1"]
    assert described["inputs"][2]["shape"] == ["items", 2]
    assert FeatureSpec.from_dict(described["spec"]) == SPEC


def test_without_a_feature_of_the_user_items_have_none() -> None:
    spec = FeatureSpec(features=(bag("a", "item"), bag("b", "item")), tables=(TABLE,))
    assert [one.name for one in inputs_of(spec)] == ["a", "a.offsets", "b", "b.offsets"]


@pytest.mark.parametrize(
    ("architecture", "sizes"), [("deepfm", {}), ("wide_and_deep", {"crosses": (("u", "i"),)})]
)
def test_one_bag_on_each_side_is_enough(architecture: str, sizes: dict[str, object]) -> None:
    """A slice of one vector per row must not tie the graph to a number of rows."""
    spec = FeatureSpec(features=(bag("u", "user"), bag("i", "item")), tables=(TABLE,))
    model = build_model(config_for(architecture, spec, sizes), seed=2).eval()
    program = capture(ExportForm(model)).module()
    for items in (1, 5, 0):
        batch = FeatureBatch(
            user=one_id_each([4] * min(items, 1)),
            item=one_id_each(list(range(items))),
            item_to_user_B=torch.zeros(items, dtype=torch.int64),
        )
        expected_BT = torch.sigmoid(model(batch))
        torch.testing.assert_close(program(named_tensors(batch, spec)), expected_BT)


@pytest.mark.parametrize("name", ["seen.offsets", "item_to_user"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    spec = FeatureSpec(features=(bag("seen", "user"), bag(name, "item")), tables=(TABLE,))
    with pytest.raises(ConfigError, match=name):
        inputs_of(spec)
