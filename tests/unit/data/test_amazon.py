"""Amazon sequences: against a slow walk, negatives, shuffles, real files, all kinds of bad file."""

from collections import Counter
from pathlib import Path

import pytest
from tests.unit.data.amazon_files import write_amazon
from tests.unit.data.test_movielens import bags

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.amazon import AmazonConfig, AmazonDataset
from tailrank.data.amazon_file import read_amazon
from tailrank.data.dataset import SPLITS, Dataset, Split
from tailrank.data.registry import DataSettings, open_dataset

TRAIN, VALIDATION, TEST = [(split,) for split in SPLITS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("amazon")
    write_amazon(folder)
    return folder


def open_toys(folder: Path, **settings: int) -> AmazonDataset:
    return AmazonDataset(AmazonConfig(path=folder / "Toys", **settings))


def rows_of(dataset: Dataset, splits: tuple[Split, ...], batch_items: int, **how: int) -> list:
    """(history, its attributes, item, its attribute, label, user) of every row."""
    rows = []
    for batch, labels in dataset.batches(splits, batch_items, **how):
        batch.check(dataset.spec)
        users = bags(batch.user, dataset.spec, "user")
        items = bags(batch.item, dataset.spec, "item")
        columns = (items, batch.item_to_user_B, labels.values_BT[:, 0], labels.group_B)
        for ((item,), (attribute,)), user, label, group in zip(*columns, strict=True):
            rows.append((*users[user], item, attribute, float(label), int(group)))
    return rows


def slow_targets(folder: Path, history_max: int) -> dict[Split, list[tuple]]:
    """(history, its attributes, item, its attribute, user) of every target, as one would write it.

    Users, items and attributes are numbered as the data set numbers them.
    """
    log, attributes = write_amazon(folder)
    number = {item: n for n, item in enumerate(sorted(attributes))}
    attribute_number = {
        a: n for n, a in enumerate(sorted({a for v in attributes.values() for a in v}))
    }
    count = Counter(a for found in attributes.values() for a in found)
    rarest = {item: min(found, key=lambda a: count[a]) for item, found in attributes.items()}
    found: dict[Split, list[tuple]] = {split: [] for split in SPLITS}
    for user, items in enumerate(log.values()):
        for place in range(1, len(items)):
            from_end = len(items) - place
            split = {1: "test", 2: "validation"}.get(from_end, "train")
            history = items[:place][-history_max:]
            found[split].append(
                (
                    tuple(number[item] for item in history),
                    tuple(attribute_number[rarest[item]] for item in history),
                    number[items[place]],
                    attribute_number[rarest[items[place]]],
                    user,
                )
            )
    return found


@pytest.mark.parametrize("split", SPLITS)
def test_targets_equal_a_slow_walk_through_the_log(folder: Path, split: Split) -> None:
    dataset = open_toys(folder, history_max=4)
    rows = rows_of(dataset, (split,), 1000)
    positive = [(*row[:4], row[5]) for row in rows if row[4] == 1.0]
    assert positive == slow_targets(folder, 4)[split]
    beside = {"train": 4, "validation": 24, "test": 99}[split]
    assert len(rows) == dataset.num_rows((split,)) == (1 + beside) * len(positive)


@pytest.mark.parametrize("splits", [TRAIN, VALIDATION, TEST, ("train", "validation")])
def test_negatives_are_items_that_the_user_had_not_met_by_then(folder, splits) -> None:
    dataset = open_toys(folder, num_negatives=30)
    log = read_amazon(folder / "Toys")
    items_of, start = [], 0
    later = SPLITS.index(splits[-1]) - 2
    for length in log.length_U.tolist():
        items_of.append(set(log.item_L[start : start + length + later].tolist()))
        start += length
    rows = rows_of(dataset, splits, 64, shuffle_seed=1)
    for *_, item, _, label, user in rows:
        assert (item in items_of[user]) == (label == 1.0)
    assert len(rows) == dataset.num_rows(splits)
    if splits == TRAIN:
        # What is met later is not spared, or its absence would give it away.
        drawn = {(user, item) for *_, item, _, label, user in rows if label == 0.0}
        met_later = {(row[5], row[2]) for row in rows_of(dataset, TEST, 512) if row[4] == 1.0}
        assert drawn & met_later


@pytest.mark.parametrize("splits", [VALIDATION, TEST, ("validation", "test")])
def test_items_to_rank_against_are_different_and_stay(folder: Path, splits) -> None:
    dataset = open_toys(folder)
    rows = rows_of(dataset, splits, 512)
    per_target = Counter((row[0], row[5], row[2]) for row in rows)
    assert set(per_target.values()) == {1}
    assert rows_of(dataset, splits, 64) == rows
    again = open_toys(folder, num_negatives=1, embedding_dim=3)
    assert rows_of(again, splits, 512) == rows
    assert sorted(rows_of(dataset, splits, 100, shuffle_seed=4)) == sorted(rows)
    assert rows_of(open_toys(folder, seed=1), splits, 512) != rows


def test_each_order_of_the_rows_has_its_own_negatives(folder: Path) -> None:
    dataset = open_toys(folder)
    rows = rows_of(dataset, TRAIN, 48, shuffle_seed=2)
    assert rows_of(dataset, TRAIN, 48, shuffle_seed=2) == rows
    assert rows_of(dataset, TRAIN, 48, shuffle_seed=2, first_batch=2) == rows[96:]
    other = rows_of(dataset, TRAIN, 48, shuffle_seed=3)
    assert set(other) != set(rows)
    positive, other_positive = [[row for row in some if row[4]] for some in (rows, other)]
    assert positive != other_positive
    assert sorted(positive) == sorted(other_positive)


def test_items_of_a_target_share_its_user_row(folder: Path) -> None:
    dataset = open_toys(folder)
    for batch, labels in dataset.batches(TEST, 100):
        assert batch.num_users == 1
        assert labels.values_BT.flatten().tolist() == [1.0] + [0.0] * 99


def test_a_refit_learns_from_the_targets_to_choose_by_as_from_any(folder: Path) -> None:
    dataset = open_toys(folder)
    assert dataset.for_refit() is dataset
    both = ("train", "validation")
    targets = sum(
        dataset.num_rows((split,)) // size for split, size in (("train", 5), ("validation", 25))
    )
    assert dataset.num_rows(both) == 5 * targets == len(rows_of(dataset, both, 64, shuffle_seed=1))


def test_fingerprints_tell_what_is_tested_from_how_it_is_learned(folder: Path) -> None:
    base = open_toys(folder)
    for learned in (
        {"embedding_dim": 8},
        {"num_negatives": 2},
        {"history_max": 3},
        {"validation_negatives": 9},
    ):
        other = open_toys(folder, **learned)
        assert other.rows_fingerprint == base.rows_fingerprint
        assert other.fingerprint != base.fingerprint
    for tested in ({"test_negatives": 9}, {"seed": 1}):
        assert open_toys(folder, **tested).rows_fingerprint != base.rows_fingerprint
    assert base.fitted_fingerprint is None


@pytest.mark.parametrize("name", ["Toys", "Toys.txt"])
def test_it_is_opened_by_name(folder: Path, name: str) -> None:
    settings = DataSettings(embedding_dim=4, num_negatives=2)
    dataset = open_dataset(f"amazon:{folder / name}", settings)
    assert dataset.name == "amazon"
    assert dataset.fingerprint == open_toys(folder, embedding_dim=4, num_negatives=2).fingerprint
    assert {t.name: t.num_embeddings for t in dataset.spec.tables} == {"item": 140, "attribute": 13}
    assert {f.name: (f.side, f.kind, f.table) for f in dataset.spec.features} == {
        "history_items": ("user", "sequence", "item"),
        "history_attributes": ("user", "sequence", "attribute"),
        "item_id": ("item", "bag", "item"),
        "attribute": ("item", "bag", "attribute"),
    }


def test_the_published_files_are_read(shared_data: Path) -> None:
    folder = shared_data / "amazon"
    if not folder.is_dir():
        pytest.skip(f"no Amazon reviews at {folder}")
    users, met = 22_363, 198_502
    dataset = open_dataset(f"amazon:{folder / 'Beauty'}")
    assert dataset.num_rows(TEST) == 100 * users
    assert dataset.num_rows(TRAIN) == 5 * (met - 3 * users)
    assert {t.name: t.num_embeddings for t in dataset.spec.tables} == {
        "item": 12_101,
        "attribute": 637,
    }
    batch, labels = next(dataset.batches(TEST, 1000))
    batch.check(dataset.spec)
    assert labels.values_BT.sum() == 10


@pytest.mark.parametrize(
    "field", ["history_max", "num_negatives", "embedding_dim", "test_negatives"]
)
def test_bad_settings_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        AmazonConfig(path=Path(), **{field: 0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x 2 5 8 11", "column 'user', value 'x': expected a number"),
        ("1 2 5 8 11", "column 'user', value '1': there is a line of it already"),
        ("3 2 5", "column 'items', value 2: expected at least 3 items"),
        ("3 2 x 8 11", "column 'item 2', value 'x': expected the number of an item of Toys_item2a"),
        ("3 2 5  8", "column 'item 3', value '': expected the number"),
        ("3 2 5 1 8", "column 'item 3', value '1': expected the number of an item of Toys_item2a"),
        ("3 2 5 8 5", "column 'item 4', value '5': the user has it already"),
        ("", "column 'user', value '': expected a number"),
    ],
)
def test_a_bad_line_of_the_log_is_named(tmp_path: Path, text: str, expected: str) -> None:
    write_amazon(tmp_path)
    lines = (tmp_path / "Toys.txt").read_text().splitlines()
    lines[2] = text
    (tmp_path / "Toys.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"Toys\.txt:3: {expected}"):
        read_amazon(tmp_path / "Toys")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", r"json:1: not JSON"),
        ('{"2": [1],\n "5" [1]}', r"json:2: not JSON \(Expecting ':' delimiter\)"),
        ('[["2", [1]]]', r"json: expected \{"),
        ('{"two": [1]}', "json: row 1: column 'item', value 'two': expected a number"),
        ('{"2": [1], "2": [3]}', "json: row 2: column 'item', value '2': the item is there"),
        (
            '{"5": [1], "2": []}',
            "json: row 2: column 'attributes', value '\\[\\]': expected a list",
        ),
        ('{"2": {"a": 1}}', "json: row 1: column 'attributes', value .*: expected a list"),
        ('{"2": [1.5]}', "json: row 1: column 'attributes', value '\\[1.5\\]': expected a list"),
        ('{"2": [true]}', "json: row 1: column 'attributes', value '\\[True\\]': expected a list"),
        ('{"2": [1' + 30 * "0" + "]}", "json: row 1: column 'attributes', .* numbers below 10"),
        ('{"2": 7}', "json: row 1: column 'attributes', value '7': expected a list of one or more"),
        ("\n", "json: empty"),
    ],
)
def test_a_fault_in_the_attributes_is_named(tmp_path: Path, text: str, expected: str) -> None:
    write_amazon(tmp_path)
    (tmp_path / "Toys_item2attributes.json").write_text(text)
    with pytest.raises(DataError, match=rf"Toys_item2attributes\.{expected}"):
        read_amazon(tmp_path / "Toys")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    write_amazon(tmp_path)
    with pytest.raises(DataError, match="a folder; name a category in it: Toys"):
        read_amazon(tmp_path)
    with pytest.raises(DataError, match=r"Books\.txt: No such file"):
        read_amazon(tmp_path / "Books")
    (tmp_path / "Toys_item2attributes.json").unlink()
    with pytest.raises(DataError, match=r"Toys_item2attributes\.json: No such file"):
        read_amazon(tmp_path / "Toys.txt")


def test_a_user_who_has_met_nearly_everything_is_refused(tmp_path: Path) -> None:
    write_amazon(tmp_path, num_items=105)
    with pytest.raises(DataError, match=r"Toys\.txt:9: column 'items', value 11: too many: 94"):
        open_toys(tmp_path)
