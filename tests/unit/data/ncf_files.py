"""A small set of files in the form that the authors of NCF publish."""

from pathlib import Path

import numpy as np


def write_ncf(
    folder: Path,
    *,
    num_users: int = 12,
    num_items: int = 150,
    num_negatives: int = 20,
    likes: tuple[int, int] = (6, 12),
    seed: int = 0,
    prefix: str = "small",
) -> dict[int, list[int]]:
    """Write the three files; returns each user's items in order, of which the last is tested.

    Users like items that leave the same remainder as themselves by 3. The first item of the last
    user is its only training row.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    train, test, negatives, items_of = [], [], [], {}
    for user in range(num_users):
        count = 2 if user == num_users - 1 else int(rng.integers(*likes))
        liked = np.flatnonzero(np.arange(num_items) % 3 == user % 3)
        items = rng.choice(liked, size=count, replace=False).tolist()
        items_of[user] = items
        train += [f"{user}\t{item}\t4\t0\n" for item in items[:-1]]
        test.append(f"{user}\t{items[-1]}\t5\t97830{user:04d}\n")
        others = np.setdiff1d(np.arange(num_items), items[:-1])  # as published: may be the positive
        drawn = rng.choice(others, size=num_negatives, replace=False).tolist()
        negatives.append("\t".join([f"({user},{items[-1]})", *map(str, drawn)]) + "\n")
    for suffix, lines in (
        ("train.rating", train),
        ("test.rating", test),
        ("test.negative", negatives),
    ):
        (folder / f"{prefix}.{suffix}").write_text("".join(lines))
    return items_of
