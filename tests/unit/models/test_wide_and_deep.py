"""What a Wide & Deep model accepts, says no to, records and needs of memory."""

import pytest

from tailrank.core.errors import ConfigError
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import Feature, FeatureSpec
from tailrank.inference.precision import Precision
from tailrank.inference.ranker import bytes_needed
from tailrank.models import build_model
from tailrank.models.registry import config_for, config_from_dict, config_to_dict
from tailrank.training.recipe import Recipe

DATASET = SyntheticDataset(SyntheticConfig(rows=560, num_embeddings=20, embedding_dim=5))
SPEC = DATASET.spec
SIZES = {"top_mlp": (8, 4), "crosses": (("user_0", "item_0"),), "cross_rows": 100}


def test_a_recorded_config_reads_back() -> None:
    config = config_for("wide_and_deep", SPEC, SIZES)
    assert config_from_dict(config_to_dict(config)) == config


def test_the_tables_of_crosses_count_as_memory() -> None:
    with_cross, without = (
        config_for("wide_and_deep", SPEC, SIZES | {"crosses": c}) for c in (SIZES["crosses"], ())
    )
    rows = 100 * 5 * 4
    assert bytes_needed(with_cross, Precision()) - bytes_needed(without, Precision()) == rows
    recipe = Recipe(architecture="wide_and_deep", sizes=SIZES)
    plain = Recipe(architecture="wide_and_deep", sizes=SIZES | {"crosses": ()})
    state = 100 * 4  # of row-wise Adagrad
    assert recipe.bytes_needed(DATASET) - plain.bytes_needed(DATASET) == rows + state


def test_the_wide_part_starts_at_zero() -> None:
    model = build_model(config_for("wide_and_deep", SPEC, SIZES), seed=1)
    assert not model.tables.weight_VD[:, 0].any()
    assert model.tables.weight_VD[:, 1:].all()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"top_mlp": (0,)}, "positive widths"),
        ({"crosses": (("user_0", "nothing"),)}, "nothing"),
        ({"cross_rows": 0}, "at least 1"),
    ],
)
def test_a_wrong_size_is_refused(sizes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for("wide_and_deep", SPEC, sizes)


def test_features_that_tell_no_candidate_from_another_are_refused() -> None:
    users = FeatureSpec(
        features=tuple(f for f in SPEC.features if f.side == "user"), tables=SPEC.tables
    )
    with pytest.raises(ConfigError, match="one or more of the item"):
        config_for("wide_and_deep", users, {})
    dense = FeatureSpec(features=(Feature(name="x", side="item", kind="dense"),), tables=())
    with pytest.raises(ConfigError, match="all dense"):
        config_for("wide_and_deep", dense, {})
