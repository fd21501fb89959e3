"""A data set with some of its features has the same ids and floats in them."""

import re
from pathlib import Path

import pytest
import torch
from tests.unit.data.movielens_files import write_movielens

from tailrank.core.errors import ConfigError
from tailrank.data.dataset import Dataset
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.data.selection import select_features
from tailrank.data.synthetic import SyntheticConfig, SyntheticDataset
from tailrank.features import SIDES, FeatureSpec, Side, SideFeatures


def columns(side: SideFeatures, spec: FeatureSpec, name: Side) -> dict[str, list]:
    """By name, the bag or floats of every row."""
    sparse, found = spec.sparse(name), {}
    bags = [t.tolist() for t in side.values_L.split(side.offsets.diff().tolist())]
    for index, feature in enumerate(sparse):
        found[feature.name] = bags[index :: len(sparse)]
    first = 0
    for feature in spec.features:
        if feature.side == name and feature.kind == "dense":
            found[feature.name] = side.dense_RN[:, first : first + feature.width].tolist()
            first += feature.width
    return found


@pytest.fixture(scope="module", params=["synthetic", "movielens"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    if request.param == "synthetic":
        return SyntheticDataset(SyntheticConfig(rows=7 * 8 * 20, dense_per_side=2))
    folder = tmp_path_factory.mktemp("movielens")
    write_movielens(folder)
    return open_dataset(f"movielens:{folder}")


def choices(dataset: Dataset) -> list[list[str]]:
    """Every single feature, all but one, and one of each side in the wrong order."""
    names = [feature.name for feature in dataset.spec.features]
    sides = {side: [f.name for f in dataset.spec.features if f.side == side] for side in SIDES}
    return [
        *([name] for name in names),
        *([other for other in names if other != name] for name in names),
        [sides["item"][-1], sides["user"][0]],
        names,
    ]


def test_columns_that_stay_are_the_same(dataset: Dataset) -> None:
    for names in choices(dataset):
        selected = select_features(dataset, names)
        pairs = zip(
            dataset.batches(("train",), 50, shuffle_seed=3, first_batch=1),
            selected.batches(("train",), 50, shuffle_seed=3, first_batch=1),
            strict=True,
        )
        for (batch, labels), (part, part_labels) in pairs:
            part.check(selected.spec)
            found, expected = {}, {}
            for side in SIDES:
                found |= columns(getattr(part, side), selected.spec, side)
                expected |= columns(getattr(batch, side), dataset.spec, side)
            assert found == {name: expected[name] for name in found}
            assert set(found) == set(names)
            assert torch.equal(part.item_to_user_B, batch.item_to_user_B)
            assert torch.equal(part_labels.values_BT, labels.values_BT)
        assert selected.num_rows(("test",)) == dataset.num_rows(("test",))


def test_weights_go_with_their_ids() -> None:
    from tailrank.data.selection import _SideSelection

    base = SyntheticDataset(SyntheticConfig(rows=7 * 8 * 20))
    side = next(base.batches(("train",), 64))[0].user
    weighted = SideFeatures(
        dense_RN=side.dense_RN,
        values_L=side.values_L,
        offsets=side.offsets,
        weights_L=side.values_L.float() * 2,
    )
    found = _SideSelection(base.spec, "user", {"user_1"})(weighted)
    assert found.weights_L is not None
    assert torch.equal(found.weights_L, found.values_L.float() * 2)


def test_tables_without_a_feature_are_gone_and_shared_ones_stay(tmp_path: Path) -> None:
    write_movielens(tmp_path)
    settings = DataSettings(features=("movie_id", "user_id"))
    spec = open_dataset(f"movielens:{tmp_path}", settings).spec
    assert [feature.name for feature in spec.features] == ["user_id", "movie_id"]
    assert [table.name for table in spec.tables] == ["user_id", "movie"]


def test_rows_are_the_same_rows_and_batches_are_not(dataset: Dataset) -> None:
    names = [feature.name for feature in dataset.spec.features]
    one, other = (select_features(dataset, [name]) for name in names[:2])
    assert one.rows_fingerprint == other.rows_fingerprint == dataset.rows_fingerprint
    assert len({one.fingerprint, other.fingerprint, dataset.fingerprint}) == 3
    assert one.for_refit().fingerprint == one.fingerprint


@pytest.mark.parametrize("names", [["history"], []])
def test_unknown_names_are_refused(dataset: Dataset, names: list[str]) -> None:
    known = [feature.name for feature in dataset.spec.features]
    with pytest.raises(ConfigError, match=f"--features.*{re.escape(', '.join(known[:-1]))}"):
        select_features(dataset, names)
