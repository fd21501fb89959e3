"""A DLRM in one native call for each batch: lookups, MLPs, interaction and sigmoid.

What depends on the user's side alone is computed once for each user row. For that, the columns of
the top MLP's first layer are put in another order than the model's: first what the user's side
gives, then the rest. Scores are the model's own, up to the order of sums.

Legend: U user rows, B item rows, R rows of a side, F sparse features, N dense width, D dim, K
inputs, M outputs, L ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.features import SIDES, FeatureBatch, Side, SideFeatures
from tailrank.inference.dense_layers import layers_of
from tailrank.kernels import native
from tailrank.kernels.dense import (
    DenseFormat,
    DenseIsaName,
    PackedWeights,
    choose_dense_isa,
    format_word,
)
from tailrank.kernels.lookup import PREFETCH_ROWS
from tailrank.kernels.row_formats import format_of
from tailrank.models.dlrm import DLRM, DLRMConfig

_FP32, _INT64 = torch.float32, torch.int64
_SideArguments = tuple[int, int, int, int, int, int]


class DlrmTimes(NamedTuple):
    """Nanoseconds of parts of a call; what is neither is interaction, copies and Python."""

    lookup_ns: int
    dense_ns: int


def column_order(config: DLRMConfig) -> tuple[Tensor, int]:
    """The order in which the native call gives the top MLP's inputs, and how many are the user's.

    Returns:
        Tensor (K,): for each input of the call, its column in the model.
    """
    bottom_side: Side | None = None
    if config.bottom_mlp:
        bottom_side = "item" if config.spec.dense_width("item") else "user"
    bottom_width = config.bottom_mlp[-1] if config.bottom_mlp else 0
    # The model's vectors: the bottom output if there is one, then the user's, then the item's.
    start = 1 if config.bottom_mlp else 0
    counts = {side: len(config.spec.sparse(side)) for side in SIDES}
    vectors: dict[Side, list[int]] = {
        "user": list(range(start, start + counts["user"])),
        "item": list(range(start + counts["user"], start + counts["user"] + counts["item"])),
    }
    dim = config.spec.tables[0].embedding_dim
    inputs: dict[Side, list[int]] = {"user": [], "item": []}
    if bottom_side is not None:
        inputs[bottom_side] += range(bottom_width)
        if config.interaction == "dot":
            vectors[bottom_side].insert(0, 0)
    if config.interaction == "cat":
        for side in SIDES:
            for vector in vectors[side]:
                first = bottom_width + (vector - start) * dim
                inputs[side] += range(first, first + dim)
    else:
        order = vectors["user"] + vectors["item"]
        for later, vector in enumerate(order):
            side = "user" if later < len(vectors["user"]) else "item"
            for other in order[:later]:
                high, low = max(vector, other), min(vector, other)
                inputs[side].append(bottom_width + high * (high - 1) // 2 + low)
    return torch.tensor(inputs["user"] + inputs["item"], dtype=_INT64), len(inputs["user"])


class FusedDlrm:
    """Scores batches of one DLRM; safe from several threads.

    Args:
        model: its tables are read where they lie and have to stay there; its layers are copied.
        dense_format: of the dense layers, see `PackedMlp`. In int8, what depends on the user's side
            alone stays fp32.
        isa: instruction set; None: the widest that runs here.

    Raises:
        BackendUnavailable: no native kernels here, or not for `isa`, or not for this model.
    """

    def __init__(
        self, model: DLRM, dense_format: DenseFormat = "fp32", isa: DenseIsaName | None = None
    ) -> None:
        chosen = choose_dense_isa(isa)
        self.isa: str = chosen.name
        self._spec = model.config.spec
        self._weight_VD = model.tables.weight_VD.detach()  # its memory, whatever becomes of it
        bottom = PackedWeights(layers_of(model.bottom), dense_format)
        order_K, num_user_inputs = column_order(model.config)
        first, *rest = layers_of(model.top)
        reordered = first._replace(weight_MN=first.weight_MN[:, order_K])
        top = PackedWeights([reordered, *rest], dense_format)
        user_dense = self._spec.dense_width("user") if self._spec.dense_width("item") else 0
        extension = native.extension()
        self._bad_user: int = extension.DLRM_BAD_USER
        self._bad_offsets: int = extension.DLRM_BAD_OFFSETS
        self._call = extension.Dlrm(
            chosen,
            format_word(dense_format),
            model.config.interaction == "dot",
            extension.RowFormat[format_of(self._weight_VD, model.tables.embedding_dim)],
            model.tables.embedding_dim,
            PREFETCH_ROWS,
            self._side_setup(model, "user"),
            self._side_setup(model, "item"),
            (bottom.layers, user_dense),
            (top.layers, num_user_inputs),
        )
        self._sizes = {s: (self._spec.dense_width(s), len(self._spec.sparse(s))) for s in SIDES}

    def __call__(self, batch: FeatureBatch) -> Tensor:
        """Probabilities (B,), fp32.

        Raises:
            ConfigError: an id outside its table, or features that do not fit the model.
        """
        probabilities_B, fault = self._run(self._call, batch)
        if fault is not None:
            self._refuse(fault, batch)
        return probabilities_B

    def timed(self, batch: FeatureBatch) -> tuple[Tensor, DlrmTimes]:
        """The same, and where the time went."""
        probabilities_B, (fault, *times) = self._run(self._call.timed, batch)
        if fault is not None:
            self._refuse(fault, batch)
        return probabilities_B, DlrmTimes(*times)

    def _run(self, call: Callable[..., Any], batch: FeatureBatch) -> tuple[Tensor, Any]:
        """Probabilities, and what the native call says of them.

        Raises:
            ConfigError: features that do not fit the model.
        """
        user, item, to_user_B = batch.user, batch.item, batch.item_to_user_B
        num_items = item.dense_RN.shape[0]
        fits = to_user_B.dtype is _INT64 and to_user_B.numel() == num_items
        if not (fits and to_user_B.is_cpu):
            given = f"{to_user_B.dtype} {tuple(to_user_B.shape)} on {to_user_B.device}"
            raise ConfigError("item_to_user_B", given, f"int64 ({num_items},) on cpu")
        to_user_B = to_user_B.contiguous()
        kept: list[Tensor] = []
        probabilities_B = torch.empty(num_items)
        said = call(
            self._arguments(user, "user", kept),
            self._arguments(item, "item", kept),
            to_user_B.data_ptr(),
            probabilities_B.data_ptr(),
        )
        return probabilities_B, said

    def _side_setup(self, model: DLRM, side: Side) -> tuple[int, list[tuple[int, int]]]:
        """Dense width, and address and number of rows of each feature's table."""
        tables = []
        row_bytes = self._weight_VD.element_size() * self._weight_VD.shape[1]
        for feature in self._spec.sparse(side):
            table = self._spec.table(feature.table)
            offset = model.tables.first_row[table.name] * row_bytes
            tables.append((self._weight_VD.data_ptr() + offset, table.num_embeddings))
        return self._spec.dense_width(side), tables

    def _arguments(self, features: SideFeatures, side: Side, kept: list[Tensor]) -> _SideArguments:
        """One side as the extension takes it; what had to be copied for that goes to `kept`.

        Looks at tensors, 0.05 to 0.1 us each, are most of what a call costs beside its arithmetic.
        """
        dense_RN, values_L, offsets = features.dense_RN, features.values_L, features.offsets
        weights_L = features.weights_L
        width, num_sparse = self._sizes[side]
        shape = dense_RN.shape
        num_rows = shape[0]
        if len(shape) != 2 or shape[1] != width or offsets.numel() != num_rows * num_sparse + 1:
            _refuse_side(features, side, width, num_sparse)
        if not (width or num_sparse):
            return num_rows, 0, 0, 0, 0, 0
        num_ids = values_L.numel()
        if (
            dense_RN.dtype is not _FP32
            or values_L.dtype is not _INT64
            or offsets.dtype is not _INT64
            or not (dense_RN.is_cpu and values_L.is_cpu and offsets.is_cpu)
        ):
            _refuse_side(features, side, width, num_sparse)
        if not (dense_RN.is_contiguous() and values_L.is_contiguous() and offsets.is_contiguous()):
            dense_RN, values_L = dense_RN.contiguous(), values_L.contiguous()
            offsets = offsets.contiguous()
            kept += [dense_RN, values_L, offsets]
        weights = 0
        if weights_L is not None:
            fits = weights_L.dtype is _FP32 and weights_L.shape == (num_ids,)
            if not (fits and weights_L.is_cpu):
                given = f"{weights_L.dtype} {tuple(weights_L.shape)} on {weights_L.device}"
                raise ConfigError(f"{side}.weights_L", given, f"fp32 ({num_ids},) on cpu")
            weights_L = weights_L.contiguous()
            kept.append(weights_L)
            weights = weights_L.data_ptr()
        return (
            num_rows,
            dense_RN.data_ptr(),
            values_L.data_ptr(),
            num_ids,
            offsets.data_ptr(),
            weights,
        )

    def _refuse(self, fault: tuple[int, int, int, int], batch: FeatureBatch) -> NoReturn:
        """Raise what the call found."""
        kind, side_index, bag, position = fault
        side = SIDES[side_index]
        features = batch.user if side == "user" else batch.item
        if kind == self._bad_user:
            value, allowed = int(batch.item_to_user_B[bag]), f"0 to {batch.num_users - 1}"
            raise ConfigError(f"item_to_user_B[{bag}]", value, allowed)
        if kind == self._bad_offsets:
            value, allowed = int(features.offsets[bag]), f"rising from 0 to {features.num_ids}"
            raise ConfigError(f"{side}.offsets[{bag}]", value, allowed)
        raise features.id_error(self._spec, side, position, bag)


def _refuse_side(features: SideFeatures, side: Side, width: int, num_sparse: int) -> NoReturn:
    """Raise what is wrong with the tensors of one side."""
    rows = features.num_rows
    for name, tensor, dtype, shape in (
        ("dense_RN", features.dense_RN, _FP32, (rows, width)),
        ("values_L", features.values_L, _INT64, (features.num_ids,)),
        ("offsets", features.offsets, _INT64, (rows * num_sparse + 1,)),
    ):
        if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_cpu:
            given = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise ConfigError(f"{side}.{name}", given, f"{dtype} {shape} on cpu")
    raise AssertionError("called only for a side with such a tensor")
