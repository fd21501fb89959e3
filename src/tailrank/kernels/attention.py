"""An attention unit in one native call: behaviours weighed by a small MLP on each and a candidate.

Knows tensors only. A call releases the interpreter lock and starts no thread; safe from several
threads. All arithmetic is fp32.

Legend: U users, B candidates, L behaviours, K width of a behaviour, M width of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native
from tailrank.kernels.dense import DenseIsaName, Layer, choose_dense_isa

_FP32, _INT64 = torch.float32, torch.int64


class Turn(NamedTuple):
    """An activation x -> p x + (1 - p) slope x: PReLU, or Dice where p = sigmoid(scale x + shift).

    Args:
        slope_M: per output of the layer before it.
        scale_M: of Dice; None: p is 1 above 0 and 0 elsewhere.
        shift_M: likewise.
    """

    slope_M: Tensor
    scale_M: Tensor | None = None
    shift_M: Tensor | None = None


class PackedAttention:
    """The weighted sum of its user's behaviours for each candidate, not normalised.

    Args:
        first: linear shares of the behaviour, which has the bias, of the candidate, and of the
            product of both in the first layer.
        turns: the activation before each layer of `rest`.
        rest: layers behind the first; the last has one output, the weight. None is rectified.
        isa: instruction set; None: the widest that runs here.

    Raises:
        ConfigError: widths that do not fit each other.
        BackendUnavailable: see `choose_dense_isa`.
    """

    def __init__(
        self,
        first: tuple[Layer, Layer, Layer],
        turns: Sequence[Turn],
        rest: Sequence[Layer],
        isa: DenseIsaName | None = None,
    ) -> None:
        chosen = choose_dense_isa(isa)
        self._kept: list[Tensor] = []
        outputs, self.width = first[0].weight_MN.shape
        for share in first[1:]:
            if share.weight_MN.shape != (outputs, self.width):
                allowed = f"{(outputs, self.width)} in each share"
                raise ConfigError("first", tuple(share.weight_MN.shape), allowed)
        layers, activations = [self._layer(share) for share in first], []
        for turn, layer in zip(turns, rest, strict=True):
            if turn.slope_M.shape != (outputs,) or layer.weight_MN.shape[1] != outputs:
                given = (tuple(turn.slope_M.shape), tuple(layer.weight_MN.shape))
                raise ConfigError("turns, rest", given, f"{outputs} inputs")
            activations.append((*(self._address(t) for t in turn), outputs))
            outputs = layer.weight_MN.shape[0]
        if outputs != 1:
            raise ConfigError("rest", outputs, "one output of the last layer")
        packed = [self._layer(layer) for layer in rest]
        self._call = native.extension().Attention(chosen, layers, activations, packed)
        self._kept.clear()  # it has copies

    def __call__(
        self,
        rows_LK: Tensor,
        first_U: Tensor,
        length_U: Tensor,
        candidate_BK: Tensor,
        item_to_user_B: Tensor,
    ) -> Tensor:
        """Sums (B, K); 0 for a candidate of a user without behaviours.

        Args:
            rows_LK: behaviours, fp32 on CPU, those of a user together and users in order.
            first_U: of each user's behaviours, int64.
            length_U: their numbers, int64.
            candidate_BK: fp32.
            item_to_user_B: int64, not falling.

        Raises:
            ConfigError: a type or shape does not fit, or users are not in order or not there.
        """
        num_users, num_items = first_U.shape[0], item_to_user_B.shape[0]
        for name, tensor, dtype, shape in (
            ("rows_LK", rows_LK, _FP32, (rows_LK.shape[0], self.width)),
            ("first_U", first_U, _INT64, (num_users,)),
            ("length_U", length_U, _INT64, (num_users,)),
            ("candidate_BK", candidate_BK, _FP32, (num_items, self.width)),
            ("item_to_user_B", item_to_user_B, _INT64, (num_items,)),
        ):
            if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_cpu:
                given = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
                raise ConfigError(name, given, f"{dtype} {shape} on cpu")
        given_as = (rows_LK, first_U, length_U, candidate_BK, item_to_user_B)
        rows_LK, first_U, length_U, candidate_BK, item_to_user_B = (
            tensor.contiguous() for tensor in given_as
        )
        out_BK = torch.empty(num_items, self.width)
        done = self._call(
            rows_LK.data_ptr(),
            rows_LK.shape[0],
            first_U.data_ptr(),
            length_U.data_ptr(),
            num_users,
            candidate_BK.data_ptr(),
            item_to_user_B.data_ptr(),
            num_items,
            out_BK.data_ptr(),
        )
        if not done:
            found = (first_U[:4].tolist(), length_U[:4].tolist(), item_to_user_B[:4].tolist())
            allowed = f"{rows_LK.shape[0]} behaviours and {num_users} users in order"
            raise ConfigError("first_U, length_U, item_to_user_B", found, allowed)
        return out_BK

    def _layer(self, layer: Layer) -> tuple[int, int, int, int, bool]:
        """A layer as the extension takes it."""
        outputs, inputs = layer.weight_MN.shape
        return self._address(layer.weight_MN), self._address(layer.bias_M), inputs, outputs, False

    def _address(self, tensor: Tensor | None) -> int:
        """Where the numbers lie, kept until they are packed; 0 for none."""
        if tensor is None:
            return 0
        self._kept.append(tensor.detach().to("cpu", _FP32).contiguous())
        return self._kept[-1].data_ptr()
