"""Feature tables: what is looked up is what a request would have brought; bad files are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.data.table_files import make_rows, open_file, write_parquet
from tests.unit.data.test_fitted_encoder import encoder_of, rows_of
from tests.unit.serving.served import SPEC, row_ids_and_unknown

from tailrank.core.errors import ConfigError, DataError, RequestError
from tailrank.data.row_encoder import RowEncoder, row_ids
from tailrank.features import Feature, FeatureSpec, Side, SideFeatures
from tailrank.kernels import feature_rows
from tailrank.serving import feature_tables, id_index
from tailrank.serving.feature_files import open_feature_table
from tailrank.serving.feature_tables import FeatureTable
from tailrank.serving.id_index import IdIndex, number_ids, text_ids, text_itemsize

ITEMS = [
    {"id": f"m{n * 7 % 50}", "movie": n, "tags": list(range(n % 4)), "sizes": [n / 2, -1.0]}
    for n in range(50)
]


@pytest.fixture(params=["native", "numpy"], autouse=True, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Native calls and NumPy do the same."""
    if request.param == "native" and not feature_rows.is_available():
        pytest.skip("there are no native kernels: native lookups of features are NOT TESTED")
    with pytest.MonkeyPatch.context() as patch:
        for module in (feature_tables, id_index) if request.param == "numpy" else ():
            patch.setattr(module, "is_available", lambda: False)
        yield


def opened(
    path: Path,
    rows: Any,
    side: Side = "item",
    spec: FeatureSpec = SPEC,
    encoder: RowEncoder | None = None,
    **others: Any,
) -> FeatureTable:
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows, strict=False)
    frame.write_parquet(path)
    settings = {"version": "1", "cache": path.parent / "cache", **others}
    encoder = encoder or row_ids(spec)
    return open_feature_table(path, side, spec=spec, encoder=encoder, **settings)


def assert_same(one: SideFeatures, other: SideFeatures) -> None:
    assert torch.equal(one.values_L, other.values_L)
    assert torch.equal(one.offsets, other.offsets)
    assert torch.equal(one.dense_RN, other.dense_RN)
    assert one.values_L.dtype == other.values_L.dtype
    assert one.dense_RN.dtype == other.dense_RN.dtype
    if other.weights_L is None:
        assert one.weights_L is None
    else:
        assert one.weights_L is not None
        assert torch.equal(one.weights_L, other.weights_L)


@pytest.mark.parametrize("mean", [frozenset(), frozenset({"item"})], ids=["sum", "mean"])
@pytest.mark.parametrize("kind", [str, int])
def test_rows_are_as_a_request_brings_them(tmp_path: Path, kind: type, mean: frozenset) -> None:
    encoder = row_ids(SPEC, mean)
    ids = {row["id"]: row["id"] if kind is str else int(row["id"][1:]) * 10**9 for row in ITEMS}
    rows = [row | {"id": ids[row["id"]]} for row in ITEMS]
    table = opened(tmp_path / "items.parquet", rows, encoder=encoder)
    assert table.num_rows == 50
    chosen = [7, 7, 0, 49, 13]
    found = table.features([rows[row]["id"] for row in chosen], "item_ids")
    assert_same(found, encoder.side(rows_of(encoder, "item", [rows[row] for row in chosen])))


@pytest.mark.parametrize("mean", [frozenset(), frozenset({"item"})], ids=["sum", "mean"])
@pytest.mark.parametrize("chosen", [[49, 0, 49, 21], [3], [4, 8, 12], [3, 4]])
def test_rows_of_one_length_are_copied_whole(
    tmp_path: Path, chosen: list[int], mean: frozenset
) -> None:
    # A row in four is shorter than the others.
    rows = [row | {"tags": [7, row["movie"]] if row["movie"] % 4 else []} for row in ITEMS]
    encoder = row_ids_and_unknown(SPEC, mean)
    table = opened(tmp_path / "items.parquet", rows, encoder=encoder)
    found = table.features([rows[row]["id"] for row in chosen], "item_ids")
    assert_same(found, encoder.side(rows_of(encoder, "item", [rows[row] for row in chosen])))
    unknown = table.features(["nobody", "nobody"], "item_ids", default=True)
    assert_same(unknown, SideFeatures.concat([encoder.unknown("item")] * 2))


@pytest.mark.parametrize("mean", [frozenset(), frozenset({"item"})], ids=["sum", "mean"])
@pytest.mark.parametrize("sizes", [(1, 2), (0, 3), (0, 0), (2, 0)])
def test_rows_of_equal_bags(tmp_path: Path, sizes: tuple[int, int], mean: frozenset) -> None:
    spec = FeatureSpec(
        features=(
            Feature(name="movie", side="item", kind="bag", table="movie", pooling_factor=2.0),
            *SPEC.features[3:],
        ),
        tables=SPEC.tables,
    )
    encoder = row_ids(spec, mean)
    first, second = sizes
    rows = [row | {"movie": [row["movie"]] * first, "tags": list(range(second))} for row in ITEMS]
    table = opened(tmp_path / "items.parquet", rows, spec=spec, encoder=encoder)
    for chosen in ([49, 0, 49, 21], [3]):
        found = table.features([rows[row]["id"] for row in chosen], "item_ids")
        wanted = encoder.side(rows_of(encoder, "item", [rows[row] for row in chosen]))
        assert_same(found, wanted)
    mixed = table.features(["m7", "nobody", "m0"], "item_ids", default=True)
    known = encoder.side(rows_of(encoder, "item", [rows[1]]))
    last = encoder.side(rows_of(encoder, "item", [rows[0]]))
    assert_same(mixed, SideFeatures.concat([known, encoder.unknown("item"), last]))
    rows[7]["tags"] = [1, 2, 3, 4]
    other = opened(tmp_path / "items.parquet", rows, spec=spec, encoder=encoder)
    for chosen in ([7], [7, 8, 7]):
        found = other.features([rows[row]["id"] for row in chosen], "item_ids")
        wanted = encoder.side(rows_of(encoder, "item", [rows[row] for row in chosen]))
        assert_same(found, wanted)


def test_a_fitted_vocabulary_and_the_id_as_a_feature(tmp_path: Path) -> None:
    log = make_rows()
    dataset = open_file(write_parquet(tmp_path / "log.parquet", log))
    encoder = encoder_of(dataset, tmp_path / "model")
    spec = dataset.spec
    users = {row["user"]: row for row in log if row["user"] is not None}
    rows = [{name: row[name] for name in ("seen", "user", "age")} for row in users.values()]
    path = tmp_path / "users.parquet"
    table = opened(path, rows, "user", spec, encoder, id_column="user")
    for row in rows:
        found = table.features([row["user"]], "user_id")
        assert_same(found, encoder.side(rows_of(encoder, "user", [row])))


def test_one_id_in_every_bag_needs_no_offsets(tmp_path: Path) -> None:
    rows = [row | {"tags": [row["movie"] % 50]} for row in ITEMS]
    path = tmp_path / "items.parquet"
    encoder = row_ids_and_unknown(SPEC)
    rows[0]["tags"] = [1, 2]
    assert opened(path, rows, encoder=encoder).offsets is not None
    rows[0]["tags"] = [3]
    table = opened(path, rows, encoder=encoder)
    # The default row has no tag.
    assert table.offsets is not None
    spec = FeatureSpec(features=SPEC.features[2:3], tables=SPEC.tables)
    table = opened(path, rows, spec=spec, version="2")
    assert table.offsets is None
    encoder = row_ids(spec)
    found = table.features(["m7", "m0"], "item_ids")
    assert_same(found, encoder.side(rows_of(encoder, "item", [rows[1], rows[0]])))


def test_the_second_start_reads_what_the_first_wrote(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "items.parquet"
    first = opened(path, ITEMS, announce=said.append)
    again = opened(path, ITEMS, announce=said.append)
    assert len(said) == 1
    assert_same(again.features(["m7", "m0"], "x"), first.features(["m7", "m0"], "x"))
    assert not again.values_L.flags.writeable  # mapped
    opened(path, ITEMS, announce=said.append, version="2")
    opened(path, ITEMS[:40], announce=said.append)
    assert len(said) == 3
    (folder,) = {Path(line.rsplit(" ", 1)[1]) for line in said[2:]}
    file = folder / "values_L.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"values_L.bin: \d+ bytes of \d+; delete its folder"):
        opened(path, ITEMS[:40])
    (folder / "table.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        opened(path, ITEMS[:40])


def test_without_a_row_for_the_unknown_there_is_no_default_row(tmp_path: Path) -> None:
    for cache in ("fresh", "fresh", "other"):
        table = opened(tmp_path / "items.parquet", ITEMS, cache=tmp_path / cache)
        for default in (False, True):
            reason = r"^item_ids: not in the .*: 'x1'; there is no default row: .* unknown movie$"
            with pytest.raises(RequestError, match=reason):
                table.features(["m7", "x1"], "item_ids", default=default)
        assert table.features(["m0"], "item_ids", default=True).values_L.tolist() == [0]
    # Of lists, and of numbers, nothing is known that way: they are empty, and 0.
    users = [{"user": n, "age": float(n), "seen": [n]} for n in range(3)]
    table = opened(tmp_path / "users.parquet", users, side="user")
    nobody = table.features([9], "user_id", default=True)
    assert (nobody.values_L.tolist(), nobody.dense_RN.tolist()) == ([], [[0.0]])


def test_unknown_ids_are_named_or_have_the_default_row(tmp_path: Path) -> None:
    table = opened(tmp_path / "items.parquet", ITEMS, encoder=row_ids_and_unknown(SPEC))
    ids = ["m7", *(f"x{n}" for n in range(7)), "m0"]
    with pytest.raises(RequestError, match=r"^item_ids: not in the .*: 'x0', .*'x4' and 2 more"):
        table.features(ids, "item_ids")
    found = table.features(ids, "item_ids", default=True)
    assert found.values_L.tolist() == [1, 0] + [0] * 7 + [0]
    assert found.offsets.diff().tolist() == [1, 1] + [1, 0] * 7 + [1, 0]
    assert found.dense_RN.tolist() == [[0.5, -1.0], *[[0.0, 0.0]] * 7, [0.0, -1.0]]
    for wrong in (3, True, None, 1.5, ["m7"]):
        with pytest.raises(ConfigError, match=r"item_ids\[1\].*a text, as in the feature table"):
            table.features(["m7", wrong], "item_ids")


CASES: list[tuple[dict[str, list[Any]], str]] = [
    ({"id": ["a", None, "c"]}, r"row 2: column 'id': no id"),
    ({"id": ["a", "b", ""]}, r"row 3: column 'id', value '': no id"),
    ({"id": ["a", "b", "a"]}, r"row 3: column 'id', value 'a': an id that is there before"),
    ({"id": [1.0, 2.0, 3.0]}, r"column 'id': holds Float64; expected ids"),
    ({"id": ["a", "b", "\0"]}, r"row 3: column 'id'.*at most 255 bytes"),
    ({"id": ["a", "é" * 128, "b"]}, r"row 2: column 'id'.*at most 255 bytes"),
    (
        {"movie": [1, 2, 1000]},
        r"row 3: column 'movie', value 1000: expected whole numbers 0 to 999",
    ),
    ({"movie": ["1", "2", "3"]}, r"row 1: column 'movie', value '1': expected whole"),
    ({"sizes": [[1.0, 2.0], [1.0], [0.0, 0.0]]}, r"row 2: column 'sizes'.*a list of 2 finite"),
    ({"tags": [[1], [2, 50], []]}, r"row 2: column 'tags'.*0 to 49"),
]


@pytest.mark.parametrize(("change", "message"), CASES)
def test_a_bad_file_is_refused_by_row_and_column(
    tmp_path: Path, change: dict[str, list[Any]], message: str
) -> None:
    good = {name: [row[name] for row in ITEMS[:3]] for name in ITEMS[0]}
    path = tmp_path / "items.parquet"
    with pytest.raises(DataError, match=message) as caught:
        opened(path, pl.DataFrame(good | change, strict=False))
    assert str(caught.value).startswith(f"{path}: ")
    assert not list((tmp_path / "cache").glob("*"))  # whole or absent


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    frame = pl.DataFrame(ITEMS)
    with pytest.raises(DataError, match=r"'tags': no such column; .*there are id, movie, sizes"):
        opened(path, frame.drop("tags"))
    with pytest.raises(DataError, match="'key': no such column"):
        opened(path, frame, id_column="key")
    with pytest.raises(DataError, match="empty: no rows"):
        opened(path, frame.clear())
    with pytest.raises(ConfigError, match=r"--item-features.*a Parquet file"):
        open_feature_table(
            tmp_path / "t.csv", "item", spec=SPEC, encoder=row_ids(SPEC), version="", cache=tmp_path
        )
    with pytest.raises(DataError, match="no such file"):
        open_feature_table(
            tmp_path / "t.pq", "item", spec=SPEC, encoder=row_ids(SPEC), version="", cache=tmp_path
        )


TEXTS = st.text("ab\0é", max_size=9) | st.sampled_from(["x" * 8, "x" * 16, "é" * 100, "\ud800"])


@settings(max_examples=30, deadline=None)
@given(st.sets(TEXTS.filter(lambda t: t and "\0" not in t), min_size=1), st.lists(TEXTS))
def test_any_texts_are_found_and_no_others(known: set[str], others: list[str]) -> None:
    ids = sorted(known)
    itemsize = text_itemsize(max(len(text.encode(errors="surrogatepass")) for text in ids))
    index = IdIndex.build(text_ids(ids, itemsize)[0])
    asked = ids + others + [ids[0] + "x" * itemsize]
    found = index.find(asked)
    assert found.known_L.tolist() == [text in known for text in asked]
    assert [ids[row] for row in found.row_L[found.known_L]] == [t for t in asked if t in known]


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(-(2**63), 2**63 - 1), min_size=1), st.lists(st.integers()))
def test_any_numbers_are_found_and_no_others(known: set[int], others: list[int]) -> None:
    ids = sorted(known)
    index = IdIndex.build(number_ids(ids)[0])
    asked = ids + others + [2**63, -(2**70)]
    found = index.find(asked)
    assert found.known_L.tolist() == [number in known for number in asked]
    assert [ids[row] for row in found.row_L[found.known_L]] == [n for n in asked if n in known]


def test_a_long_run_of_ids_is_found() -> None:
    ids = np.arange(100_000) << 20
    index = IdIndex.build(ids)
    found = index.find(ids[::7].tolist())
    assert found.known_L.all()
    assert np.array_equal(found.row_L, np.arange(100_000)[::7])
