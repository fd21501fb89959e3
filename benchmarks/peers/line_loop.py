"""The textbook way to read Criteo: a loop over lines, a dict per category. Knows no tailrank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

_UNKNOWN_ID, _MISSING_ID = 0, 1

Rows = tuple[Tensor, Tensor, Tensor]


def read(path: Path, ids_by_column: list[dict[str, int]], batch_items: int) -> Iterator[Rows]:
    """Batches of labels (B,), log(1 + integer) (B, 13) and ids (B, 26), in the file's order."""
    labels, dense, ids = [], [], []
    with path.open() as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            labels.append(float(fields[0]))
            dense.append([math.log1p(max(int(x), 0)) if x else 0.0 for x in fields[1:14]])
            ids.append(
                [
                    known.get(value, _UNKNOWN_ID) if value else _MISSING_ID
                    for known, value in zip(ids_by_column, fields[14:], strict=True)
                ]
            )
            if len(labels) == batch_items:
                yield torch.tensor(labels), torch.tensor(dense), torch.tensor(ids)
                labels, dense, ids = [], [], []
    if labels:
        yield torch.tensor(labels), torch.tensor(dense), torch.tensor(ids)
