"""The Adult census: what is read, what is fitted on which rows, and which faults are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.data.adult_files import people, write_adult

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.adult import AdultConfig, AdultDataset, AdultFit
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.data.vocabulary import FIRST_KNOWN_ID, MISSING_ID, UNKNOWN_ID


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adult(tmp_path / "adult", people(70), people(30, dot="."))


def everything(dataset, split: str):
    ((batch, labels),) = dataset.batches((split,), 4096)
    return batch, labels


def test_parts_are_disjoint_and_the_test_file_is_the_test_part(folder: Path) -> None:
    dataset = open_dataset(f"adult:{folder}", DataSettings(embedding_dim=4))
    assert dataset.tasks == ("income", "never_married")
    counts = [dataset.num_rows((split,)) for split in ("train", "validation", "test")]
    assert counts == [60, 10, 30]
    batch, labels = everything(dataset, "test")
    batch.check(dataset.spec)
    expected = [[float(n % 5 == 0), float(n % 3 > 0)] for n in range(30)]
    assert labels.values_BT.tolist() == expected
    assert labels.mask_BT is None
    ages = [everything(dataset, split)[0].item.dense_RN[:, 0] for split in ("train", "validation")]
    raw = torch.cat(ages).double() * dataset.fit.std["age"] + dataset.fit.mean["age"]
    assert sorted(raw.round().tolist()) == sorted(20 + n % 9 for n in range(70))


def test_what_leaks_a_label_is_no_feature(folder: Path) -> None:
    names = {feature.name for feature in open_dataset(f"adult:{folder}").spec.features}
    assert not names & {"marital_status", "relationship", "fnlwgt", "income"}
    assert {"age", "age_value", "native_country", "capital_gain"} <= names


def test_numbers_are_standardised_and_categories_known_by_the_rows_to_fit_on(
    tmp_path: Path,
) -> None:
    learned = people(70)
    dataset = AdultDataset(AdultConfig(path=write_adult(tmp_path / "a", learned, people(9, "."))))
    train, _ = everything(dataset, "train")
    ages = train.item.dense_RN[:, 0].double()
    assert ages.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert ages.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-6)
    assert not train.item.dense_RN[:, 2].any()  # every capital gain is 2174: no deviation
    both, _ = everything(dataset.for_refit(), "train")
    assert dataset.for_refit().fitted_fingerprint != dataset.fitted_fingerprint
    assert both.item.dense_RN[:, 0].double().mean().abs() > 1e-6  # no longer the rows of the fit
    country = dataset.spec.sparse("item").index(
        next(f for f in dataset.spec.sparse("item") if f.name == "native_country")
    )
    strange = [people(1, ".")[0].replace("Cuba", "Atlantis"), people(4, ".")[3]]
    other = AdultDataset(
        AdultConfig(path=write_adult(tmp_path / "b", learned, strange)), dataset.fit
    )
    batch, _ = everything(other, "test")
    ids = batch.item.values_L.view(2, -1)[:, country]
    assert ids.tolist() == [UNKNOWN_ID, MISSING_ID]
    id_of = {name: n for n, name in enumerate(dataset.fit.known["native-country"], FIRST_KNOWN_ID)}
    train_ids = train.item.values_L.view(60, -1)[:, country]
    assert set(train_ids.tolist()) == {MISSING_ID, *id_of.values()}
    rare = AdultDataset(AdultConfig(path=tmp_path / "a", min_count=61))
    assert rare.fit.known["native-country"] == []


def test_a_label_that_is_missing_is_unknown(tmp_path: Path) -> None:
    learned = people(70)
    folder = write_adult(
        tmp_path / "a", learned, [row.replace("Divorced", "?") for row in people(6)]
    )
    _, labels = everything(AdultDataset(AdultConfig(path=folder)), "test")
    assert labels.mask_BT.tolist() == [[True, bool(n % 3)] for n in range(6)]
    assert not labels.values_BT.isnan().any()


def test_what_was_fitted_comes_back(folder: Path, tmp_path: Path) -> None:
    first = open_dataset(f"adult:{folder}")
    first.save_fitted(tmp_path)
    again = open_dataset(f"adult:{folder}", fitted=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert again.for_refit().fingerprint == first.fingerprint
    for name, text in (("absent", None), ("damaged", "{}"), ("damaged", '{"known":')):
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        if text is not None:
            (place / "adult.json").write_text(text)
        with pytest.raises(DataError, match=r"adult\.json"):
            AdultFit.load(place / "adult.json")


def test_shuffled_batches_are_a_pure_function_of_their_arguments(folder: Path) -> None:
    dataset = open_dataset(f"adult:{folder}")
    whole = [b.item.values_L for b, _ in dataset.batches(("train",), 16, shuffle_seed=3)]
    later = [
        b.item.values_L for b, _ in dataset.batches(("train",), 16, shuffle_seed=3, first_batch=2)
    ]
    assert all(map(torch.equal, whole[2:], later))
    plain = torch.cat([b.item.values_L for b, _ in dataset.batches(("train",), 16)])
    assert not torch.equal(torch.cat(whole), plain)
    assert torch.equal(torch.cat(whole).sort().values, plain.sort().values)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("22,", "nan,", r"adult\.data:3: column 'age', value 'nan': expected a whole number"),
        ("77516", "-1", r"adult\.data:3: column 'fnlwgt', value '-1'"),
        ("Bachelors", "", r"adult\.data:3: column 'education', value '': expected a word"),
        ("<=50K", "50K", r"adult\.data:3: column 'income', value '50K': expected <=50K or >50K"),
        (", White", "", r"adult\.data:3: 14 fields; expected 15"),
    ],
)
def test_faults_are_named_by_line_column_and_value(tmp_path: Path, old, new, says) -> None:
    rows = people(14)
    rows[2] = rows[2].replace(old, new, 1)
    with pytest.raises(DataError, match=says):
        AdultDataset(AdultConfig(path=write_adult(tmp_path / "a", rows, people(7))))


def test_missing_and_empty_files_and_settings_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"adult\.data: No such file"):
        open_dataset(f"adult:{tmp_path}")
    with pytest.raises(DataError, match=r"adult\.test: no rows"):
        open_dataset(f"adult:{write_adult(tmp_path / 'none', people(9), [])}")
    with pytest.raises(DataError, match="6 rows; expected at least 7"):
        open_dataset(f"adult:{write_adult(tmp_path / 'few', people(6), people(2))}")
    with pytest.raises(ConfigError, match=r"adult\.min_count"):
        AdultConfig(path=folder, min_count=0)


def test_the_published_files(shared_data: Path) -> None:
    dataset = open_dataset(f"adult:{shared_data / 'adult'}")
    counts = [dataset.num_rows((split,)) for split in ("train", "validation", "test")]
    assert counts == [27910, 4651, 16281]
    _, labels = everything_of_test(dataset)
    assert labels[:, 0].sum() == 3846
    rate = labels[:, 1].mean()
    assert 0.30 < rate < 0.35
    assert all(table.num_embeddings < 130 for table in dataset.spec.tables)


def everything_of_test(dataset) -> tuple[None, np.ndarray]:
    pairs = dataset.batches(("test",), 8192)
    return None, np.concatenate([labels.values_BT.numpy() for _, labels in pairs])


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("known", "race", None, "column 'race', value 'None': damaged: .* different words"),
        ("known", "race", ["White", "White"], "column 'race', .* different words"),
        ("mean", "age", None, "column 'age', .* a mean, and a deviation above 0"),
        ("mean", "age", float("nan"), "column 'age', .* a mean, and a deviation above 0"),
        ("std", "age", 0.0, "column 'age', .* a mean, and a deviation above 0"),
        ("std", "height", 1.0, "damaged: other features than the census has"),
    ],
)
def test_what_was_fitted_is_refused_where_it_cannot_have_been(
    folder: Path, tmp_path: Path, part, name, value, said
) -> None:
    file = tmp_path / "adult.json"
    AdultDataset(AdultConfig(path=folder)).fit.save(file)
    record = json.loads(file.read_text())
    record[part][name] = value
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match=said):
        AdultFit.load(file)
