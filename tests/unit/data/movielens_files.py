"""A small folder in the published MovieLens-1M format."""

from pathlib import Path

import numpy as np

from tailrank.data.movielens_file import AGES, GENRES, NUM_OCCUPATIONS


def write_movielens(
    folder: Path, *, num_users: int = 9, num_movies: int = 60, seed: int = 0, arrays: bool = False
) -> np.ndarray:
    """Write users, movies and ratings; returns the ratings (user, movie, rating) in file order.

    Users and movies have gaps in their ids, as in the published files; users liked some genres.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    user_ids, movie_ids = np.arange(num_users) * 2 + 1, np.arange(num_movies) * 3 + 2
    (folder / "users.dat").write_text(
        "".join(
            f"{user}::{'FM'[i % 2]}::{AGES[i % 7]}::{i % NUM_OCCUPATIONS}::{48067 + i}\n"
            for i, user in enumerate(user_ids)
        )
    )
    genres = [sorted(rng.choice(18, size=rng.integers(1, 4), replace=False)) for _ in movie_ids]
    (folder / "movies.dat").write_text(
        "".join(
            f"{movie}::Caf\u00e9: Part {i} ({1950 + i % 40})::{'|'.join(GENRES[g] for g in row)}\n"
            for i, (movie, row) in enumerate(zip(movie_ids, genres, strict=True))
        ),
        encoding="latin-1",
    )
    rows = []
    for user in user_ids:
        liked = set(rng.choice(18, size=6, replace=False))
        count = rng.integers(20, min(50, num_movies))
        for movie in rng.choice(num_movies, size=count, replace=False):
            likes = bool(liked & set(genres[movie])) ^ (rng.random() < 0.1)
            rows.append((user, movie_ids[movie], rng.integers(4, 6) if likes else 2))
    ratings = np.array(rows)
    if arrays:
        names = ("user", "movie", "rating")
        columns = dict(zip(names, ratings.T.astype(np.int16), strict=True))
        np.savez(folder / "ml1m_ratings_file_order.npz", **columns)
    else:
        lines = (f"{u}::{m}::{r}::{978300000 + i}\n" for i, (u, m, r) in enumerate(ratings))
        (folder / "ratings.dat").write_text("".join(lines))
    return ratings
