"""A small category in the published format."""

import json
from pathlib import Path

import numpy as np


def write_amazon(
    folder: Path, *, num_users: int = 12, num_items: int = 140, seed: int = 0
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Write `Toys.txt` and its attributes; returns items by user and attributes by item.

    Items and attributes have gaps in their numbers; users go on with the kinds they began with.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = [3 * number + 2 for number in range(num_items)]
    attributes = {
        item: [100, *(5 * int(a) for a in rng.choice(12, size=rng.integers(1, 4), replace=False))]
        for item in ids
    }
    log = {}
    for user in range(1, num_users + 1):
        kinds = rng.choice(12, size=3, replace=False)
        liked = [item for item in ids if set(attributes[item]) & {5 * int(a) for a in kinds}]
        length = 3 + (user - 1) % 9
        log[user] = [int(item) for item in rng.choice(liked, size=length, replace=False)]
    lines = (f"{user} {' '.join(map(str, items))}\n" for user, items in log.items())
    (folder / "Toys.txt").write_text("".join(lines))
    # Not in the order of their numbers, as published.
    shuffled = {str(ids[i]): attributes[ids[i]] for i in rng.permutation(num_items)}
    (folder / "Toys_item2attributes.json").write_text(json.dumps(shuffled))
    return log, attributes
