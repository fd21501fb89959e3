"""The Criteo reader: values, vocabulary, time split, bounded blocks, and every kind of bad file."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tailrank.core.errors import ConfigError, DataError
from tailrank.data import criteo_file
from tailrank.data.criteo import CriteoConfig, CriteoDataset
from tailrank.data.vocabulary import Vocabulary

ROWS = 210


def make_lines(rows: int = ROWS, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        integers = [str(v) if v > -3 else "" for v in rng.integers(-4, 60, 13)]
        categories = [f"{v * 7919:08x}" if v else "" for v in rng.zipf(1.6, 26) % 40]
        lines.append([str(rng.integers(2)), *integers, *categories])
    return lines


def write(path: Path, lines: list[list[str]]) -> Path:
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


def open_file(path: Path, **settings: int) -> CriteoDataset:
    return CriteoDataset(CriteoConfig(path=path, **settings))


def expected_ids(lines: list[list[str]], fitted: int, min_count: int) -> np.ndarray:
    """A plain statement of the vocabulary; ids among equally frequent values follow the value."""
    columns = []
    for column in range(14, 40):
        counts = Counter(line[column] for line in lines[:fitted] if line[column])
        known = [
            v for v, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])) if n >= min_count
        ]
        ids = {"": 1, **{value: place + 2 for place, value in enumerate(known)}}
        columns.append([ids.get(line[column], 0) for line in lines])
    return np.array(columns).T


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("block_bytes", [1000, 1 << 24])
def test_every_value_arrives(tmp_path: Path, monkeypatch, suffix: str, block_bytes: int) -> None:
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", block_bytes)
    lines = make_lines()
    path = write(tmp_path / "log.tsv", lines)
    if suffix:
        path = tmp_path / "log.tsv.gz"
        path.write_bytes(gzip.compress((tmp_path / "log.tsv").read_bytes()))
    dataset = open_file(path, min_count=3)
    seen = 0
    for split, (first, last) in {
        "train": (0, 150),
        "validation": (150, 180),
        "test": (180, 210),
    }.items():
        assert dataset.num_rows((split,)) == last - first
        for batch, labels in dataset.batches((split,), 64):
            batch.check(dataset.spec)
            rows = lines[seen : seen + batch.num_items]
            assert labels.values_BT.flatten().tolist() == [float(row[0]) for row in rows]
            values = np.array([[max(int(v or 0), 0) for v in row[1:14]] for row in rows])
            np.testing.assert_allclose(batch.item.dense_RN.numpy(), np.log1p(values), rtol=1e-6)
            ids = batch.item.values_L.view(-1, 26).numpy()
            want = expected_ids(lines, 150, 3)[seen : seen + batch.num_items]
            np.testing.assert_array_equal(ids, want)
            seen += batch.num_items
    assert seen == ROWS


def test_integers_can_be_categories_too(tmp_path: Path) -> None:
    lines = make_lines()
    path = write(tmp_path / "log.tsv", lines)
    dataset = open_file(path, min_count=1, integer_buckets=True)
    plain = open_file(path, min_count=1)
    assert len(dataset.spec.sparse("item")) == 39
    wide = torch.cat([b.item.values_L for b, _ in dataset.batches(("train",), 64)]).view(-1, 39)
    ids = torch.cat([b.item.values_L for b, _ in plain.batches(("train",), 64)]).view(-1, 26)
    assert torch.equal(wide[:, :26], ids)
    # 2 + floor(ln(x) ** 2): 3 -> 3, 7 -> 5, 8 -> 6 and so on; below 3 and missing: each its own.
    expected = {3: 3, 4: 3, 5: 4, 7: 5, 8: 6, 20: 10, 59: 18, 2: 2, 1: 1, 0: 0, -1: -1, -2: -2}
    for column in range(13):
        id_of = {}
        for line, row in zip(lines, wide[:, 26 + column].tolist(), strict=False):
            value = line[1 + column]
            bucket = "missing" if value == "" else expected.get(int(value))
            if bucket is not None:
                assert id_of.setdefault(bucket, row) == row
        assert id_of["missing"] == 1
        assert len(set(id_of.values())) == len(id_of)


def test_refit_knows_the_categories_of_train_and_validation_only(tmp_path: Path) -> None:
    lines = make_lines()
    dataset = open_file(write(tmp_path / "log.tsv", lines), min_count=2)
    refitted = dataset.for_refit()
    ids = torch.cat([b.item.values_L for b, _ in refitted.batches(("test",), 64)]).view(-1, 26)
    np.testing.assert_array_equal(ids.numpy(), expected_ids(lines, 180, 2)[180:])
    assert refitted.fingerprint != dataset.fingerprint
    assert refitted.num_rows(("train", "validation")) == 180


def test_shuffling_permutes_rows_and_first_batch_continues(tmp_path: Path) -> None:
    dataset = open_file(write(tmp_path / "log.tsv", make_lines()))

    def ids(**how: int) -> torch.Tensor:
        batches = dataset.batches(("train",), 32, **how)
        return torch.cat([batch.item.values_L for batch, _ in batches]).view(-1, 26)

    plain, mixed = ids(), ids(shuffle_seed=4)
    assert not torch.equal(plain, mixed)
    assert sorted(plain.tolist()) == sorted(mixed.tolist())
    assert torch.equal(ids(shuffle_seed=4, first_batch=2), mixed[64:])


def test_a_vocabulary_survives_saving_and_serves_other_files(tmp_path: Path) -> None:
    dataset = open_file(write(tmp_path / "log.tsv", make_lines()))
    dataset.vocabulary.save(tmp_path / "vocabulary.safetensors")
    vocabulary = Vocabulary.load(tmp_path / "vocabulary.safetensors")
    assert vocabulary.fingerprint == dataset.vocabulary.fingerprint
    other = write(tmp_path / "other.tsv", make_lines(seed=8))
    scored = CriteoDataset(CriteoConfig(path=other), vocabulary)
    assert scored.spec == dataset.spec
    with pytest.raises(DataError, match="no vocabulary"):
        Vocabulary.load(tmp_path / "absent")
    (tmp_path / "bad").write_bytes(b"\x00" * 20)
    with pytest.raises(DataError, match="damaged"):
        Vocabulary.load(tmp_path / "bad")


def test_counting_in_pieces_equals_counting_at_once() -> None:
    rng = np.random.default_rng(0)
    category = rng.integers(0, 50, (3_000, 2)).astype(np.uint32)
    missing = rng.integers(0, 4, 3_000).astype(np.uint64)
    pieces = [(category[i : i + 7], missing[i : i + 7]) for i in range(0, 3_000, 7)]
    whole = Vocabulary.fit([(category, missing)], 2, 25)
    assert Vocabulary.fit(pieces, 2, 25).fingerprint == whole.fingerprint
    present = category[missing & 1 == 0, 0]
    values, counts = np.unique(present, return_counts=True)
    assert set(whole.known[0]) == set(values[counts >= 25])
    assert 0 < len(whole.known[0]) < 50


def test_scratch_columns_vanish_with_the_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "log.tsv", make_lines())
    scratch = tmp_path / "scratch"
    dataset = CriteoDataset(CriteoConfig(path=path, scratch=scratch))
    assert list(scratch.iterdir())
    del dataset
    assert not list(scratch.iterdir())


def spoil(column: int, value: str):
    def change(lines: list[list[str]]) -> None:
        lines[41][column] = value

    return change


def short(lines: list[list[str]]) -> None:
    del lines[41][38:]


def short_beside_long(lines: list[list[str]]) -> None:
    del lines[41][38:]
    lines[50] += ["ab", "cd"]


def blank(lines: list[list[str]]) -> None:
    lines[41] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (short, "38 tab-separated columns; expected 40"),
        (short_beside_long, "38 tab-separated columns; expected 40"),
        (blank, "1 tab-separated columns"),
        (spoil(0, "2"), "label '2'; expected 0 or 1"),
        (spoil(0, ""), "label ''; expected 0 or 1"),
        (spoil(3, "x7"), "integer_3 'x7'; expected an integer"),
        (spoil(3, "1.5"), "integer_3 '1.5'; expected an integer"),
        (spoil(5, "9" * 25), "integer_5"),
        (spoil(14, "05db916z"), "category_1 '05db916z'; expected up to 8 hex"),
        (spoil(39, "+5db9164"), "category_26 '[+]5db9164'"),
        (spoil(39, "1105db9164"), "category_26"),
        (spoil(20, "caf\u00e9"), "category_7"),
    ],
)
@pytest.mark.parametrize("block_bytes", [4000, 1 << 24])
def test_a_bad_row_is_named(tmp_path: Path, monkeypatch, change, message, block_bytes) -> None:
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", block_bytes)
    lines = make_lines()
    change(lines)
    path = write(tmp_path / "log.tsv", lines)
    with pytest.raises(DataError, match=message) as caught:
        open_file(path)
    assert caught.value.line == 42
    assert str(caught.value).startswith(f"{path}:42: ")


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    with pytest.raises(DataError, match="No such file"):
        open_file(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty; expected rows of 40 columns"):
        open_file(path)
    write(path, make_lines(6))
    with pytest.raises(DataError, match="6 rows; expected at least 7"):
        open_file(path)
    with pytest.raises(DataError, match="Is a directory"):
        open_file(tmp_path)
    rng = np.random.default_rng(0)
    path.write_bytes(rng.bytes(300_000))
    with pytest.raises(DataError, match=r"log.tsv:1: .*columns"):
        open_file(path)
    path.write_bytes(b"\x00" * 300_000)
    with pytest.raises(DataError, match="a line of over 65536 bytes"):
        open_file(path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    text = write(tmp_path / "log.tsv", make_lines()).read_bytes()
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(gzip.compress(text)[:-900])
    with pytest.raises(DataError, match="truncated gzip"):
        open_file(path)
    path.write_bytes(text)
    with pytest.raises(DataError, match="not a sound gzip"):
        open_file(path)


def test_settings_are_checked(tmp_path: Path) -> None:
    for field in ("min_count", "embedding_dim"):
        with pytest.raises(ConfigError, match=field):
            CriteoConfig(path=tmp_path, **{field: 0})


def test_the_real_sample_has_the_documented_shape(shared_data: Path) -> None:
    dataset = open_file(shared_data / "criteo_kaggle" / "train.tsv")
    assert dataset.num_rows(("train", "validation", "test")) == 137_139
    assert [dataset.num_rows((s,)) for s in ("train", "validation", "test")] == [
        97956,
        19591,
        19592,
    ]
    clicks = sum(
        float(labels.values_BT.sum())
        for _, labels in dataset.batches(("train", "validation", "test"), 8192)
    )
    assert clicks / 137_139 == pytest.approx(0.2568, abs=5e-5)
