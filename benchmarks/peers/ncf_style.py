"""NeuMF training as public PyTorch code of it is written: our own words, its structure.

Four `nn.Embedding`, dense `torch.optim.Adam` over all parameters, binary cross entropy on logits,
negatives drawn with NumPy for all positives and drawn again where the user has met them, rows
shuffled one by one. Deviations, all in its favour: negatives are drawn for a whole array at once
and looked up in a matrix of flags, not pair by pair in a dictionary; batches are cut from tensors,
not gathered row by row in a DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor, Tensor]


class NeuMFStyle(nn.Module):
    """The network: a GMF and an MLP embedding of each id, a tower, one output.

    Args:
        num_users, num_items: rows of the embeddings.
        factors: of GMF; MLP embeddings are twice as wide.
    """

    def __init__(self, num_users: int, num_items: int, factors: int) -> None:
        super().__init__()
        self.user_gmf = nn.Embedding(num_users, factors)
        self.item_gmf = nn.Embedding(num_items, factors)
        self.user_mlp = nn.Embedding(num_users, 2 * factors)
        self.item_mlp = nn.Embedding(num_items, 2 * factors)
        self.tower = nn.Sequential(
            nn.Linear(4 * factors, 4 * factors),
            nn.ReLU(),
            nn.Linear(4 * factors, 2 * factors),
            nn.ReLU(),
            nn.Linear(2 * factors, factors),
            nn.ReLU(),
        )
        self.last = nn.Linear(2 * factors, 1)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.01)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Logits, one per pair."""
        gmf = self.user_gmf(user) * self.item_gmf(item)
        mlp = self.tower(torch.cat([self.user_mlp(user), self.item_mlp(item)], dim=-1))
        return self.last(torch.cat([gmf, mlp], dim=-1)).view(-1)


class Rows:
    """Positives, and a pass over them with negatives drawn anew.

    Args:
        user, item: of each positive.
        num_users, num_items: how many there are.
        num_negatives: for each positive.
    """

    def __init__(
        self, user: np.ndarray, item: np.ndarray, num_users: int, num_items: int, num_negatives: int
    ) -> None:
        self.user, self.item, self.num_items = user, item, num_items
        self.num_negatives = num_negatives
        self.met = np.zeros((num_users, num_items), dtype=bool)
        self.met[user, item] = True

    def batches(self, batch_items: int, seed: int, positives: int) -> Iterator[Batch]:
        """Batches of `positives` random positives and their negatives, shuffled."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self.user), positives, replace=False)
        negative_user = np.repeat(self.user[chosen], self.num_negatives)
        negative_item = rng.integers(self.num_items, size=len(negative_user))
        while len(again := np.flatnonzero(self.met[negative_user, negative_item])):
            negative_item[again] = rng.integers(self.num_items, size=len(again))
        user = np.concatenate([self.user[chosen], negative_user])
        item = np.concatenate([self.item[chosen], negative_item])
        label = np.concatenate([np.ones(positives), np.zeros(len(negative_user))])
        order = rng.permutation(len(user))
        columns = (user[order], item[order], label[order].astype(np.float32))
        return zip(*(torch.from_numpy(c).split(batch_items) for c in columns), strict=True)


def train_step(model: NeuMFStyle, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One step; its loss."""
    user, item, label = batch
    optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(user, item), label)
    loss.backward()
    optimizer.step()
    return loss.item()
