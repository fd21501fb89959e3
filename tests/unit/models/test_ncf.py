"""Sizes of NCF: the paper's by default, others by name, and what no NCF can be."""

from dataclasses import replace

import pytest

from tailrank.core.errors import ConfigError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import Feature, FeatureSpec, TableSpec
from tailrank.models import build_model, config_from_dict
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
        ({}, 96, 32, 64, (64, 32)),
        ({"variant": "gmf"}, 32, 32, 0, ()),
        ({"variant": "mlp"}, 64, 0, 64, (64, 32)),
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
