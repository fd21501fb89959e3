"""MovieLens as queries: against a slow statement, histories, batches, and all kinds of bad file."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.data.movielens_files import write_movielens

from tailrank.core.errors import ConfigError, DataError
from tailrank.data.dataset import SPLITS, Dataset, Split
from tailrank.data.movielens import MovieLensConfig, MovieLensDataset
from tailrank.data.movielens_file import read_movielens
from tailrank.data.registry import DataSettings, open_dataset
from tailrank.features import FeatureBatch, FeatureSpec, Labels, SideFeatures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("movielens")
    write_movielens(folder)
    return folder


def open_folder(folder: Path, **settings: int) -> MovieLensDataset:
    return MovieLensDataset(MovieLensConfig(path=folder, **settings))


def bags(side: SideFeatures, spec: FeatureSpec, name: str) -> list[list[tuple[int, ...]]]:
    """Per row, the ids of each sparse feature."""
    count = len(spec.sparse(name))
    values, offsets = side.values_L.tolist(), side.offsets.tolist()
    cut = [tuple(values[a:b]) for a, b in pairwise(offsets)]
    return [cut[i : i + count] for i in range(0, len(cut), count)]


def rows_of(dataset: Dataset, splits: tuple[Split, ...], batch_items: int, **how: int) -> list:
    """(user's bags, item's bags, label, group) of every row, users repeated."""
    rows = []
    for batch, labels in dataset.batches(splits, batch_items, **how):
        users = bags(batch.user, dataset.spec, "user")
        items = bags(batch.item, dataset.spec, "item")
        assert labels.group_B is not None
        for item, user, label, group in zip(
            items,
            batch.item_to_user_B.tolist(),
            labels.values_BT[:, 0].tolist(),
            labels.group_B.tolist(),
            strict=True,
        ):
            rows.append((tuple(users[user]), tuple(item), label, group))
    return rows


def slow_queries(folder: Path, config: MovieLensConfig) -> dict[Split, list[list[tuple]]]:
    """The log walked row by row, as one would write it down; ratings of a user stand together."""
    users = [line.split("::") for line in (folder / "users.dat").read_text().splitlines()]
    text = (folder / "movies.dat").read_text(encoding="latin-1")
    movies = [line.split("::") for line in text.splitlines()]
    names = sorted({name for _, _, row in movies for name in row.split("|")})
    place_of_user = {row[0]: place for place, row in enumerate(users)}
    place_of_movie = {row[0]: place for place, row in enumerate(movies)}
    years = [int(title[-5:-1]) for _, title, _ in movies]
    ages = ["1", "18", "25", "35", "45", "50", "56"]
    genres = [tuple(names.index(name) for name in row.split("|")) for _, _, row in movies]
    log = [line.split("::") for line in (folder / "ratings.dat").read_text().splitlines()]
    size = config.query_items
    found: dict[Split, list[list[tuple]]] = {split: [] for split in SPLITS}
    cut_log = []
    for row in users:
        mine = [i for i, line in enumerate(log) if line[0] == row[0]]
        cut_log.append([mine[start : start + size] for start in range(0, len(mine), size)])
    keys = iter(np.random.default_rng(config.split_seed).random(sum(map(len, cut_log))))
    for row, queries in zip(users, cut_log, strict=True):
        mine = [i for query in queries for i in query]
        ranked = [query for _, query in sorted((next(keys), query) for query in queries)]
        train = max(len(ranked) * 5 // 7, 1)
        validation = max(len(ranked) * 6 // 7, train)
        parts = (ranked[:train], ranked[train:validation], ranked[validation:])
        for split, part in zip(SPLITS, parts, strict=True):
            for query in sorted(part):
                before = [i for i in mine if i < query[0]][-config.history_max :]
                watched = [place_of_movie[log[i][1]] for i in before]
                user = (
                    (place_of_user[row[0]],),
                    (int(row[1] == "M"),),
                    (ages.index(row[2]),),
                    (int(row[3]),),
                    (int(row[4][:3]),),
                    tuple(watched),
                    tuple(genre for movie in watched for genre in genres[movie]),
                )
                found[split].append(
                    [
                        (
                            user,
                            (
                                (place_of_movie[log[i][1]],),
                                genres[place_of_movie[log[i][1]]],
                                (years[place_of_movie[log[i][1]]] - min(years),),
                            ),
                            float(int(log[i][2]) >= 4),
                            place_of_user[row[0]],
                        )
                        for i in query
                    ]
                )
    return found


@pytest.mark.parametrize("query_items", [4, 20])
def test_rows_equal_a_slow_walk_through_the_log(folder: Path, query_items: int) -> None:
    dataset = open_folder(folder, query_items=query_items, history_max=7, split_seed=3)
    expected = slow_queries(folder, dataset.config)
    for split in SPLITS:
        rows = [row for query in expected[split] for row in query]
        assert rows_of(dataset, (split,), 32) == rows
        assert dataset.num_rows((split,)) == len(rows)
    both = [row for split in SPLITS[:2] for query in expected[split] for row in query]
    assert rows_of(dataset, SPLITS[:2], 1000) == both


def test_batches_fit_the_spec_and_queries_share_user_rows(folder: Path) -> None:
    dataset = open_folder(folder)
    sizes = []
    for batch, labels in dataset.batches(SPLITS, 64, shuffle_seed=1):
        batch.check(dataset.spec)
        assert isinstance(labels, Labels)
        assert batch.num_users < batch.num_items / 2
        assert batch.item_to_user_B.unique().tolist() == list(range(batch.num_users))
        sizes.append(batch.num_items)
    assert set(sizes[:-1]) == {64}
    assert sum(sizes) == dataset.num_rows(SPLITS) == len(read_movielens(folder).user_B)


def test_ids_of_a_bag_of_the_user_weigh_one_in_all(folder: Path) -> None:
    dataset = open_folder(folder, history_max=3)
    for batch, _ in dataset.batches(("train",), 64):
        weights = batch.user.weights_L
        assert weights is not None
        assert batch.item.weights_L is None
        for bag in weights.split(batch.user.offsets.diff().tolist()):
            assert all(weight == pytest.approx(1 / len(bag)) for weight in bag.tolist())


def test_a_shuffle_reorders_queries_and_can_be_taken_up_anywhere(folder: Path) -> None:
    dataset = open_folder(folder, query_items=5)
    expected = slow_queries(folder, dataset.config)["train"]
    rows = rows_of(dataset, ("train",), 48, shuffle_seed=2)
    assert rows_of(dataset, ("train",), 7, shuffle_seed=2) == rows
    assert rows_of(dataset, ("train",), 48, shuffle_seed=2, first_batch=2) == rows[96:]
    assert rows_of(dataset, ("train",), 48, shuffle_seed=3) != rows
    left, order = list(rows), []
    while left:
        number = next(n for n, query in enumerate(expected) if left[: len(query)] == query)
        order.append(number)
        del left[: len(expected[number])]
    assert order != sorted(order)
    assert sorted(order) == list(range(len(expected)))


def test_no_candidate_is_in_its_own_history_and_users_learned_are_users_tested(
    folder: Path,
) -> None:
    dataset = open_folder(folder)
    names = [feature.name for feature in dataset.spec.sparse("user")]
    history = names.index("history_movies")
    for split in SPLITS:
        rows = rows_of(dataset, (split,), 512)
        assert all(item[0][0] not in user[history] for user, item, _, _ in rows)
        if split != "validation":  # which users of few ratings lack
            assert {group for *_, group in rows} == set(range(9))
    assert any(user[history] == () for user, *_ in rows_of(dataset, ("train",), 512))


def test_a_user_of_one_query_is_trained_on(folder: Path) -> None:
    dataset = open_folder(folder, query_items=60)
    assert dataset.num_rows(("train",)) == dataset.num_rows(SPLITS)
    assert rows_of(dataset, ("test",), 8) == []


def test_histories_are_as_long_in_every_split(shared_data: Path) -> None:
    folder = shared_data / "movielens_1m"
    if not folder.is_dir():
        pytest.skip(f"no MovieLens-1M at {folder}")
    dataset = open_folder(folder)
    bag = [f.name for f in dataset.spec.sparse("user")].index("history_movies")
    count = len(dataset.spec.sparse("user"))
    mean = {}
    for split in SPLITS:
        lengths = [
            batch.user.offsets.diff().view(-1, count)[:, bag]
            for batch, _ in dataset.batches((split,), 1 << 16)
        ]
        mean[split] = float(torch.cat(lengths).double().mean())
    # Rounding gives users of few queries another weight, and no more.
    assert mean["test"] == pytest.approx(mean["train"], rel=0.1), mean
    assert mean["validation"] == pytest.approx(mean["train"], rel=0.1), mean


def test_both_forms_of_ratings_are_the_same_data(folder: Path, tmp_path: Path) -> None:
    write_movielens(tmp_path, arrays=True)
    text, arrays = open_folder(folder), open_folder(tmp_path)
    assert arrays.fingerprint == text.fingerprint
    assert rows_of(arrays, SPLITS, 100) == rows_of(text, SPLITS, 100)


def test_rows_that_are_not_grouped_by_user_keep_the_order_of_each_user(
    folder: Path, tmp_path: Path
) -> None:
    write_movielens(tmp_path)
    file = tmp_path / "ratings.dat"
    lines = file.read_text().splitlines()
    # Users take turns, and each user's own rows have another order than before.
    mixed = sorted(lines, key=lambda line: (len(line), line[::-1]))
    users = dict.fromkeys(int(line.split("::")[0]) for line in lines)
    together = [line for user in users for line in mixed if line.startswith(f"{user}::")]
    file.write_text("\n".join(mixed) + "\n")
    scattered = rows_of(open_folder(tmp_path), SPLITS, 100)
    file.write_text("\n".join(together))
    assert rows_of(open_folder(tmp_path), SPLITS, 100) == scattered


def test_fingerprints_tell_rows_from_their_encoding(folder: Path) -> None:
    base = open_folder(folder)
    wider, reseeded = open_folder(folder, embedding_dim=8), open_folder(folder, split_seed=1)
    assert wider.rows_fingerprint == base.rows_fingerprint
    assert wider.fingerprint != base.fingerprint
    assert reseeded.rows_fingerprint != base.rows_fingerprint
    assert open_folder(folder, query_items=5).rows_fingerprint != base.rows_fingerprint
    assert base.fitted_fingerprint is None
    assert base.for_refit() is base


def test_it_is_opened_by_name(folder: Path) -> None:
    dataset = open_dataset(f"movielens:{folder}", DataSettings(embedding_dim=4))
    assert dataset.name == "movielens"
    tables = {table.name: table.num_embeddings for table in dataset.spec.tables}
    assert tables["movie"] == 60
    assert tables["year"] == 40
    assert {table.embedding_dim for table in dataset.spec.tables} == {4}
    shared = {f.name: f.table for f in dataset.spec.features}
    assert shared["history_movies"] == shared["movie_id"]
    assert shared["history_genres"] == shared["genres"]


@pytest.mark.parametrize("field", ["history_max", "query_items", "embedding_dim"])
def test_bad_settings_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        MovieLensConfig(path=Path(), **{field: 0})


@pytest.mark.parametrize(
    ("file", "line", "text", "expected"),
    [
        ("users.dat", 2, "3::M::18::1", "4 columns; expected 5"),
        ("users.dat", 2, "x::M::18::1::48067", "column 'user', value 'x': expected a number"),
        ("users.dat", 2, "1::M::18::1::48067", "column 'user', value '1': there is a line of it"),
        ("users.dat", 2, "3::X::18::1::48067", "column 'gender', value 'X': expected F or M"),
        ("users.dat", 2, "3::M::19::1::48067", "column 'age', value '19': expected one of 1, 18"),
        ("users.dat", 2, "3::M::18::21::48067", "column 'occupation', value '21': expected 0 to"),
        ("users.dat", 2, "3::M::18::1::4a067", "column 'zip', value '4a067': expected at least"),
        ("movies.dat", 3, "8::No year::Drama", r"column 'title', value 'No year': expected \(YE"),
        ("movies.dat", 3, "8::A (1999)::Drama|Odd", "column 'genres', value 'Odd': expected publ"),
        ("movies.dat", 3, "2::A (1999)::Drama", "column 'movie', value '2': there is a line of it"),
        ("ratings.dat", 4, "1::2::5", "3 columns; expected 4: user::movie::rating::time"),
        ("ratings.dat", 4, "1::2::5::7::8", "5 columns; expected 4"),
        ("ratings.dat", 4, "1:2::5::7", "3 columns; expected 4"),
        ("ratings.dat", 4, "", "1 columns; expected 4"),
        ("ratings.dat", 4, "1::2::good::7", "column 'rating', value 'good': expected a number"),
        ("ratings.dat", 4, "1::2::4.5::7", "column 'rating', value '4.5': expected a number"),
        ("ratings.dat", 4, "1::2::6::7", "column 'rating', value 6: expected 1 to 5"),
        ("ratings.dat", 4, "2::2::5::7", r"column 'user', value 2: not in users\.dat"),
        ("ratings.dat", 4, "1::1::5::7", r"column 'movie', value 1: not in movies\.dat"),
    ],
)
def test_a_bad_line_is_named(
    folder: Path, tmp_path: Path, file: str, line: int, text: str, expected: str
) -> None:
    for name in ("users.dat", "movies.dat", "ratings.dat"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = (tmp_path / file).read_bytes().split(b"\n")
    lines[line - 1] = text.encode()
    (tmp_path / file).write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"{file}:{line}: .*{expected}"):
        read_movielens(tmp_path)


def test_a_movie_rated_twice_and_a_user_of_few_ratings_are_refused(tmp_path: Path) -> None:
    write_movielens(tmp_path)
    file = tmp_path / "ratings.dat"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(DataError, match=rf"ratings\.dat:{len(lines) + 1}: column 'movie'.* before"):
        read_movielens(tmp_path)
    file.write_text("\n".join(lines[2:]))
    few = sum(line.startswith("1::") for line in lines[2:])
    file.write_text("\n".join(lines[few + 2 - 19 :]))
    with pytest.raises(DataError, match=r"ratings\.dat:1: column 'user', value 1: fewer than 20"):
        read_movielens(tmp_path)


@pytest.mark.parametrize("name", ["users.dat", "movies.dat", "ratings.dat"])
def test_missing_and_empty_files_are_named(folder: Path, tmp_path: Path, name: str) -> None:
    for other in ("users.dat", "movies.dat", "ratings.dat"):
        if other != name:
            (tmp_path / other).write_bytes((folder / other).read_bytes())
    reason = "neither ratings.dat nor" if name == "ratings.dat" else "No such file"
    with pytest.raises(DataError, match=reason):
        read_movielens(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name}: empty"):
        read_movielens(tmp_path)


def np_bytes(array: np.ndarray) -> bytes:
    """An .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_damage_inside_packed_arrays_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("users.dat", "movies.dat"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    file = tmp_path / "ml1m_ratings_file_order.npz"
    np.savez_compressed(file, user=np.arange(999), movie=np.arange(999), rating=np.arange(999))
    text = bytearray(file.read_bytes())
    text[100:200] = b"\xff" * 100
    file.write_bytes(text)
    with pytest.raises(DataError, match=r"not a sound \.npz file"):
        read_movielens(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"user": [1], "movie": [2]}, "column 'rating': no such array"),
        ({"user": [1], "movie": [2, 5], "rating": [5]}, "column 'movie': .*expected integers"),
        ({"user": [1], "movie": [2], "rating": [4.5]}, "column 'rating': float64 array"),
        ({"user": [1], "movie": [3], "rating": [5]}, ":1: column 'movie', value 3: not in movies"),
        (b"not a zip", r"not a sound \.npz file"),
        (np_bytes(np.arange(3)), r"not a sound \.npz file"),
    ],
)
def test_bad_arrays_are_named(
    folder: Path, tmp_path: Path, arrays: dict | bytes, reason: str
) -> None:
    for name in ("users.dat", "movies.dat"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    file = tmp_path / "ml1m_ratings_file_order.npz"
    if isinstance(arrays, bytes):
        file.write_bytes(arrays)
    else:
        np.savez(file, **{name: np.array(values) for name, values in arrays.items()})
    with pytest.raises(DataError, match=reason):
        read_movielens(tmp_path)


def test_the_published_files_are_read(shared_data: Path) -> None:
    folder = shared_data / "movielens_1m"
    if not folder.is_dir():
        pytest.skip(f"no MovieLens-1M at {folder}")
    dataset = open_folder(folder)
    assert dataset.num_rows(SPLITS) == 1_000_209
    assert dataset.num_rows(("train",)) / 1_000_209 == pytest.approx(5 / 7, abs=0.03)
    liked = users = items = 0.0
    for batch, labels in dataset.batches(SPLITS, 4096, shuffle_seed=0):
        liked += float(labels.values_BT.sum())
        users, items = users + batch.num_users, items + batch.num_items
    batch.check(dataset.spec)
    assert liked / items == pytest.approx(0.57516, abs=1e-5)
    assert items / users > 8
    assert isinstance(batch, FeatureBatch)
    assert torch.equal(batch.item_to_user_B.unique(), torch.arange(batch.num_users))
