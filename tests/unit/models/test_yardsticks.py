"""What the yardstick models accept, say no to, and start from."""

import pytest

from tailrank.core.errors import ConfigError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import Feature, FeatureSpec
from tailrank.models import build_model
from tailrank.models.registry import (
    config_for,
    config_from_dict,
    config_to_dict,
    num_dense_parameters,
    size_names,
)
from tailrank.training.config import TrainingConfig
from tailrank.training.step import TrainStep

YARDSTICKS = ("logistic_regression", "matrix_factorization", "factorization_machine")


def make_spec(architecture: str, **settings: int) -> FeatureSpec:
    dim = 1 if architecture == "logistic_regression" else 5
    if architecture == "matrix_factorization":
        settings = {"user_tables": 1, "item_tables": 1, "dense_per_side": 0} | settings
    config = SyntheticConfig(**({"num_embeddings": 20, "embedding_dim": dim} | settings))
    return config.spec()


@pytest.mark.parametrize("architecture", YARDSTICKS)
def test_a_recorded_config_reads_back(architecture: str) -> None:
    config = config_for(architecture, make_spec(architecture), {})
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize("architecture", YARDSTICKS)
def test_linear_weights_start_at_zero_and_factors_do_not(architecture: str) -> None:
    model = build_model(config_for(architecture, make_spec(architecture), {}), seed=1)
    linear_V, factors_VK = model.tables.weight_VD.split([1, model.tables.embedding_dim - 1], dim=1)
    assert not linear_V.any()
    assert factors_VK.count_nonzero() == factors_VK.numel()
    assert not model.bias.any()


@pytest.mark.parametrize(
    ("architecture", "count"), [(YARDSTICKS[0], 5), (YARDSTICKS[1], 1), (YARDSTICKS[2], 21)]
)
def test_weights_outside_the_tables_are_counted_without_allocating(architecture, count) -> None:
    assert num_dense_parameters(config_for(architecture, make_spec(architecture), {})) == count


@pytest.mark.parametrize("architecture", ["logistic_regression", "factorization_machine"])
@pytest.mark.parametrize("optimizer", ["adagrad", "sgd", "adam"])
def test_a_log_without_dense_features_trains(architecture: str, optimizer: str) -> None:
    dim = 1 if architecture == "logistic_regression" else 5
    settings = SyntheticConfig(rows=560, dense_per_side=0, num_embeddings=20, embedding_dim=dim)
    dataset = SyntheticDataset(settings)
    model = build_model(config_for(architecture, dataset.spec, {}), seed=1)
    step = TrainStep(model, TrainingConfig(dense_optimizer=optimizer, lr=0.1))
    losses = [
        step(batch, labels) for _ in range(3) for batch, labels in dataset.batches(("train",), 80)
    ]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("architecture", YARDSTICKS)
def test_a_size_that_a_yardstick_does_not_have_is_refused(architecture: str) -> None:
    assert size_names(architecture) == []
    with pytest.raises(ConfigError, match=f"sizes of {architecture}: it has none") as error:
        config_for(architecture, make_spec(architecture), {"top_mlp": (64,)})
    assert error.value.field == "--top-mlp"


@pytest.mark.parametrize(
    ("architecture", "dim", "allowed"),
    [
        ("logistic_regression", 2, "1: one weight per category"),
        ("matrix_factorization", 1, "a bias and one factor"),
        ("factorization_machine", 1, "a linear weight and one factor"),
    ],
)
def test_a_dim_that_does_not_fit_is_refused(architecture: str, dim: int, allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed) as error:
        config_for(architecture, make_spec(architecture, embedding_dim=dim), {})
    assert (error.value.field, error.value.value) == ("embedding_dim", dim)


@pytest.mark.parametrize(
    "settings", [{"user_tables": 2}, {"item_tables": 2}, {"dense_per_side": 1}]
)
def test_a_factorisation_of_more_than_two_features_says_what_there_is(settings) -> None:
    with pytest.raises(ConfigError, match="--features USER,ITEM") as error:
        config_for("matrix_factorization", make_spec("matrix_factorization", **settings), {})
    assert "user bags: user_0" in error.value.value
    assert "item bags: item_0" in error.value.value
    assert error.value.value.endswith("dense: none") == ("dense_per_side" not in settings)


@pytest.mark.parametrize("architecture", YARDSTICKS)
def test_a_model_without_a_bag_is_refused(architecture: str) -> None:
    dense = Feature(name="price", side="item", kind="dense")
    with pytest.raises(ConfigError, match=r"features: .*(of categories|one user bag)"):
        config_for(architecture, FeatureSpec(features=(dense,), tables=()), {})
