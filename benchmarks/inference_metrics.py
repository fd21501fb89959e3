"""From times of interleaved rounds to the figures of `bench_inference.py`. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_cases import formats
from inference_workers import Candidate, slug
from tailrank.core.measurement import Validity

Floats = NDArray[np.float64]
_DRAWS = 2000
_MAX_BUSY_FRACTION = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What one item of a model asks for.

    Args:
        name: as in names of metrics.
        rows: embedding rows read.
        row_bytes: bytes of a row, by number format.
        flops: of the dense layers.
        peak_gflops: of this host, by number format, measured in the same run.
    """

    name: str
    rows: int
    row_bytes: Mapping[str, int]
    flops: int
    peak_gflops: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Microseconds of a batch by label, one number a round; the same rounds for all.

    Args:
        model: whose batch.
        setting: empty, `zipf`, or `w2` (two streams of uniform ids: a core each, wall time).
        items: of a batch.
        times: of every candidate.
        floors: of a bare gather of the batch's rows, by number format.
    """

    model: Model
    setting: str
    items: int
    times: Mapping[str, Floats]
    floors: Mapping[str, Floats]

    @property
    def key(self) -> str:
        """In names of metrics."""
        return "_".join(filter(None, (self.model.name, self.setting))) + f".b{self.items}"

    @property
    def num_rounds(self) -> int:
        """Numbers of each candidate."""
        return len(next(iter(self.times.values())))


@dataclass(slots=True)
class Figures:
    """Metrics, their intervals, and which candidate a ratio is about."""

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    chosen: dict[str, str]

    def add(self, name: str, ratios: Sequence[Floats]) -> None:
        """The geometric mean of the median of each case, with its 95 % interval."""
        if not ratios:
            return
        self.metrics[name] = _geomean([np.median(ratio) for ratio in ratios])
        random = np.random.default_rng(0)
        drawn = [np.median(random.choice(r, (_DRAWS, len(r))), axis=1) for r in ratios]
        means = np.exp(np.mean(np.log(drawn), axis=0))
        self.intervals[name] = [float(v) for v in np.percentile(means, [2.5, 97.5])]


def figures_of(
    measured: Sequence[Measured],
    candidates: Sequence[Candidate],
    passing: Mapping[str, set[str]],
) -> Figures:
    """All figures.

    Args:
        measured: every case.
        candidates: all that were measured in at least one.
        passing: labels that pass the quality gate, by model.
    """
    figures = Figures({}, {}, {})
    by_label = {candidate.label: candidate for candidate in candidates}
    for case in measured:
        _plain(figures, case, by_label)
    one_core = [case for case in measured if case.setting != "w2"]
    for model in dict.fromkeys(case.model.name for case in one_core):
        own = [case for case in one_core if case.model.name == model]
        figures.chosen[f"best_of_ours.{model}"] = _best_of_ours(own, by_label, passing[model])
    two_cores = [case for case in measured if case.setting == "w2"]
    for suffix, cases in {"": one_core, "_w2": two_cores}.items():
        _against_best(figures, suffix, cases, by_label, passing)
        _against_equals(figures, suffix, cases, by_label)
    return figures


def _plain(figures: Figures, case: Measured, by_label: Mapping[str, Candidate]) -> None:
    """What each candidate reaches, and ours against eager modules."""
    model, eager = case.model, case.times.get("eager_modules_fp32")
    for label, times in case.times.items():
        rows, dense = formats(by_label[label].precision)
        us, name = float(np.median(times)), f"{case.key}.{label}"
        num_rows, flops = model.rows * case.items, model.flops * case.items
        figures.metrics[f"us.{name}"] = us
        figures.metrics[f"items_per_s.{name}"] = case.items / us * 1e6
        figures.metrics[f"ns_per_row.{name}"] = us * 1e3 / num_rows
        figures.metrics[f"gb_per_s.{name}"] = num_rows * model.row_bytes[rows] / us / 1e3
        figures.metrics[f"gflop_per_s.{name}"] = flops / us / 1e3
        if rows in case.floors:
            floor = case.floors[rows] + flops / model.peak_gflops[dense] / 1e3
            figures.metrics[f"floor_fraction.{name}"] = float(np.median(floor / times))
        if eager is not None and by_label[label].role == "ours":
            precision = slug(by_label[label].precision)
            figures.add(f"speedup_vs_eager.{case.key}.{precision}", [eager / times])
    for rows, times in case.floors.items():
        ns_per_row = float(np.median(times)) * 1e3 / (model.rows * case.items)
        figures.metrics[f"ns_per_row.{case.key}.floor_{rows}"] = ns_per_row


def _best_of_ours(
    cases: Sequence[Measured], by_label: Mapping[str, Candidate], passing: set[str]
) -> str:
    """Our fastest precision that passes the gate: one for all cases of a model."""
    ours = [label for label in cases[0].times if by_label[label].role == "ours"]
    return min(
        (label for label in ours if label in passing),
        key=lambda label: _geomean([float(np.median(case.times[label])) for case in cases]),
    )


def _against_best(
    figures: Figures,
    suffix: str,
    cases: Sequence[Measured],
    by_label: Mapping[str, Candidate],
    passing: Mapping[str, set[str]],
) -> None:
    """Our best precision of each model against peers that may be in another one.

    `stock_peer`: as shipped, which is fp32. `…_any_precision`: peers, as shipped or all of them, in
    any of their formats that passes the gate as well.
    """
    groups: dict[str, Callable[[Candidate, bool], bool]] = {
        "stock_peer": lambda who, passes: who.role == "stock" and who.precision == "fp32",
        "stock_peer_any_precision": lambda who, passes: who.role == "stock" and passes,
        "tuned_peer_any_precision": lambda who, passes: who.role != "ours" and passes,
    }
    for group, belongs in groups.items():
        name = f"speedup_vs_best_{group}{suffix}"
        ratios: dict[str, list[Floats]] = {}
        for case in cases:
            model = case.model.name
            peers = [w for w in case.times if belongs(by_label[w], w in passing[model])]
            ours = figures.chosen[f"best_of_ours.{model}"]
            ratio = _over_best(figures, case, ours, peers, group)
            figures.add(f"{name}.{case.key}", [ratio])
            ratios.setdefault(model, []).append(ratio)
        for model, of_model in ratios.items():
            figures.add(f"{name}.{model}", of_model)
        figures.add(f"{name}.geomean", [ratio for found in ratios.values() for ratio in found])


def _against_equals(
    figures: Figures, suffix: str, cases: Sequence[Measured], by_label: Mapping[str, Candidate]
) -> None:
    """Ours in each precision that a peer has too, against the fastest peer of any kind in it.

    The mean of all leaves out mixed precisions, in which few people would run the peers.
    """
    name, everything = f"speedup_vs_best_tuned_peer{suffix}", []
    precisions = dict.fromkeys(c.precision for c in by_label.values() if c.role == "ours")
    for precision in precisions:
        ratios = []
        for case in cases:
            same = [label for label in case.times if by_label[label].precision == precision]
            peers = [label for label in same if by_label[label].role != "ours"]
            ours = [label for label in same if by_label[label].role == "ours"]
            if peers and ours:
                group = f"tuned_peer.{slug(precision)}"
                ratios.append(_over_best(figures, case, ours[0], peers, group))
        figures.add(f"{name}.{slug(precision)}", ratios)
        if "=" not in precision:
            everything += ratios
    figures.add(f"{name}.geomean", everything)


def _over_best(
    figures: Figures, case: Measured, ours: str, peers: Iterable[str], group: str
) -> Floats:
    """How many times as fast as the peer with the smallest median ours is, round by round."""
    best = min(peers, key=lambda label: float(np.median(case.times[label])))
    figures.chosen[f"best_peer.{group}.{case.key}"] = best
    return case.times[best] / case.times[ours]


def _geomean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def validity(busy_fraction: float) -> Validity:
    """Whether the pinned core was ours."""
    if busy_fraction <= _MAX_BUSY_FRACTION:
        return Validity()
    return Validity((f"other work had {busy_fraction:.0%} of the core: it shares memory, too",))
