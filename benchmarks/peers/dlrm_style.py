"""DLRM training the way facebookresearch/dlrm writes it: our own words, its structure.

One `nn.EmbeddingBag(sparse=True)` per table, `nn.Linear`, a list of offsets and ids per table and
step, per-row collation of the preprocessed arrays, sparse gradients coalesced by a row-wise Adagrad
over all parameters, sigmoid then BCELoss. Source of the structure: dlrm_s_pytorch.py,
dlrm_data_pytorch.py and optim/rwsadagrad.py of github.com/facebookresearch/dlrm.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, list[Tensor], list[Tensor], Tensor]


class PreprocessedRows:
    """Rows as the preprocessed npz holds them; one item is (integers, ids, label)."""

    def __init__(self, integers: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> None:
        self.integers, self.ids, self.labels = list(integers), list(ids), list(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.int32]:
        return self.integers[index], self.ids[index], self.labels[index]


def collate(rows: list[tuple[np.ndarray, np.ndarray, np.int32]]) -> Batch:
    """A batch with lists of offsets and ids, one entry per table."""
    integers, ids, labels = zip(*rows, strict=True)
    dense = torch.log(torch.tensor(np.array(integers), dtype=torch.float32) + 1)
    sparse = torch.tensor(np.array(ids), dtype=torch.int64)
    target = torch.tensor(labels, dtype=torch.float32).view(-1, 1)
    offsets = [torch.tensor(range(len(rows))) for _ in range(sparse.shape[1])]
    return dense, offsets, [sparse[:, table] for table in range(sparse.shape[1])], target


def read(rows: PreprocessedRows, batch_items: int) -> Iterator[Batch]:
    """All rows in order, through a DataLoader in this process."""
    return iter(torch.utils.data.DataLoader(rows, batch_items, collate_fn=collate))


class DLRMStyle(nn.Module):
    """The network: lists of layers and tables, lower-triangle dot interaction, sigmoid."""

    def __init__(
        self, table_rows: list[int], dim: int, bottom: tuple[int, ...], top: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(rows, dim, mode="sum", sparse=True) for rows in table_rows
        )
        vectors = len(table_rows) + 1
        self.bottom = self._mlp(bottom, sigmoid=False)
        self.top = self._mlp((dim + vectors * (vectors - 1) // 2, *top), sigmoid=True)

    @staticmethod
    def _mlp(widths: tuple[int, ...], *, sigmoid: bool) -> nn.Sequential:
        layers: list[nn.Module] = []
        for place in range(len(widths) - 1):
            last = place == len(widths) - 2
            layers.append(nn.Linear(widths[place], widths[place + 1]))
            layers.append(nn.Sigmoid() if last and sigmoid else nn.ReLU())
        return nn.Sequential(*layers)

    def forward(self, dense: Tensor, offsets: list[Tensor], ids: list[Tensor]) -> Tensor:
        """Click probabilities (B, 1)."""
        x = self.bottom(dense)
        pooled = [
            table(id_, offset) for table, id_, offset in zip(self.tables, ids, offsets, strict=True)
        ]
        batch, dim = x.shape
        stacked = torch.cat([x, *pooled], dim=1).view(batch, -1, dim)
        products = torch.bmm(stacked, torch.transpose(stacked, 1, 2))
        count = stacked.shape[1]
        row = torch.tensor([i for i in range(count) for _ in range(i)])
        column = torch.tensor([j for i in range(count) for j in range(i)])
        return self.top(torch.cat([x, products[:, row, column]], dim=1))


class RowWiseAdagrad(torch.optim.Optimizer):
    """Row-wise Adagrad on sparse gradients, plain Adagrad on dense ones."""

    def __init__(self, groups: list[dict[str, object]], lr: float, eps: float = 1e-10) -> None:
        super().__init__(groups, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step over all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                if gradient.is_sparse:
                    self._sparse(parameter, gradient.coalesce(), state, group)
                    continue
                if not state:
                    state["sum"] = torch.zeros_like(parameter)
                state["sum"].addcmul_(gradient, gradient, value=1.0)
                std = state["sum"].sqrt().add_(group["eps"])
                parameter.addcdiv_(gradient, std, value=-group["lr"])

    @staticmethod
    def _sparse(parameter: Tensor, gradient: Tensor, state: dict, group: dict) -> None:
        rows, values = gradient._indices(), gradient._values()
        if not state:
            state["momentum"] = torch.zeros(len(parameter))
        update = torch.sparse_coo_tensor(
            rows, values.pow(2).mean(dim=1), (len(parameter),), check_invariants=False
        )
        state["momentum"].add_(update)
        std = state["momentum"].sparse_mask(update.coalesce())._values().sqrt_()
        scaled = values / std.add_(group["eps"]).view(-1, 1)
        parameter.add_(
            torch.sparse_coo_tensor(rows, scaled, parameter.shape, check_invariants=False),
            alpha=-group["lr"],
        )


def train_step(
    model: DLRMStyle, optimizer: RowWiseAdagrad, loss_function: nn.BCELoss, batch: Batch
) -> float:
    """Forward, backward and update; the loss before it."""
    dense, offsets, ids, target = batch
    loss = loss_function(model(dense, offsets, ids), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach().cpu().numpy())
