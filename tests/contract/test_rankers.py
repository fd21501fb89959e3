"""Every ranker against the eager reference, on fresh random batches of every awkward shape."""

from pathlib import Path

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.core.files import replace_directory
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.inference import Ranker, load
from tailrank.inference.artifact import save_artifact
from tailrank.inference.precision import Precision
from tailrank.kernels import onednn
from tailrank.models import build_model
from tailrank.models.dlrm import DLRMConfig

RANKERS = {
    "eager": {"device": "eager"},
    "cpu": {"device": "cpu"},
    "cpu-mkl": {"device": "cpu", "dense_backend": "mkl"},
    "cpu-onednn": {"device": "cpu", "dense_backend": "onednn"},
}
# bf16 keeps 8 bits of mantissa; dense layers in bf16 round once per layer.
TOLERANCE = {"fp32": 1e-5, "rows=bf16,dense=fp32": 1e-2, "bf16": 3e-2}


def make_spec(user_side: bool) -> FeatureSpec:
    side = "user" if user_side else "item"
    return FeatureSpec(
        features=(
            Feature(name="profile", side=side, kind="dense", width=3),
            Feature(name="price", side="item", kind="dense", width=5),
            Feature(name="country", side=side, kind="bag", table="country"),
            Feature(name="history", side=side, kind="bag", table="items", pooling_factor=4.0),
            Feature(name="item", side="item", kind="bag", table="items"),
            Feature(name="tags", side="item", kind="bag", table="tags", pooling_factor=2.0),
        ),
        tables=(
            TableSpec(name="country", num_embeddings=3, embedding_dim=8),
            TableSpec(name="items", num_embeddings=1000, embedding_dim=8),
            TableSpec(name="tags", num_embeddings=40, embedding_dim=8),
        ),
    )


def random_side(spec: FeatureSpec, side: str, rows: int, bag_size: int | None) -> SideFeatures:
    sparse = spec.sparse(side)
    lengths = torch.randint(0, 6, (rows * len(sparse),))
    if bag_size is not None:
        lengths = torch.full((rows * len(sparse),), bag_size)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    limits = torch.tensor([spec.table(f.table).num_embeddings for f in sparse]).repeat(rows)
    limit_L = torch.repeat_interleave(limits.long(), lengths)
    return SideFeatures(
        dense_RN=torch.randn(rows, spec.dense_width(side)),
        values_L=(torch.rand(limit_L.shape[0]) * limit_L).long(),
        offsets=offsets,
    )


def random_batch(
    spec: FeatureSpec, items: int, users: int = 1, bag_size: int | None = None
) -> FeatureBatch:
    to_user = torch.cat([torch.arange(users), torch.randint(0, users, (items - users,))])
    return FeatureBatch(
        user=random_side(spec, "user", users, bag_size),
        item=random_side(spec, "item", items, bag_size),
        item_to_user_B=to_user.sort().values,
    )


@pytest.fixture(scope="module", params=["fp32", "rows=bf16,dense=fp32", "bf16"])
def artifacts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    precision = Precision.parse(request.param)
    if onednn.why_unavailable(torch.bfloat16) and precision.dense == "bf16":
        pytest.skip(f"no bf16 linears here: {onednn.why_unavailable(torch.bfloat16)}")
    paths = {}
    for user_side in (True, False):
        for interaction in ("dot", "cat"):
            config = DLRMConfig(
                spec=make_spec(user_side),
                bottom_mlp=(16, 8),
                top_mlp=(16, 1),
                interaction=interaction,
            )
            path = tmp_path_factory.mktemp("artifacts") / f"{user_side}-{interaction}"
            with replace_directory(path) as fresh:
                model = build_model(config, seed=5)
                save_artifact(fresh, model, training={}, precision=precision)
            paths[user_side, interaction] = path
    return str(precision), paths


@pytest.fixture(params=sorted(RANKERS))
def ranker_name(request: pytest.FixtureRequest) -> str:
    return request.param


def load_ranker(name: str, precision: str, path: Path) -> Ranker:
    if name == "cpu-mkl" and precision == "bf16":
        pytest.skip("mkl is the fp32 backend")
    return load(path, **RANKERS[name])[0]


@pytest.mark.parametrize("user_side", [True, False])
@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_equal_the_reference(artifacts, ranker_name, user_side, interaction, seed) -> None:
    precision, paths = artifacts
    path = paths[user_side, interaction]
    ranker, reference = load_ranker(ranker_name, precision, path), load(path, device="eager")[0]
    torch.manual_seed(seed)
    for items, users, bag_size in [
        (1, 1, None), (7, 3, None), (64, 64, 1), (1000, 5, None), (1000, 1, 3), (16, 1, 0),
    ]:  # fmt: skip
        batch = random_batch(make_spec(user_side), items, users, bag_size)
        expected = reference.rank(batch)
        scores = ranker.rank(batch)
        assert scores.shape == (items,)
        assert scores.dtype is torch.float32
        torch.testing.assert_close(scores, expected, rtol=TOLERANCE[precision], atol=1e-6)


def test_a_batch_equals_its_single_items(artifacts, ranker_name) -> None:
    precision, paths = artifacts
    ranker = load_ranker(ranker_name, precision, paths[True, "dot"])
    torch.manual_seed(11)
    batch = random_batch(make_spec(True), items=9, users=3)
    singles = torch.cat([ranker.rank(batch.items(i, 1)) for i in range(9)])
    torch.testing.assert_close(ranker.rank(batch), singles, rtol=TOLERANCE[precision], atol=1e-6)
    rejoined = FeatureBatch.concat([batch.items(0, 4), batch.items(4, 1), batch.items(5, 4)])
    torch.testing.assert_close(ranker.rank(rejoined), singles, rtol=TOLERANCE[precision], atol=1e-6)


def test_a_user_once_equals_the_user_repeated(artifacts, ranker_name) -> None:
    precision, paths = artifacts
    ranker = load_ranker(ranker_name, precision, paths[True, "cat"])
    torch.manual_seed(12)
    once = random_batch(make_spec(True), items=6, users=1)
    repeated = FeatureBatch(
        user=SideFeatures.concat([once.user] * 6),
        item=once.item,
        item_to_user_B=torch.arange(6),
    )
    torch.testing.assert_close(
        ranker.rank(once), ranker.rank(repeated), rtol=TOLERANCE[precision], atol=1e-6
    )


@pytest.mark.parametrize("bag_size", [None, 2])
@pytest.mark.parametrize("value", [-1, 3, 1000, 1 << 40])
def test_an_id_outside_its_table_is_named(artifacts, ranker_name, bag_size, value) -> None:
    precision, paths = artifacts
    ranker = load_ranker(ranker_name, precision, paths[True, "dot"])
    torch.manual_seed(13)
    batch = random_batch(make_spec(True), items=4, users=2, bag_size=2)
    lengths = batch.user.offsets.diff()
    if bag_size is None:  # uneven bags take another path
        lengths[1] += lengths[3]
        lengths[3] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = batch.user.values_L.clone() % 3
    position = int(offsets[2]) + 1  # second id of the second user's country
    values[position] = value
    broken = FeatureBatch(
        user=SideFeatures(dense_RN=batch.user.dense_RN, values_L=values, offsets=offsets),
        item=batch.item,
        item_to_user_B=batch.item_to_user_B,
    )
    with pytest.raises(ConfigError, match=r"country \(user row 1, id 1 of its bag\)") as error:
        ranker.rank(broken)
    assert error.value.value == value
    assert "0 to 2" in error.value.allowed


def test_nan_in_a_dense_feature_stays_with_its_item(artifacts, ranker_name) -> None:
    precision, paths = artifacts
    ranker = load_ranker(ranker_name, precision, paths[True, "dot"])
    torch.manual_seed(14)
    batch = random_batch(make_spec(True), items=5, users=1)
    clean = ranker.rank(batch)
    batch.item.dense_RN[2, 1] = float("nan")
    scores = ranker.rank(batch)
    assert torch.isnan(scores[2])
    keep = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(scores[keep], clean[keep], rtol=TOLERANCE[precision], atol=1e-6)
