"""A gated recurrent unit over rows of any length in one native call.

Knows tensors only. A call releases the interpreter lock and starts no thread; safe from several
threads.

Legend: R rows, L places, P places in the order of time, T times, H hidden width, G = 3 H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tailrank.core.errors import ConfigError
from tailrank.kernels import native
from tailrank.kernels.dense import DenseIsaName, choose_dense_isa

_FP32, _INT64 = torch.float32, torch.int64


class PackedGru:
    """h' = (1 - a u) h + a u c with u = sigmoid(x_u + U_u h), r = sigmoid(x_r + U_r h),
    c = tanh(x_c + r U_c h), from h = 0.

    States and weights are fp32: a state of fewer bits would be rounded anew at every step.

    Args:
        weight_GH: U_u, U_r and U_c, one below the other; copied.
        isa: instruction set; None: the widest that runs here.

    Raises:
        ConfigError: the weight's shape is not (3 H, H).
        BackendUnavailable: see `choose_dense_isa`.
    """

    def __init__(self, weight_GH: Tensor, isa: DenseIsaName | None = None) -> None:
        weight_GH = weight_GH.detach().to("cpu", _FP32).contiguous()
        self.hidden = weight_GH.shape[1]
        if weight_GH.shape[0] != 3 * self.hidden:
            allowed = f"({3 * self.hidden}, {self.hidden})"
            raise ConfigError("weight_GH", tuple(weight_GH.shape), allowed)
        chosen = choose_dense_isa(isa)
        self._call = native.extension().Gru(chosen, weight_GH.data_ptr(), self.hidden)

    def __call__(
        self,
        x_LG: Tensor,
        place_P: Tensor,
        sizes: Sequence[int],
        num_rows: int,
        scale_P: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run all rows, the longest first.

        Args:
            x_LG: x_u, x_r and x_c of each place, fp32 on CPU.
            place_P: which place is read, int64: of the first time row by row, then of the second.
            sizes: rows at each time, falling; P together.
            num_rows: R; those without any place keep state 0.
            scale_P: the factors a, fp32; None: all 1.

        Returns:
            Every state (P, H), and the last of each row (R, H).

        Raises:
            ConfigError: a shape, a type, a size or a place does not fit.
        """
        num_places = place_P.shape[0]
        wanted = {"x_LG": (x_LG, _FP32), "place_P": (place_P, _INT64)}
        if scale_P is not None:
            wanted["scale_P"] = (scale_P, _FP32)
        for name, (tensor, dtype) in wanted.items():
            width = (3 * self.hidden,) if name == "x_LG" else ()
            length = tensor.shape[0] if name == "x_LG" else num_places
            if tensor.dtype is not dtype or not tensor.is_cpu or tensor.shape != (length, *width):
                given = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
                raise ConfigError(name, given, f"{dtype} {(length, *width)} on cpu")
        if sum(sizes) != num_places:
            raise ConfigError("sizes", sum(sizes), f"{num_places} together, the places")
        x_LG, place_P = x_LG.contiguous(), place_P.contiguous()
        scale_P = None if scale_P is None else scale_P.contiguous()
        sizes_T = torch.tensor(sizes, dtype=_INT64)
        states_PH = torch.empty(num_places, self.hidden)
        last_RH = torch.empty(num_rows, self.hidden)
        done = self._call(
            x_LG.data_ptr(),
            x_LG.shape[0],
            place_P.data_ptr(),
            0 if scale_P is None else scale_P.data_ptr(),
            sizes_T.data_ptr(),
            len(sizes),
            num_rows,
            states_PH.data_ptr(),
            last_RH.data_ptr(),
        )
        if not done:
            allowed = f"sizes falling from at most {num_rows}, places below {x_LG.shape[0]}"
            raise ConfigError("sizes, place_P", (list(sizes)[:4], place_P[:4].tolist()), allowed)
        return states_PH, last_RH
