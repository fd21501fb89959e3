"""Where each model spends its time, and how fast its cpu ranker is beside eager modules.

Every preset in two ways: `per_item` is the papers' setting, every item with all features of its
own; `user_once` is one user for all items of a batch, with the natural sides of a model that has
them and three quarters of the tables on the user's side of one that has none. Uniform ids, fp32,
one pinned core; each call on features of its own. The two rankers take turns, several calls each,
in an order that moves on.

An operator's time is what its layers' calls take (`characterization/operators.py`); a DLRM that
runs whole in one native call has counters inside. The time of a call is measured apart, watched by
nobody: CPU time of the thread; its share that no operator has is `other` (interactions, joining,
repeating users, derived features, Python).
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from inference_cases import tailrank_ranker
from inference_metrics import Figures, Floats, validity
from peers.eager_model import EagerModel
from tailrank.characterization.operators import OPERATORS, Operator, TimedCall, timed_operators
from tailrank.characterization.payloads import QueryPool
from tailrank.core.query import BatchPart, Query
from tailrank.features import FeatureBatch
from tailrank.inference.cpu import CpuRanker
from tailrank.models import ModelConfig, RankingModel, build_model
from tailrank.models.presets import load_preset
from tailrank.reporting.result import Result

# Rows of every preset, so that fp32 tables are 0.6 GB at most, 20 times a large last-level cache.
SCALES = {
    "ncf": 1.0,
    "wide-and-deep": 0.17,
    "mt-wide-and-deep": 0.15,
    "dlrm-rmc1": 0.15,
    "dlrm-rmc2": 0.15,
    "dlrm-rmc3": 0.25,
    "din": 0.22,
    "dien": 0.15,
}
WAYS = ("per_item", "user_once")
# Shares of CPU time by batch, read off DeepRecSys' plots (Gupta et al., ISCA 2020), Caffe2 on an
# Intel host. A span where the plots give one for all batches.
PUBLISHED: dict[str, dict[str, dict[int, str]]] = {
    "rmc1": {"lookup": {1: "30 %", 16: "67 %", 64: "78 %", 1024: "78 %"}},
    "rmc2": {"lookup": {1: "70 %", 16: "90 %", 64: "92 %", 1024: "90 %"}},
    "rmc3": {"dense": dict.fromkeys((1, 16, 64, 1024), "93-97 %")},
    "wide_and_deep": {"dense": dict.fromkeys((1, 16, 64, 1024), "93-97 %")},
    "dien": {"recurrent": {1: "96 %", 16: "87 %", 64: "74 %", 1024: "50 %"}},
}
# Largest difference of a score between the two: sums of another order.
TOLERANCE = 1e-4
_COMPARED_ITEMS = 64
_OURS, _EAGER = "tailrank_fp32", "eager_modules_fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """How much is measured.

    Args:
        presets: which.
        shrink: factor on the rows of `SCALES`.
        batches: items of a batch.
        rounds: turns of each ranker for one case: at least and at most.
        case_s: seconds for one case, between these bounds.
    """

    presets: tuple[str, ...] = tuple(SCALES)
    shrink: float = 1.0
    batches: tuple[int, ...] = (1, 16, 64, 1024)
    rounds: tuple[int, int] = (5, 25)
    case_s: float = 10.0


class _Turn(NamedTuple):
    """Medians of a turn's calls, and what other work took of the core meanwhile."""

    us: float
    parts_us: dict[Operator, float]
    busy_fraction: float


class _Contender(NamedTuple):
    """A ranker, and what makes a batch ready for it beforehand."""

    ranker: Any
    prepare: Callable[[FeatureBatch], Any]

    def turn(self, batches: list[FeatureBatch]) -> _Turn:
        """Half of the calls unwatched, for the time of a call, and half watched.

        The first call brings the weights back, as the call before does in a server.
        """
        first, *rest = map(self.prepare, batches)
        plain, watched = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        self.ranker.rank(first)
        wall_ns, own_ns = time.monotonic_ns(), time.thread_time_ns()
        us = statistics.median(self._us(batch) for batch in plain)
        own_ns, wall_ns = time.thread_time_ns() - own_ns, time.monotonic_ns() - wall_ns
        with timed_operators(self.ranker) as timed:
            found = [_own_us(timed, batch) for batch in watched]
        parts_us = {name: statistics.median(us[name] for us in found) for name in OPERATORS}
        return _Turn(us, parts_us, max(0.0, 1.0 - own_ns / wall_ns))

    def _us(self, batch: Any) -> float:
        started_ns = time.thread_time_ns()
        self.ranker.rank(batch)
        return (time.thread_time_ns() - started_ns) / 1e3


def _own_us(timed: TimedCall, batch: Any) -> dict[Operator, float]:
    """Microseconds of operators, less what others took of the core during the call."""
    wall_ns, own_ns = time.monotonic_ns(), time.thread_time_ns()
    parts_ns = timed(batch)
    own_ns, wall_ns = time.thread_time_ns() - own_ns, time.monotonic_ns() - wall_ns
    fraction = min(1.0, own_ns / wall_ns)
    return {name: fraction * part_ns / 1e3 for name, part_ns in parts_ns.items()}


def operators_result(presets: Sequence[str], *, quick: bool, say: Callable[[str], None]) -> Result:
    """Everything about these presets, as a result."""
    settings = OperatorSettings(presets=tuple(presets))
    if quick:
        settings = replace(settings, shrink=0.05, batches=(1, 64), rounds=(2, 2), case_s=0.0)
    load_average = os.getloadavg()
    torch.set_num_threads(1)
    with torch.inference_mode():
        figures, facts = measure_operators(settings, say)
    return Result(
        command="bench_inference",
        config={
            "settings": settings,
            "scales": {name: SCALES[name] * settings.shrink for name in settings.presets},
            "published_shares": PUBLISHED,
            "load_average_before": load_average,
            **facts,
        },
        seed=0,
        metrics=figures.metrics,
        intervals=figures.intervals,
        validity=validity(figures.metrics["host_busy_fraction"]),
    )


def measure_operators(
    settings: OperatorSettings, say: Callable[[str], None]
) -> tuple[Figures, dict[str, object]]:
    """All cases; also what the rankers chose, how far they differ and what others took."""
    figures, chosen, differences = Figures({}, {}, {}), {}, {}
    busy_fractions: list[float] = []
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    try:
        for preset in settings.presets:
            for way in WAYS:
                case = _case_name(preset, way)
                say(f"{case}: build and compare")
                config = _config(preset, way, SCALES[preset] * settings.shrink)
                batch_of = _batches(config, way)
                contenders, chosen[case] = _contenders(config)
                differences[case] = _compare(contenders, batch_of)
                for items in settings.batches:
                    say(f"{case}.b{items}")
                    busy_fractions += _case(figures, case, items, contenders, batch_of, settings)
                del contenders  # its tables, before the next ones
    finally:
        os.sched_setaffinity(0, usable)
    figures.metrics["host_busy_fraction"] = float(np.median(busy_fractions))
    return figures, {"described": chosen, "largest_difference": differences}


def _case_name(preset: str, way: str) -> str:
    """In names of metrics: `rmc1`, `rmc1_user_once`."""
    name = preset.removeprefix("dlrm-").replace("-", "_")
    return name if way == "per_item" else f"{name}_{way}"


def _config(preset: str, way: str, scale: float) -> ModelConfig:
    """The preset, with users where the way asks for them and it has none of its own."""
    config = load_preset(preset, scale=scale)
    if way == "user_once" and not config.spec.sparse("user"):
        user_tables = 3 * len(config.spec.tables) // 4
        return load_preset(preset, scale=scale, user_tables=user_tables)
    return config


def _batches(config: ModelConfig, way: str) -> Callable[[int], FeatureBatch]:
    """What draws a batch of so many items."""
    pool = QueryPool.random(config.spec, seed=1)
    has_users = any(feature.side == "user" for feature in config.spec.features)
    draws = np.random.default_rng(0)

    def query(num_items: int) -> FeatureBatch:
        payload = pool.payload(int(draws.integers(1 << 31)), num_items)
        return pool.features(BatchPart(Query(0, "", 0, None, num_items, 0, payload), 0, num_items))

    def batch(num_items: int) -> FeatureBatch:
        if way == "per_item" and has_users:
            return FeatureBatch.concat([query(1) for _ in range(num_items)])
        return query(num_items)

    return batch


def _model(config: ModelConfig) -> RankingModel:
    """The model with drawn weights; rows large enough that a wrong one would show in a score."""
    model = build_model(config, 0).eval()
    ids = max(feature.pooling_factor for feature in config.spec.features if feature.table)
    bound = math.sqrt(3.0 / ids)
    model.tables.weight_VD.uniform_(-bound, bound, generator=torch.Generator().manual_seed(0))
    return model


def _contenders(config: ModelConfig) -> tuple[dict[str, _Contender], dict[str, object]]:
    """Both rankers of one model, and what ours chose."""
    model = _model(config)
    with tempfile.TemporaryDirectory() as folder:
        ours = tailrank_ranker(model, "fp32", folder)
    assert isinstance(ours, CpuRanker)
    eager = EagerModel(model)
    contenders = {
        _OURS: _Contender(ours, lambda batch: batch),
        _EAGER: _Contender(eager, eager.split),
    }
    return contenders, ours.describe()


def _compare(
    contenders: Mapping[str, _Contender], batch_of: Callable[[int], FeatureBatch]
) -> float:
    """The largest difference between the scores of the two.

    Raises:
        AssertionError: it is more than another order of sums explains, or scores tell nothing.
    """
    batch = batch_of(_COMPARED_ITEMS)
    ours, eager = (who.ranker.rank(who.prepare(batch)) for who in contenders.values())
    assert float(eager.std()) > 1e-3, "scores that are all alike compare nothing"
    difference = float((ours - eager).abs().max())
    assert difference <= TOLERANCE, f"differs by {difference}, limit {TOLERANCE}"
    return difference


def _case(
    figures: Figures,
    case: str,
    items: int,
    contenders: Mapping[str, _Contender],
    batch_of: Callable[[int], FeatureBatch],
    settings: OperatorSettings,
) -> list[float]:
    """Measure one batch size in turns; what others took of the core in each."""
    name, calls = f"{case}.b{items}", max(2, math.ceil(64 / items))
    found: dict[str, list[_Turn]] = {label: [] for label in contenders}
    labels, started_s = list(contenders), time.monotonic()
    for number in range(-1, settings.rounds[1]):  # round -1 warms up
        if number == 0:
            started_s = time.monotonic()
        if number >= settings.rounds[0] and time.monotonic() - started_s > settings.case_s:
            break
        for label in labels[number % 2 :] + labels[: number % 2]:
            turn = contenders[label].turn([batch_of(items) for _ in range(2 * calls + 1)])
            if number >= 0:
                found[label].append(turn)
    times = {label: np.array([turn.us for turn in turns]) for label, turns in found.items()}
    for label, us in times.items():
        figures.metrics[f"us.{name}.{label}"] = float(np.median(us))
        figures.metrics[f"items_per_s.{name}.{label}"] = items / float(np.median(us)) * 1e6
        for operator, share in _shares(us, [turn.parts_us for turn in found[label]]).items():
            figures.metrics[f"share.{name}.{label}.{operator}"] = share
    figures.add(f"speedup_vs_eager.{name}.fp32", [times[_EAGER] / times[_OURS]])
    return [turn.busy_fraction for turns in found.values() for turn in turns]


def _shares(us: Floats, parts_us: Sequence[Mapping[Operator, float]]) -> dict[str, float]:
    """Shares of the time of a call, which are 1 together; medians of the rounds, put to scale."""
    parts = {name: np.array([each[name] for each in parts_us]) for name in OPERATORS}
    whole = np.maximum(us, sum(parts.values()))
    shares = {name: float(np.median(part / whole)) for name, part in parts.items()}
    return shares | {"other": max(0.0, 1.0 - sum(shares.values()))}
