"""What the machine allows: one bare read of every row, and the fastest product of matrices."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench_lookup import DISTANCES
from inference_cases import Prepare, formats
from peers.expert_torch import stack_of
from tailrank.features import FeatureBatch
from tailrank.inference.arena import Arena
from tailrank.kernels import native
from tailrank.models.dlrm import DLRM

MODULE = __name__
# The widest layer of RMC3, at the rows of one part: arithmetic is all that counts there.
_PEAK_ROWS, _PEAK_INPUTS, _PEAK_OUTPUTS = 128, 2560, 1024
_PEAK_ROUNDS = 15
_SWEEP_IDS = 40_000


def scorer(model: DLRM, precision: str, *, tuned: bool) -> Prepare:
    """A bare gather of a batch's rows: one read of each cache line, no check and no sum.

    The prefetch distance is the best of the sweep that `bench_lookup` committed to.
    """
    weight_VD = model.tables.weight_VD
    extension = native.extension()
    row_format = extension.RowFormat[formats(precision)[0]]
    size = extension.row_bytes(row_format, weight_VD.shape[1])
    rows_VK = Arena((weight_VD.shape[0], size), torch.uint8).tensor.fill_(1)
    gather, address = extension.bare_gather, rows_VK.data_ptr()
    first_F = torch.tensor(list(model.tables.first_row.values()))

    def gathered(ids_L: Tensor, distance: int) -> Callable[[], Tensor]:
        def call() -> Tensor:
            gather(address, size, ids_L.data_ptr(), ids_L.numel(), distance)
            return rows_VK[:1]  # the rows outlive the call

        return call

    best = min(DISTANCES, key=lambda distance: _sweep_ns(rows_VK, gathered, distance))

    def prepare(batch: FeatureBatch) -> Callable[[], Tensor]:
        values = batch.item.values_L.view(batch.num_items, len(first_F), -1)
        return gathered((values + first_F[:, None]).flatten(), best)

    return prepare


def _sweep_ns(
    rows_VK: Tensor, gathered: Callable[[Tensor, int], Callable[[], Tensor]], distance: int
) -> int:
    generator = torch.Generator().manual_seed(distance)
    times = []
    for _ in range(5):
        call = gathered(torch.randint(len(rows_VK), (_SWEEP_IDS,), generator=generator), distance)
        started = time.process_time_ns()
        call()
        times.append(time.process_time_ns() - started)
    return min(times)


def peak_gflops() -> dict[str, float]:
    """The fastest product of a large layer on one core, by number format: best of several ways.

    Packed and not, torch's, oneDNN's, FBGEMM's; the quantisation of the input counts as theirs.
    """
    linear = nn.Sequential(nn.Linear(_PEAK_INPUTS, _PEAK_OUTPUTS))
    x_BN = torch.randn(_PEAK_ROWS, _PEAK_INPUTS)
    ways = {"fp32": (True, False), "bf16": (True, False), "int8": (False,)}
    peaks = {}
    for dense, mkl_or_not in ways.items():
        inputs = x_BN.bfloat16() if dense == "bf16" else x_BN
        times = []
        for mkl in mkl_or_not:
            step = stack_of(linear, dense, mkl=mkl)
            for _ in range(_PEAK_ROUNDS):
                started = time.process_time_ns()
                step(inputs)
                times.append(time.process_time_ns() - started)
        peaks[dense] = 2 * _PEAK_ROWS * _PEAK_INPUTS * _PEAK_OUTPUTS / min(times)
    return peaks
