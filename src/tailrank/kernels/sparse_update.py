"""Updates of the table rows that a batch read, by native kernels where there are some.

`sparse_reference` says what is computed. The ids of a batch are sorted with their places, and then
one pass sums each row's gradient in registers, changes row and state, and goes on to the next: no
gradient of a row is ever in memory. Each row is changed by one thread, in the order of the batch,
so that runs repeat to the last bit. Knows tensors only.

Legend: L ids, G bags, K different ids, V table rows, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native
from tailrank.kernels.native import IsaName
from tailrank.kernels.sparse_reference import (
    ADAGRAD_EPS,
    ADAM_EPS,
    BETA_1,
    BETA_2,
    Bags,
    RowRule,
    TorchUpdate,
    adam_correction,
    new_state,
)

# Weights and state that are asked for and not yet changed, a sixth of the first cache: the winner
# of the sweep in benchmarks/bench_sparse_step.py on Zen 5.
PREFETCH_BYTES = 8192
ROWS_MAX = 1 << 32  # a row and the place of its id share 64 bits


class RowsRead(Protocol):
    """The different rows that a batch read, and their gradients."""

    def rows(self) -> Tensor:
        """They, rising, int64 (K,)."""
        ...

    def squared_norm(self) -> float:
        """Sum of the squares of all their gradients."""
        ...

    def update(self, lr: float, *, scale: float = 1.0, l2: float = 0.0) -> None:
        """Change each row once, in place, by the gradient scale * g + l2 * row.

        Args:
            lr: learning rate.
            scale: factor of the gradient, as clipping asks for.
            l2: L2 factor.
        """
        ...


class SparseUpdate(Protocol):
    """One table, its state and its rule."""

    def read(self, lookups: Sequence[Bags]) -> RowsRead:
        """The rows that these lookups of one batch read.

        Raises:
            ConfigError: an id outside the table, or a tensor of another kind; nothing is changed.
        """
        ...


def kernels_for(weight_VD: Tensor) -> str:
    """What updates such a table: `native` and the instruction set, or `torch`."""
    fits = weight_VD.is_cpu and weight_VD.dtype is torch.float32 and weight_VD.is_contiguous()
    if not fits or native.why_unavailable() is not None:
        return "torch"
    return f"native {native.runnable_isas()[0]}"


def sparse_update(rule: RowRule, weight_VD: Tensor, state: dict[str, Tensor]) -> SparseUpdate:
    """The fastest implementation that there is for this table.

    Args:
        rule: see `sparse_reference.update_rows`.
        weight_VD: the table, float32, changed in place.
        state: from `sparse_reference.new_state`, changed in place.
    """
    if kernels_for(weight_VD) == "torch":
        return TorchUpdate(rule, weight_VD, state)
    return NativeUpdate(rule, weight_VD, state)


class NativeUpdate:
    """A `SparseUpdate` on the CPU without the interpreter lock. Not for several threads at once.

    Args:
        rule: see `sparse_reference.update_rows`.
        weight_VD: the table, float32, contiguous, changed in place.
        state: from `sparse_reference.new_state`, changed in place.
        isa: instruction set; None: the widest that runs here.
        prefetch_bytes: how far ahead of the changes rows and their state are asked for.

    Raises:
        ConfigError: a table of more than 2^32 rows, or not as said above.
        BackendUnavailable: there are no native kernels here, or not for `isa`.
    """

    def __init__(
        self,
        rule: RowRule,
        weight_VD: Tensor,
        state: dict[str, Tensor],
        *,
        isa: IsaName | None = None,
        prefetch_bytes: int = PREFETCH_BYTES,
    ) -> None:
        chosen, extension = native.choose_isa(isa), native.extension()
        _check("weight_VD", weight_VD, torch.float32, (None, None))
        num_rows, self._dim = weight_VD.shape
        if num_rows > ROWS_MAX:
            raise ConfigError("weight_VD.shape[0]", num_rows, f"up to {ROWS_MAX}")
        if prefetch_bytes < 0:
            raise ConfigError("prefetch_bytes", prefetch_bytes, "0 or more")
        expected = new_state(rule, weight_VD.to("meta"))
        if state.keys() != expected.keys():
            raise ConfigError("state", sorted(state), f"{sorted(expected)} for {rule}")
        for name, tensor in expected.items():
            _check(f"state[{name!r}]", state[name], tensor.dtype, tuple(tensor.shape))
        self._rule, self._weight_VD, self._state = rule, weight_VD, state
        self._num_reads = 0
        memory = [state[name] for name, tensor in expected.items() if tensor.dim()]
        row_bytes = 4 * self._dim * sum(tensor.dim() == 2 for tensor in (weight_VD, *memory))
        self.kernel = extension.SparseUpdate(
            chosen,
            extension.RowRule[rule],
            weight_VD.data_ptr(),
            num_rows,
            self._dim,
            [tensor.data_ptr() for tensor in memory],
            ADAGRAD_EPS if rule.endswith("adagrad") else ADAM_EPS,
            1.0 - BETA_1,
            1.0 - BETA_2,
            prefetch_bytes // max(1, row_bytes),
        )

    def read(self, lookups: Sequence[Bags]) -> NativeRows:
        """See `SparseUpdate`; what it returns holds until the next call."""
        gradients, calls, num_ids = [], [], 0
        for index, (ids_L, offsets, grad_GD, weights_L) in enumerate(lookups):
            where = f"lookups[{index}]"
            count, num_bags = ids_L.numel(), offsets.numel() - 1
            _check(f"{where}.ids_L", ids_L, torch.int64, (count,))
            _check(f"{where}.offsets", offsets, torch.int64, (max(num_bags, 0) + 1,))
            gradients.append(grad_GD.contiguous())  # autograd's may be expanded ones
            _check(f"{where}.grad_GD", gradients[-1], torch.float32, (num_bags, self._dim))
            if weights_L is not None:
                _check(f"{where}.weights_L", weights_L, torch.float32, (count,))
            weights = 0 if weights_L is None else weights_L.data_ptr()
            calls.append((ids_L.data_ptr(), count, offsets.data_ptr(), num_bags, weights))
            num_ids += max(count, num_bags)
        if num_ids >= ROWS_MAX:
            raise ConfigError("lookups", num_ids, f"less than {ROWS_MAX} ids or bags")
        self._num_reads += 1
        if (fault := self.kernel.read(calls)) is not None:
            raise self._error(fault, lookups)
        return NativeRows(self, self._num_reads, num_ids, gradients)

    def check_latest(self, number: int) -> None:
        """Make sure that what the kernel holds is the read of that number."""
        assert number == self._num_reads, "another batch has been read since"

    def rate(self, lr: float) -> float:
        """Learning rate of a step that begins now, with what makes up for means that began at 0."""
        if "num_steps" not in self._state:
            return lr
        self._state["num_steps"] += 1
        return lr * adam_correction(self._state)

    def _error(self, fault: tuple[int, int, int], lookups: Sequence[Bags]) -> ConfigError:
        """What the kernel found, in the caller's words."""
        kind, index, position = fault
        ids_L, offsets = lookups[index].ids_L, lookups[index].offsets
        if kind == native.extension().BAD_OFFSETS:
            field = f"lookups[{index}].offsets[{position}]"
            return ConfigError(field, int(offsets[position]), f"rising from 0 to {ids_L.shape[0]}")
        field, limit = f"lookups[{index}].ids_L[{position}]", self._weight_VD.shape[0]
        return ConfigError(field, int(ids_L[position]), f"0 to {limit - 1}")


class NativeRows:
    """`RowsRead`, sorted inside of a `NativeUpdate`."""

    def __init__(
        self, owner: NativeUpdate, number: int, num_ids: int, gradients: list[Tensor]
    ) -> None:
        self._owner, self._number, self._num_ids = owner, number, num_ids
        self._gradients = gradients  # kept alive here
        self._addresses = [gradient.data_ptr() for gradient in gradients]

    def rows(self) -> Tensor:
        """See `RowsRead`."""
        self._owner.check_latest(self._number)
        rows_L = torch.empty(self._num_ids, dtype=torch.int64)
        return rows_L[: self._owner.kernel.rows(rows_L.data_ptr())]

    def squared_norm(self) -> float:
        """See `RowsRead`."""
        self._owner.check_latest(self._number)
        norm: float = self._owner.kernel.squared_norm(self._addresses)
        return norm

    def update(self, lr: float, *, scale: float = 1.0, l2: float = 0.0) -> None:
        """See `RowsRead`."""
        self._owner.check_latest(self._number)
        self._owner.kernel.update(self._addresses, self._owner.rate(lr), scale, l2)


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Refuse a tensor whose memory is not simply so many numbers of that kind."""
    fits = tensor.dim() == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(tensor.shape, shape, strict=False)
    )
    if not fits or tensor.dtype is not dtype or not tensor.is_cpu or not tensor.is_contiguous():
        given = f"{tensor.dtype} {tuple(tensor.shape)}, stride {tensor.stride()}, {tensor.device}"
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ConfigError(name, given, f"{dtype} ({wanted}), contiguous, on CPU")
