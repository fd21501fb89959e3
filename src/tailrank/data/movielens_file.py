"""Reads the published MovieLens-1M files: users, movies, ratings.

    users.dat     UserID::Gender::Age::Occupation::Zip-code
    movies.dat    MovieID::Title (Year)::Genre|Genre|…, in Latin-1
    ratings.dat   UserID::MovieID::Rating::Timestamp

In place of `ratings.dat` there may be `ml1m_ratings_file_order.npz` with its first three columns as
arrays `user`, `movie` and `rating`. Every fault names file, line, column and value; a line of the
arrays is a row from 1. Knows no split, no feature and no model.

Legend: U users, M movies, B ratings, L genres of all movies.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tailrank.core.errors import DataError

USERS_FILE, MOVIES_FILE, RATINGS_FILE = "users.dat", "movies.dat", "ratings.dat"
RATINGS_ARRAYS_FILE = "ml1m_ratings_file_order.npz"
AGES = (1, 18, 25, 35, 45, 50, 56)
NUM_OCCUPATIONS = 21
ZIP_DIGITS = 3
GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
RATINGS_MIN = 20
"""Ratings of every user, as published; so each has rows in every split."""
_RATING_COLUMNS = ("user", "movie", "rating")
_NUMBER = re.compile(r"[0-9]{1,18}")
_ZIP = re.compile(r"[0-9]{3}[0-9-]*")
_YEAR = re.compile(r"\(([0-9]{4})\)$")

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MovieLensRows:
    """The three files; users and movies are numbered by their place in their files.

    Args:
        gender_U: 0 for F, 1 for M.
        age_U: place in `AGES`.
        occupation_U: as published, 0 to 20.
        zip_U: first three digits.
        year_M: of the movie.
        genre_L: places in `GENRES`, movie after movie.
        num_genres_M: how many each movie has.
        user_B: the user of each rating.
        movie_B: the movie of each rating.
        rating_B: 1 to 5.
        sha256: of everything above, in the form it was read in: the same for both forms of ratings.
    """

    gender_U: Ints
    age_U: Ints
    occupation_U: Ints
    zip_U: Ints
    year_M: Ints
    genre_L: Ints
    num_genres_M: Ints
    user_B: Ints
    movie_B: Ints
    rating_B: Ints
    sha256: str


def read_movielens(folder: Path) -> MovieLensRows:
    """Read the three files of a folder.

    Raises:
        DataError: a file is missing or a line is not in the format; names line, column, value.
    """
    digest = hashlib.sha256()
    users, movies = _read_users(folder / USERS_FILE), _read_movies(folder / MOVIES_FILE)
    for name in (USERS_FILE, MOVIES_FILE):
        digest.update((folder / name).read_bytes())
    file = folder / RATINGS_FILE
    if file.exists():
        columns = _read_ratings(file)
    elif (folder / RATINGS_ARRAYS_FILE).exists():
        file = folder / RATINGS_ARRAYS_FILE
        columns = _read_arrays(file)
    else:
        raise DataError(folder, f"neither {RATINGS_FILE} nor {RATINGS_ARRAYS_FILE} is here")
    if not len(columns["rating"]):
        raise DataError(file, "empty; expected ratings")
    for name in _RATING_COLUMNS:
        digest.update(columns[name].tobytes())
    user_B = _numbers(file, "user", columns["user"], users.ids, USERS_FILE)
    movie_B = _numbers(file, "movie", columns["movie"], movies.ids, MOVIES_FILE)
    rating_B = columns["rating"]
    _refuse_first(file, "rating", rating_B, (rating_B < 1) | (rating_B > 5), "expected 1 to 5")
    pair_B = user_B * len(movies.ids) + movie_B
    order = np.argsort(pair_B, kind="stable")
    repeated = np.zeros(len(pair_B), dtype=np.bool_)
    repeated[order[1:]] = pair_B[order[1:]] == pair_B[order[:-1]]
    _refuse_first(file, "movie", columns["movie"], repeated, "rated before by the same user")
    few_B = np.bincount(user_B)[user_B] < RATINGS_MIN
    reason = f"fewer than {RATINGS_MIN} ratings of this user"
    _refuse_first(file, "user", columns["user"], few_B, reason)
    return MovieLensRows(
        gender_U=users.gender_U,
        age_U=users.age_U,
        occupation_U=users.occupation_U,
        zip_U=users.zip_U,
        year_M=movies.year_M,
        genre_L=movies.genre_L,
        num_genres_M=movies.num_genres_M,
        user_B=user_B,
        movie_B=movie_B,
        rating_B=rating_B,
        sha256=digest.hexdigest(),
    )


class _Users:
    """Columns of `users.dat`."""

    def __init__(self, ids: list[int], columns: list[tuple[int, int, int, int]]) -> None:
        self.ids = np.array(ids, dtype=np.int64)
        self.gender_U, self.age_U, self.occupation_U, self.zip_U = (
            np.array(column, dtype=np.int64) for column in zip(*columns, strict=True)
        )


class _Movies:
    """Columns of `movies.dat`."""

    def __init__(self, ids: list[int], years: list[int], genres: list[list[int]]) -> None:
        self.ids = np.array(ids, dtype=np.int64)
        self.year_M = np.array(years, dtype=np.int64)
        self.genre_L = np.array([genre for row in genres for genre in row], dtype=np.int64)
        self.num_genres_M = np.array([len(row) for row in genres], dtype=np.int64)


def _read_users(file: Path) -> _Users:
    """Read `users.dat`."""
    ids: dict[int, None] = {}
    columns = []
    for line, (user, gender, age, occupation, zip_code) in _lines(
        file, ("user", "gender", "age", "occupation", "zip")
    ):
        _new_id(file, line, "user", user, ids)
        if gender not in ("F", "M"):
            raise DataError(file, "expected F or M", line, column="gender", value=gender)
        if not _NUMBER.fullmatch(age) or int(age) not in AGES:
            allowed = f"expected one of {', '.join(map(str, AGES))}"
            raise DataError(file, allowed, line, column="age", value=age)
        if not _NUMBER.fullmatch(occupation) or int(occupation) >= NUM_OCCUPATIONS:
            allowed = f"expected 0 to {NUM_OCCUPATIONS - 1}"
            raise DataError(file, allowed, line, column="occupation", value=occupation)
        if not _ZIP.fullmatch(zip_code):
            allowed = f"expected at least {ZIP_DIGITS} digits"
            raise DataError(file, allowed, line, column="zip", value=zip_code)
        place = AGES.index(int(age))
        columns.append((int(gender == "M"), place, int(occupation), int(zip_code[:ZIP_DIGITS])))
    return _Users(list(ids), columns)


def _read_movies(file: Path) -> _Movies:
    """Read `movies.dat`."""
    ids: dict[int, None] = {}
    years, genres = [], []
    for line, (movie, title, names) in _lines(file, ("movie", "title", "genres")):
        _new_id(file, line, "movie", movie, ids)
        year = _YEAR.search(title)
        if year is None:
            raise DataError(file, "expected (YEAR) at the end", line, column="title", value=title)
        foreign = [name for name in names.split("|") if name not in GENRES]
        if foreign:
            reason = "expected published genres, joined by |"
            raise DataError(file, reason, line, column="genres", value=foreign[0])
        years.append(int(year[1]))
        genres.append([GENRES.index(name) for name in names.split("|")])
    return _Movies(list(ids), years, genres)


def _lines(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Numbers and fields of the lines of a file.

    Raises:
        DataError: missing, empty, or a line with another number of columns.
    """
    try:
        lines = file.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise DataError(file, error.strerror or str(error)) from None
    if not lines:
        raise DataError(file, "empty; expected lines of " + "::".join(columns))
    for number, line in enumerate(lines, start=1):
        fields = line.split("::")
        if len(fields) != len(columns):
            reason = f"{len(fields)} columns; expected {len(columns)}: {'::'.join(columns)}"
            raise DataError(file, reason, number, value=line)
        yield number, fields


def _new_id(file: Path, line: int, column: str, text: str, ids: dict[int, None]) -> None:
    """Add an id that must be a number not seen before."""
    if not _NUMBER.fullmatch(text):
        raise DataError(file, "expected a number", line, column=column, value=text)
    if int(text) in ids:
        raise DataError(file, "there is a line of it already", line, column=column, value=text)
    ids[int(text)] = None


def _read_ratings(file: Path) -> dict[str, Ints]:
    """Read `ratings.dat` at the speed of polars; faults are then looked for line by line."""
    names = (*_RATING_COLUMNS, "time")
    # Polars takes separators of one byte, so the published two make an empty column in between.
    schema: dict[str, pl.DataType | type[pl.DataType]] = {}
    for name in names:
        schema |= {name: pl.Int64, f"after_{name}": pl.String}
    schema.popitem()
    try:
        text = file.read_bytes()
        frame = pl.read_csv(
            io.BytesIO(text), separator=":", has_header=False, quote_char=None, schema=schema
        )
        between = frame.select(pl.col(pl.String).is_not_null().any())
        sound = not any(between.row(0)) and not sum(frame.select(names).null_count().row(0))
        sound = sound and frame.height == text.count(b"\n") + (not text.endswith(b"\n"))
    except OSError as error:
        raise DataError(file, error.strerror or str(error)) from None
    except pl.exceptions.NoDataError:
        raise DataError(file, "empty; expected ratings") from None
    except pl.exceptions.PolarsError:
        sound = False
    if not sound:
        for line, fields in _lines(file, names):
            for name, field in zip(names, fields, strict=True):
                if not _NUMBER.fullmatch(field):
                    raise DataError(file, "expected a number", line, column=name, value=field)
        raise DataError(file, "not in the format " + "::".join(names))
    return {name: frame[name].to_numpy() for name in _RATING_COLUMNS}


def _read_arrays(file: Path) -> dict[str, Ints]:
    """Read the ratings as arrays."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            missing = [name for name in _RATING_COLUMNS if name not in arrays]
            if missing:
                raise DataError(file, "no such array", column=missing[0])
            columns = {name: arrays[name] for name in _RATING_COLUMNS}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(file, f"not a sound .npz file ({error})") from None
    for name, values in columns.items():
        shape, rows = values.shape, columns["user"].shape
        if values.ndim != 1 or shape != rows or not np.issubdtype(values.dtype, np.integer):
            reason = f"{values.dtype} array of shape {shape}; expected integers, {rows[:1]}"
            raise DataError(file, reason, column=name)
    return {name: values.astype(np.int64) for name, values in columns.items()}


def _numbers(file: Path, column: str, id_B: Ints, known: Ints, source: str) -> Ints:
    """Places of ids in the file that lists them."""
    order = np.argsort(known, kind="stable")
    place_B = np.minimum(np.searchsorted(known[order], id_B), len(known) - 1)
    _refuse_first(file, column, id_B, known[order][place_B] != id_B, f"not in {source}")
    return order[place_B]


def _refuse_first(
    file: Path, column: str, values: Ints, bad: NDArray[np.bool_], reason: str
) -> None:
    """Name the first bad value, if there is one."""
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(file, reason, row + 1, column=column, value=int(values[row]))
