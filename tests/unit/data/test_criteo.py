"""The Criteo reader: values, vocabulary, time split, bounded blocks, and every kind of bad file."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tailrank.core.errors import ConfigError, DataError
from tailrank.data import criteo, criteo_file
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


def expected_ids(
    lines: list[list[str]], fitted: int, min_count: int, encode: list[list[str]] | None = None
) -> np.ndarray:
    """A plain statement of the vocabulary; ids among equally frequent values follow the value."""
    columns = []
    for column in range(14, 40):
        counts = Counter(line[column] for line in lines[:fitted] if line[column])
        known = [
            v for v, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])) if n >= min_count
        ]
        ids = {"": 1, **{value: place + 2 for place, value in enumerate(known)}}
        columns.append([ids.get(line[column], 0) for line in encode or lines])
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
    rows = [batch.item.values_L for batch, _ in scored.batches(("train",), 64)]
    wanted = expected_ids(make_lines(), 150, 2, encode=make_lines(seed=8))
    np.testing.assert_array_equal(torch.cat(rows).view(-1, 26), wanted[:150])
    # It was not fitted on these rows, and more of them change nothing.
    assert scored.for_refit().fingerprint == scored.fingerprint
    with pytest.raises(ConfigError, match=r"integer_buckets: .*26 features"):
        CriteoDataset(CriteoConfig(path=other, integer_buckets=True), vocabulary)


def test_large_and_small_blocks_give_the_same_rows(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "log.tsv", make_lines())
    whole = open_file(path, integer_buckets=True)
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(criteo, "_BLOCK_ROWS", 11)
    pieces = open_file(path, integer_buckets=True)
    assert pieces.fingerprint == whole.fingerprint
    for (left, _), (right, _) in zip(
        whole.batches(("train",), 64), pieces.batches(("train",), 64), strict=True
    ):
        assert torch.equal(left.item.values_L, right.item.values_L)


def test_progress_goes_by_the_file_and_ends_at_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(criteo_file, "_REPORT_SECONDS", -1)
    text = write(tmp_path / "log.tsv", make_lines()).read_bytes()
    (tmp_path / "log.tsv.gz").write_bytes(gzip.compress(text))
    for name in ("log.tsv", "log.tsv.gz"):
        seen: list[tuple[float, str]] = []
        CriteoDataset(
            CriteoConfig(path=tmp_path / name), progress=lambda *told, seen=seen: seen.append(told)
        )
        fractions = [fraction for fraction, _ in seen]
        assert fractions == sorted(fractions)
        assert 0 < fractions[0] <= 1
        assert fractions[-1] == 1.0
        assert all(remark.endswith(" rows/s") for _, remark in seen)
    # 1,000 of about 31,000 bytes at a time.
    assert len(seen) > 20


def test_scratch_names_the_folder_of_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "log.tsv", make_lines())
    CriteoDataset(CriteoConfig(path=path, scratch=tmp_path / "scratch"))
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(DataError, match=r"log\.tsv: "):
        CriteoDataset(CriteoConfig(path=path, scratch=path))


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


COLUMNS = "tab-separated columns; expected 40"
HEX = "expected up to 8 hexadecimal digits or nothing"
INTEGER = "expected an integer of up to 18 digits or nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (short, f"38 {COLUMNS}"),
        (short_beside_long, f"38 {COLUMNS}"),
        (blank, f"1 {COLUMNS}"),
        (spoil(3, "1\n2"), f"4 {COLUMNS}"),
        (spoil(0, "2"), "column 'label', value '2': expected 0 or 1"),
        (spoil(0, ""), "column 'label', value '': expected 0 or 1"),
        (spoil(0, "01"), "column 'label', value '01': expected 0 or 1"),
        (spoil(0, " 1"), "column 'label', value ' 1': expected 0 or 1"),
        (spoil(3, "x7"), f"column 'integer_3', value 'x7': {INTEGER}"),
        (spoil(3, "1.5"), f"column 'integer_3', value '1.5': {INTEGER}"),
        (spoil(3, "-"), f"column 'integer_3', value '-': {INTEGER}"),
        (spoil(3, "1-2"), f"column 'integer_3', value '1-2': {INTEGER}"),
        (spoil(3, "+12"), f"column 'integer_3', value '[+]12': {INTEGER}"),
        (spoil(3, "1_000_000_000"), f"column 'integer_3', value '1_000_000_000': {INTEGER}"),
        (spoil(5, "9" * 19), f"column 'integer_5', value '{'9' * 19}': {INTEGER}"),
        (spoil(13, "7\x00"), rf"column 'integer_13', value '7\\x00': {INTEGER}"),
        (spoil(14, "05db916z"), f"column 'category_1', value '05db916z': {HEX}"),
        (spoil(14, "-5db9164"), f"column 'category_1', value '-5db9164': {HEX}"),
        (spoil(39, "+5db9164"), f"column 'category_26', value '[+]5db9164': {HEX}"),
        (spoil(39, "1105db9164"), f"column 'category_26', value '1105db9164': {HEX}"),
        (spoil(39, "5db9\r"), rf"column 'category_26', value '5db9\\r': {HEX}"),
        (spoil(20, "caf\u00e9"), rf"column 'category_7', value 'caf\\xc3\\xa9': {HEX}"),
    ],
)
@pytest.mark.parametrize("block_bytes", [4000, 1 << 24])
def test_a_bad_row_is_named(tmp_path: Path, monkeypatch, change, message, block_bytes) -> None:
    monkeypatch.setattr(criteo_file, "_BLOCK_BYTES", block_bytes)
    lines = make_lines()
    change(lines)
    path = tmp_path / "log.tsv"
    path.write_bytes("".join("\t".join(line) + "\r\n" for line in lines).encode())
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
