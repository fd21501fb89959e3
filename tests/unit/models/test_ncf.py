"""Sizes of NCF: the paper's by default, others by name, and what no NCF can be."""

from dataclasses import replace

import pytest
import torch

from tailrank.core.errors import ConfigError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import Feature, FeatureBatch, FeatureSpec, SideFeatures, TableSpec
from tailrank.models import RankingModel, build_model, config_from_dict
from tailrank.models.ncf import NCFConfig
from tailrank.models.registry import config_for, config_to_dict, size_from_text
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep


def make_spec(dim: int) -> FeatureSpec:
    return FeatureSpec(
        features=(
            Feature(name="user_id", side="user", kind="bag", table="user"),
            Feature(name="item_id", side="item", kind="bag", table="item"),
        ),
        tables=(
            TableSpec(name="user", num_embeddings=5, embedding_dim=dim),
            TableSpec(name="item", num_embeddings=7, embedding_dim=dim),
        ),
    )


@pytest.mark.parametrize(
    ("sizes", "dim", "factors", "mlp_width", "tower"),
    [
        ({}, 96, 32, 64, (128, 64, 32)),
        ({"variant": "gmf"}, 32, 32, 0, ()),
        ({"variant": "mlp"}, 64, 0, 64, (128, 64, 32)),
        ({"variant": "mlp", "tower": (9,)}, 5, 0, 5, (9,)),
        ({"factors": 8, "tower": (16, 4)}, 20, 8, 12, (16, 4)),
        ({"variant": "gmf", "factors": 6}, 6, 6, 0, ()),
    ],
)
def test_sizes_follow_the_dim_in_the_papers_proportions(
    sizes, dim, factors, mlp_width, tower
) -> None:
    config = config_for("ncf", make_spec(dim), sizes)
    assert (config.factors, config.mlp_width, config.tower) == (factors, mlp_width, tower)
    assert config_from_dict(config_to_dict(config)) == config
    model = build_model(config, seed=1)
    assert model.last[0].in_features == factors + (tower[-1] if tower else 0)


@pytest.mark.parametrize(
    ("sizes", "dim", "field", "allowed"),
    [
        ({}, 32, "embedding_dim", "a multiple of 3 for neumf"),
        ({"variant": "mlp"}, 5, "embedding_dim", "a multiple of 2 for mlp"),
        ({"variant": "gm"}, 32, "variant", "gmf or mlp or neumf"),
        ({"factors": 40}, 32, "factors", "0 to 32, the dim"),
        ({"variant": "gmf", "factors": 8}, 32, "tower", "to the MLP"),
        ({"variant": "gmf", "tower": (8,)}, 32, "tower", "to the MLP"),
        ({"factors": 8, "tower": (8, 0)}, 32, "tower", "positive widths"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, dim, field, allowed) -> None:
    with pytest.raises(ConfigError, match=allowed) as error:
        config_for("ncf", make_spec(dim), sizes)
    assert error.value.field == field


def test_sizes_are_read_from_text() -> None:
    assert size_from_text("ncf", "variant", "gmf", "--size") == "gmf"
    assert size_from_text("ncf", "tower", "64-32", "--size") == (64, 32)
    assert size_from_text("ncf", "factors", "none", "--size") is None
    with pytest.raises(ConfigError, match="gmf or mlp or neumf"):
        size_from_text("ncf", "variant", "mf", "--size")


def test_other_features_than_two_ids_are_refused_by_name() -> None:
    dense = Feature(name="price", side="item", kind="dense")
    spec = make_spec(6)
    with pytest.raises(ConfigError, match=r"item bags: item_id; dense: price"):
        NCFConfig(spec=replace(spec, features=(*spec.features, dense)), factors=6, tower=())
    with pytest.raises(ConfigError, match=r"user bags: none; item bags: none; dense: price"):
        config_for("ncf", FeatureSpec(features=(dense,), tables=()), {"variant": "gmf"})


@pytest.mark.parametrize("variant", ["gmf", "mlp", "neumf"])
def test_every_variant_learns(variant: str) -> None:
    dataset = SyntheticDataset(
        SyntheticConfig(
            rows=2800,
            user_tables=1,
            item_tables=1,
            dense_per_side=0,
            num_embeddings=20,
            embedding_dim=12,
        )
    )
    model = build_model(config_for("ncf", dataset.spec, {"variant": variant}), seed=1)
    step = TrainStep(model, TrainingConfig(dense_optimizer="adam", table_optimizer="adam", lr=0.02))
    losses = [
        sum(step(batch, labels) for batch, labels in dataset.batches(("train",), 200))
        for _ in range(10)
    ]
    assert losses[-1] < 0.97 * losses[0]


def trained_like(sizes: dict, dim: int, seed: int) -> RankingModel:
    model = build_model(config_for("ncf", make_spec(dim), sizes), seed)
    with torch.no_grad():
        model.tables.weight_VD.mul_(50.0)
        for parameter in model.dense_parameters():
            parameter.add_(0.1)
    return model


def test_pretrained_neumf_starts_as_the_mean_of_its_parts() -> None:
    gmf, mlp = trained_like({"variant": "gmf"}, 4, 1), trained_like({"variant": "mlp"}, 8, 2)
    neumf = build_model(config_for("ncf", make_spec(12), {}), seed=3)
    neumf.start_from([gmf, mlp])
    ids = SideFeatures(
        dense_RN=torch.zeros(5, 0), values_L=torch.arange(5), offsets=torch.arange(6)
    )
    batch = FeatureBatch(user=ids, item=ids, item_to_user_B=torch.tensor([0, 0, 1, 3, 4]))
    torch.testing.assert_close(neumf(batch), 0.5 * gmf(batch) + 0.5 * mlp(batch))
    neumf.start_from([gmf, mlp], alpha=0.2)
    torch.testing.assert_close(neumf(batch), 0.2 * gmf(batch) + 0.8 * mlp(batch))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([("gmf", 4)], "got 1; allowed: two models: a GMF, then an MLP"),
        ([("mlp", 8), ("gmf", 4)], r"model 1: got 'MLP 16-16-8-4 \(5 users, 7 items\)'.*GMF of 4"),
        ([("gmf", 4), ("mlp", 10)], r"model 2: got 'MLP 20-20-10-5 .*'; allowed: MLP 16-16-8-4"),
        ([("gmf", 5), ("mlp", 8)], r"model 1: got 'GMF of 5 factors .*'; allowed: GMF of 4"),
        ([("neumf", 12), ("mlp", 8)], r"model 1: got 'GMF of 4 factors and MLP 16-16-8-4"),
    ],
)
def test_other_models_than_its_parts_are_refused(parts, said: str) -> None:
    others = [trained_like({"variant": variant}, dim, 1) for variant, dim in parts]
    neumf = build_model(config_for("ncf", make_spec(12), {}), seed=3)
    with pytest.raises(ConfigError, match=f"--pretrained.*{said}"):
        neumf.start_from(others)


def test_only_neumf_starts_from_others() -> None:
    gmf = trained_like({"variant": "gmf"}, 4, 1)
    with pytest.raises(ConfigError, match="neumf starts from these two"):
        gmf.start_from([gmf, gmf])
    factors = build_model(config_for("matrix_factorization", make_spec(4), {}), seed=1)
    with pytest.raises(ConfigError, match=r"--pretrained.*only ncf starts from others"):
        factors.start_from([gmf])
