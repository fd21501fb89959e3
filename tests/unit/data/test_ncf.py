"""Leave-one-out data: what is held out, what is drawn, and that streams repeat."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.data.ncf_files import write_ncf

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.ncf import NCFDataConfig, NCFDataset
from tailrank.data.registry import DataSettings, open_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ncf")


@pytest.fixture(scope="module")
def items_of(folder: Path) -> dict[int, list[int]]:
    return write_ncf(folder)


@pytest.fixture(scope="module")
def dataset(folder: Path, items_of) -> NCFDataset:
    return NCFDataset(NCFDataConfig(path=folder, validation_negatives=15))


def rows_of(dataset: NCFDataset, *splits: str, **order) -> np.ndarray:
    """User, item and label of every row."""
    parts = []
    for batch, labels in dataset.batches(splits, order.pop("batch_items", 7), **order):
        batch.check(dataset.spec)
        user_B = batch.user.values_L[batch.item_to_user_B]
        assert torch.equal(user_B, labels.group_B)
        parts.append(torch.stack([user_B, batch.item.values_L, labels.values_BT[:, 0].long()], 1))
    return torch.cat(parts).numpy()


def liked(rows: np.ndarray) -> set[tuple[int, int]]:
    return {(int(user), int(item)) for user, item, label in rows if label}


def test_every_positive_is_in_one_part_and_one_of_each_user_validates(dataset, items_of) -> None:
    parts = {split: liked(rows_of(dataset, split)) for split in ("train", "validation", "test")}
    everything = {(user, item) for user, items in items_of.items() for item in items}
    assert set.union(*parts.values()) == everything
    assert sum(map(len, parts.values())) == len(everything)
    assert parts["test"] == {(user, items[-1]) for user, items in items_of.items()}
    # The last user has one training row, which stays one.
    assert sorted(user for user, _ in parts["validation"]) == list(range(len(items_of) - 1))
    both = rows_of(dataset, "train", "validation")
    assert liked(both) == parts["train"] | parts["validation"]
    assert len(both) == dataset.num_rows(("train", "validation"))


def test_training_has_four_unmet_items_for_each_positive(dataset, items_of) -> None:
    for splits in (("train",), ("train", "validation")):
        rows = rows_of(dataset, *splits, shuffle_seed=3)
        met = liked(rows)
        assert len(rows) == dataset.num_rows(splits) == 5 * len(met)
        queries = rows.reshape(-1, 5, 3)
        assert (queries[:, :, 2] == [1, 0, 0, 0, 0]).all()
        assert (queries[:, :, 0] == queries[:, :1, 0]).all()
        assert not met & {(int(u), int(i)) for u, i, label in rows if not label}


def test_candidates_are_ranked_among_unmet_items_and_the_positive_comes_once(
    dataset, items_of, folder: Path
) -> None:
    written = (folder / "small.test.negative").read_text().splitlines()
    test, validation = (rows_of(dataset, split) for split in ("test", "validation"))
    assert len(test) == dataset.num_rows(("test",)) < len(items_of) * 21  # duplicates dropped
    for user, items in items_of.items():
        expected = {int(item) for item in written[user].split("\t")[1:]} - {items[-1]}
        mine = test[test[:, 0] == user]
        assert set(mine[mine[:, 2] == 0, 1]) == expected
        held = validation[validation[:, 0] == user]
        negatives = held[held[:, 2] == 0, 1]
        assert len(set(negatives)) == len(negatives) == (15 if len(held) else 0)
        assert not set(negatives) & set(items[:-1])


def test_negatives_are_new_in_every_pass_and_the_same_for_the_same_seed(dataset) -> None:
    passes = [rows_of(dataset, "train", shuffle_seed=seed) for seed in (1, 1, 2)]
    assert (passes[0] == passes[1]).all()
    keys = [{(user, item) for user, item, label in rows if not label} for rows in passes]
    assert keys[0] != keys[2]
    assert liked(passes[0]) == liked(passes[2])
    assert (passes[0][:, 0] != passes[2][:, 0]).any()  # the order of queries, too


@pytest.mark.parametrize("splits", [("train",), ("train", "validation"), ("validation", "test")])
@pytest.mark.parametrize("first_batch", [1, 3, 64, 65, 70])
def test_a_stream_taken_up_again_goes_on_as_it_would_have(dataset, splits, first_batch) -> None:
    def batches(first: int) -> list:
        return list(dataset.batches(splits, 3, shuffle_seed=5, first_batch=first))

    whole, rest = batches(0), batches(first_batch)
    assert len(whole) == -(-dataset.num_rows(splits) // 3)
    assert len(rest) == len(whole) - first_batch > 0
    for (batch, labels), (other, other_labels) in zip(whole[first_batch:], rest, strict=True):
        assert torch.equal(batch.item.values_L, other.item.values_L)
        assert torch.equal(batch.user.values_L, other.user.values_L)
        assert torch.equal(batch.item_to_user_B, other.item_to_user_B)
        assert torch.equal(labels.values_BT, other_labels.values_BT)


def test_a_positive_and_its_negatives_share_a_user_row(dataset) -> None:
    batches = [batch for batch, _ in islice(dataset.batches(("train",), 7, shuffle_seed=0), 5)]
    assert [batch.num_items for batch in batches] == [7] * 5
    assert [batch.num_users for batch in batches] == [2, 2, 3, 2, 2]  # 5 + 2, 3 + 4, 1 + 5 + 1, …


def test_training_rows_and_candidates_do_not_mix(dataset) -> None:
    with pytest.raises(ConfigError, match="--split"):
        dataset.num_rows(("train", "validation", "test"))
    with pytest.raises(ConfigError, match="--split"):
        dataset.batches(("train", "test"), 8)


def test_settings_reach_the_rows_and_their_fingerprint(folder: Path, items_of, dataset) -> None:
    other = open_dataset(f"ncf:{folder}/small", DataSettings(embedding_dim=6, num_negatives=2))
    assert other.num_rows(("train",)) == dataset.num_rows(("train",)) * 3 // 5
    assert other.spec.tables[0].embedding_dim == 6
    assert other.fingerprint != dataset.fingerprint
    seeded = NCFDataset(NCFDataConfig(path=folder, validation_negatives=15, holdout_seed=1))
    assert seeded.rows_fingerprint != dataset.rows_fingerprint
    assert liked(rows_of(seeded, "validation")) != liked(rows_of(dataset, "validation"))
    with pytest.raises(ConfigError, match=r"ncf\.num_negatives"):
        NCFDataConfig(path=folder, num_negatives=0)


def edit(folder: Path, suffix: str, line: int, text: str) -> None:
    file = folder / f"small.{suffix}"
    lines = file.read_text().splitlines()
    lines[line - 1] = text
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("suffix", "line", "text", "said"),
    [
        ("train.rating", 3, "0\tx\t4\t0", r"train\.rating:3: column 'item', value 'x'"),
        ("train.rating", 3, "0\t-7\t4\t0", r"train\.rating:3: column 'item', value '-7'"),
        ("train.rating", 2, "0\t5\t4", r"train\.rating:2: value '0.*3 columns; expected 4"),
        ("train.rating", 2, "", r"train\.rating:2: value '': 1 columns; expected 4"),
        ("test.rating", 2, "0\t59\t4\t0", r"test\.rating:2: column 'user', value 0: tested"),
        ("test.negative", 2, "(1,1)\t5", r"test\.negative:2: .*expected \(1,\d+\), as in the test"),
        ("test.negative", 1, "nobody", r"test\.negative:1: column '\(user,item\)', value 'nobody'"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, suffix, line, text, said) -> None:
    write_ncf(tmp_path)
    edit(tmp_path, suffix, line, text)
    with pytest.raises(DataError, match=said):
        NCFDataset(NCFDataConfig(path=tmp_path, validation_negatives=15))


def test_rows_that_contradict_one_another_are_named(tmp_path: Path) -> None:
    items_of = write_ncf(tmp_path)
    first, tested = items_of[0][0], items_of[0][-1]
    for suffix, line, text, said in (
        ("train.rating", 2, f"0\t{first}\t4\t0", rf"rating:2: column 'item', value '?{first}"),
        ("train.rating", 2, f"0\t{tested}\t4\t0", r"test\.rating:1: .*a training row of the same"),
        ("test.negative", 1, f"(0,{tested})\t{first}", r"negative:1: .*a training row of the same"),
        ("test.negative", 1, f"(0,{tested})\t{tested}", r"negative:1: .*another than the test's"),
        ("test.negative", 1, f"(0,{tested})\t7\t7", r"negative:1: .*items that differ"),
        ("test.negative", 1, f"(0,{tested})\t7\ty", r"negative:1: column 'item', value 'y'"),
        # A hash for an id asked for tables of terabytes, or overflowed.
        ("test.negative", 1, f"(0,{tested})\t{10**17}", r"negative:1: .*0 to 134217727"),
        ("train.rating", 2, f"{10**12}\t1\t4\t0", r"rating:2: column 'user'.*0 to 134217727"),
        ("train.rating", 2, f"0\t{10**17}\t4\t0", r"rating:2: column 'item'.*0 to 134217727"),
    ):
        write_ncf(tmp_path)
        edit(tmp_path, suffix, line, text)
        with pytest.raises(DataError, match=said):
            NCFDataset(NCFDataConfig(path=tmp_path, validation_negatives=15))


def test_missing_files_and_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one file \*\.train\.rating, found none"):
        open_dataset(f"ncf:{tmp_path}")
    write_ncf(tmp_path, prefix="a")
    write_ncf(tmp_path, prefix="b")
    with pytest.raises(DataError, match=r"found a\.train\.rating, b\.train\.rating"):
        open_dataset(f"ncf:{tmp_path}")
    (tmp_path / "a.test.negative").unlink()
    with pytest.raises(DataError, match=r"a\.test\.negative: No such file"):
        open_dataset(f"ncf:{tmp_path}/a")
    lines = (tmp_path / "b.test.negative").read_text().splitlines()
    (tmp_path / "b.test.negative").write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="11 lines; the test has 12"):
        open_dataset(f"ncf:{tmp_path}/b")
    (tmp_path / "b.test.rating").write_text("")
    with pytest.raises(DataError, match=r"b\.test\.rating: empty"):
        open_dataset(f"ncf:{tmp_path}/b")


def test_a_user_with_too_few_unmet_items_is_named(folder: Path, items_of) -> None:
    with pytest.raises(ConfigError, match=r"user: got 0.*145 unmet items or more"):
        NCFDataset(NCFDataConfig(path=folder, validation_negatives=145))


def test_the_published_files_are_read_as_published(shared_data: Path) -> None:
    dataset = NCFDataset(NCFDataConfig(path=shared_data / "ncf_ml1m"))
    assert dataset.num_rows(("train", "validation")) == 5 * 994_169
    assert dataset.num_rows(("train",)) == 5 * (994_169 - 6_040)
    assert dataset.num_rows(("validation",)) == 6_040 * 100
    assert dataset.num_rows(("test",)) == 6_040 * 100 - 156
    assert [table.num_embeddings for table in dataset.spec.tables] == [6_040, 3_706]
