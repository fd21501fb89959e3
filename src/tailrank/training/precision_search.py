"""The fastest precision of a trained model on this host that still ranks well enough."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tailrank.characterization.payloads import QueryPool
from tailrank.characterization.ranker_timing import time_rankers
from tailrank.core.errors import BackendUnavailable, ConfigError, RequestError
from tailrank.inference.dense_layers import stacks_of
from tailrank.inference.precision import DENSE_FORMATS, Precision
from tailrank.kernels.row_formats import ROW_FORMATS
from tailrank.metrics import BinaryMetrics
from tailrank.models import ModelConfig, build_model
from tailrank.training.quality_gate import Judged, Progress, QualityGate

# By so much a speedup moved between searches of one model on one host.
_TIE_FRACTION = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one precision has shown.

    Args:
        judged: what the gate saw.
        rank_us: median CPU time of one query on one core.
        items_per_s: that come of it.
        speedup: median of the time in fp32 over its own, round by round.
        speedup_interval: 95 % interval of that.
    """

    judged: Judged
    rank_us: float
    items_per_s: float
    speedup: float
    speedup_interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of a search.

    Args:
        trials: of every precision that this host runs and that holds the model, in the order of
            the search.
        unavailable: the others, and why they are.
        chosen: see `find_precision`.
        scored: its held-out rows, for each task.
        folder: its artifact.
    """

    trials: tuple[Trial, ...]
    unavailable: dict[str, str]
    chosen: Trial
    scored: dict[str, BinaryMetrics]
    folder: Path


def precisions_to_try(config: ModelConfig) -> list[Precision]:
    """What a model can be exported in, fp32 first; formats of its layers only where it has any.

    Rows in fp16 are left out: they take the bytes and the time of those in bf16.
    """
    with torch.device("meta"):
        has_layers = bool(stacks_of(build_model(config, None)))
    return [
        Precision(rows=rows, dense=dense)
        for rows in ROW_FORMATS
        if rows != "fp16"
        for dense in (DENSE_FORMATS if has_layers else DENSE_FORMATS[:1])
    ]


def find_precision(
    gate: QualityGate,
    precisions: Sequence[Precision],
    pool: QueryPool,
    workspace: Path,
    progress: Progress,
) -> Found:
    """Judge and time each precision; those that the gate refuses are timed as well.

    Of those that pass and are as fast as the fastest, the one with the smallest tables is chosen.

    Args:
        gate: judges.
        precisions: what to try, with fp32, which always passes, among them.
        pool: makes the queries that are timed.
        workspace: an empty folder; holds the artifacts that lead, and the one on trial.
        progress: told what is being done.
    """
    trials: list[Trial] = []
    unavailable: dict[str, str] = {}
    leading: list[tuple[Trial, dict[str, BinaryMetrics], Path]] = []
    for precision in precisions:
        folder = workspace / str(precision)
        folder.mkdir()
        try:
            judged, scored, ranker = gate.judge(precision, folder)
        except (BackendUnavailable, ConfigError, RequestError) as error:
            unavailable[str(precision)] = str(error)
            shutil.rmtree(folder)
            continue
        progress.begin(f"time {precision}")
        times = time_rankers(
            {"fp32": gate.fp32, str(precision): ranker},
            pool,
            progress=lambda done, total: progress.count(done, total, "rounds"),
        )
        del ranker  # or the next would be loaded beside it
        trial = _trial(judged, times.of[str(precision)], times.of["fp32"], times.num_items)
        trials.append(trial)
        leading.append((trial, scored, folder))
        fastest = max((t.speedup for t in trials if t.judged.passed), default=math.inf)
        for left_behind in [c for c in leading if not _keeps_up(c[0], fastest)]:
            shutil.rmtree(left_behind[2])
            leading.remove(left_behind)
    # The first comes first among equals, and precisions are tried from the most exact on.
    chosen, scored, folder = min(leading, key=lambda candidate: candidate[0].judged.table_bytes)
    return Found(
        trials=tuple(trials), unavailable=unavailable, chosen=chosen, scored=scored, folder=folder
    )


def _keeps_up(trial: Trial, fastest: float) -> bool:
    """Whether it passes and is as fast as the fastest, as far as the clock can tell."""
    return trial.judged.passed and trial.speedup * (1 + _TIE_FRACTION) >= fastest


def _trial(
    judged: Judged, times_us: np.ndarray, fp32_times_us: np.ndarray, num_items: int
) -> Trial:
    """What the gate and the clock have shown."""
    rank_us, ratios = float(np.median(times_us)), fp32_times_us / times_us
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return Trial(
        judged=judged,
        rank_us=rank_us,
        items_per_s=num_items / rank_us * 1e6,
        speedup=float(np.median(ratios)),
        speedup_interval=(float(low), float(high)),
    )
