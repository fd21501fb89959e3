"""Who competes for the best operating point, and how the settings of each are searched for.

All of it is simulated. Knows no target, no clock and no file: `simulate` and the time left are
handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

from tailrank.core.errors import ConfigError, one_of
from tailrank.core.latency import queries_needed
from tailrank.core.measurement import Measurement
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import static_baseline_batch
from tailrank.tuning.candidate import Candidate, SearchSpace
from tailrank.tuning.capacity import (
    Capacity,
    Judge,
    SecondsLeft,
    find_capacity,
    judge_probe,
    verify_capacity,
)
from tailrank.tuning.halving import successive_halving
from tailrank.tuning.optuna_search import optuna_search
from tailrank.tuning.search import (
    BATCH_LADDER,
    OnPoint,
    Point,
    SearchResult,
    grid,
    hill_climb,
)

SEARCHES = ("halving", "grid", "hill-climb", "optuna")
# What DeepRecSched tries, in this order, until it gets worse (ISCA 2020, as released).
_DEEPRECSCHED_BATCHES = (32, 48, 64, 96, 128, 192, 256, 384, 512)
# The sizes from which it then offloads queries, in this order, with that batch.
_THRESHOLDS = (96, 128, 192, 256, 384, 512)
# Lengths of simulated runs in multiples of the queries that bound the percentile at all: the first
# tells good candidates from bad ones on common queries, the last has the chance of a live run.
_LENGTHS = (4, 16, 64)
_TOLERANCE = 0.01
# Optuna learns from what it has seen: beyond a few dozen choices a grid is as cheap.
_NUM_TRIALS = 40


class Simulate(Protocol):
    """Simulates a candidate under a load."""

    def __call__(self, candidate: Candidate, qps: float, num_queries: int, /) -> Measurement:
        """What so many queries show; the same queries for every candidate."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to serve whose best settings are looked for.

    Args:
        name: as people read it.
        prefix: of its metrics.
        space: what is searched; the baseline's holds a single candidate.
        climbs: whether it is searched as DeepRecSched searches, whatever the others do.
    """

    name: str
    prefix: str
    space: SearchSpace
    climbs: bool = False


class _Kind(NamedTuple):
    """A contender as far as it does not depend on the workload.

    Args:
        name: see `Contender`.
        prefix: likewise.
        packs: whether a batch may hold several queries, so that batches larger than the largest
            query are worth a visit.
        chooses: whether it chooses the size of each batch, so that only large bounds are tried.
        policy: how it serves; None: by the policy of its own name.
        accelerated: whether it is nothing without an accelerator.
    """

    name: str
    prefix: str
    packs: bool = False
    chooses: bool = False
    policy: str | None = None
    accelerated: bool = False


_KINDS = {
    "deeprecsched": _Kind("DeepRecSched", "deeprecsched"),
    "static": _Kind("best static", "best_static"),
    "slack": _Kind("slack", "slack", packs=True, chooses=True),
    "coalescing": _Kind("coalescing", "coalescing", packs=True),
    "offload": _Kind("best offload", "best_offload", policy="deeprecsched", accelerated=True),
    "kairos": _Kind("Kairos", "kairos", chooses=True, accelerated=True),
}
_LARGE_BOUNDS = 4  # the largest rungs of the ladder, for policies that choose
CONTENDERS = tuple(_KINDS)
DEFAULT_CONTENDERS = ("deeprecsched", "static", "slack")
# Where there is an accelerator; `slack` cuts queries for workers that are alike.
ACCELERATED_CONTENDERS = ("deeprecsched", "static", "offload", "kairos")
PARTS_MAX = 8  # of a batch; what `PolicyConfig` allows by default


def check_contenders(words: Sequence[str], *, accelerated: bool = False) -> None:
    """Refuse a policy that does not compete.

    Args:
        words: as the user wrote them.
        accelerated: whether there is an accelerator.

    Raises:
        ConfigError: a word is not in `CONTENDERS`, or wants an accelerator that is not there, or
            cannot use the one that is.
    """
    for word in words:
        if word not in CONTENDERS:
            raise ConfigError("--policy", word, one_of(sorted(CONTENDERS), word))
        if _KINDS[word].accelerated and not accelerated:
            raise ConfigError("--policy", word, "a policy of the cores alone, without --devices")
        if word == "slack" and accelerated:
            allowed = (
                "another: slack cuts queries for workers that are alike; with --devices kairos"
            )
            raise ConfigError("--policy", word, allowed)


def packs(words: Sequence[str]) -> bool:
    """Whether one of these policies puts several queries into a batch."""
    return any(_KINDS[word].packs for word in words)


def batch_top(words: Sequence[str], items_max: int, items_limit: int | None = None) -> int:
    """The largest batch worth a visit: the largest query, or as many items as a packed batch has.

    Args:
        words: the policies.
        items_max: of the largest query.
        items_limit: of the largest query that could be timed; None: any.
    """
    packed = PARTS_MAX * items_max if packs(words) else 0
    return max(items_max, min(packed, BATCH_LADDER[-1], items_limit or packed))


def find_contenders(
    words: Sequence[str],
    *,
    items_max: int,
    workers: tuple[int, ...],
    items_limit: int | None = None,
    accelerated: bool = False,
) -> list[Contender]:
    """The static baseline, and a contender for each word.

    Args:
        words: from `CONTENDERS`.
        items_max: of the largest query.
        workers: numbers of workers to try, rising; the baseline and DeepRecSched use them all.
        items_limit: see `batch_top`.
        accelerated: whether there is an accelerator for large queries.
    """
    thresholds = tuple(size for size in _THRESHOLDS if size <= items_max) or (items_max,)
    most = workers[-1]
    baseline = SearchSpace(
        policies=("static",),
        batch_items_max=(static_baseline_batch(items_max, most),),
        num_workers=(most,),
    )
    found = [Contender(name="static baseline", prefix="baseline", space=baseline)]
    for word in dict.fromkeys(words):
        kind = _KINDS[word]
        if word == "deeprecsched":
            rungs = tuple(rung for rung in _DEEPRECSCHED_BATCHES if rung <= items_max)
            space = replace(
                baseline,
                policies=("deeprecsched",) if accelerated else baseline.policies,
                batch_items_max=rungs or (items_max,),
                offload_threshold_items=(None, *thresholds) if accelerated else (None,),
            )
        else:
            top = batch_top([word], items_max, items_limit)
            ladder = {rung for rung in BATCH_LADDER if rung < top} | {top}
            rungs = tuple(sorted(ladder | {*baseline.batch_items_max}))
            space = SearchSpace(
                policies=(kind.policy or word,),
                batch_items_max=rungs[-_LARGE_BOUNDS:] if kind.chooses else rungs,
                offload_threshold_items=thresholds if word == "offload" else (None,),
                num_workers=(most,) if kind.accelerated else workers,
            )
        climbs = word == "deeprecsched"
        found.append(Contender(name=kind.name, prefix=kind.prefix, space=space, climbs=climbs))
    return found


class ContenderSearch:
    """Searches contenders one after another, each from what the others have shown.

    Args:
        simulate: see `Simulate`.
        sla: percentile and limit.
        bounds: further ones to be kept.
        search: how, from `SEARCHES`.
        start_qps: load of the very first run.
        seed: of Optuna.
    """

    def __init__(
        self,
        simulate: Simulate,
        sla: SLA,
        bounds: tuple[SLA, ...],
        *,
        search: str,
        start_qps: float,
        seed: int,
    ) -> None:
        needed = queries_needed(max(bound.percentile for bound in (sla, *bounds)))
        self._lengths = tuple(factor * needed for factor in _LENGTHS)
        self._simulate, self._sla, self._search, self._seed = simulate, sla, search, seed
        self._judge: Judge = partial(judge_probe, bounds=bounds, certain=False)
        self._near_qps = start_qps
        self._known: dict[Candidate, Capacity] = {}

    def find(
        self,
        contender: Contender,
        *,
        seconds_left: SecondsLeft,
        on_point: Callable[[Point[Candidate], float], None],
    ) -> SearchResult[Candidate]:
        """The best settings of a contender, by simulation.

        Args:
            contender: who.
            seconds_left: time until the search must end.
            on_point: told of each candidate that was simulated, and the share of the search that is
                behind it.
        """
        seen, expected = 0, self._num_points(contender)

        def tell(point: Point[Candidate]) -> None:
            nonlocal seen
            seen += 1
            self._near_qps = point.capacity.capacity_qps or self._near_qps
            on_point(point, min(1.0, seen / expected))

        candidates = contender.space.candidates()
        if contender.climbs or self._search == "hill-climb":
            return self._climb(contender, seconds_left, tell)
        if len(candidates) == 1 or self._search == "grid":
            return grid(self._evaluate, candidates, seconds_left=seconds_left, on_point=tell)
        if self._search == "optuna":
            return optuna_search(
                self._evaluate,
                contender.space,
                num_trials=_NUM_TRIALS,
                seed=self._seed,
                seconds_left=seconds_left,
                on_point=tell,
            )
        return successive_halving(
            self._simulate,
            candidates,
            self._sla,
            num_queries=self._lengths,
            start_qps=self._near_qps,
            tolerance=_TOLERANCE,
            judge=self._judge,
            seconds_left=seconds_left,
            on_point=tell,
        )

    def known(self, contender: Contender) -> list[Point[Candidate]]:
        """What the searches of others have shown of a contender's settings, in the longest runs."""
        own = contender.space.candidates()
        return [Point(each, found) for each, found in self._known.items() if each in own]

    def _evaluate(self, candidate: Candidate) -> Capacity:
        """Its capacity in the longest runs, once; near what others have, if it lies there."""
        if candidate in self._known:
            return self._known[candidate]

        def run(one: Candidate, qps: float) -> Measurement:
            return self._simulate(one, qps, self._lengths[-1])

        find = partial(find_capacity, start_qps=self._near_qps)
        near = partial(verify_capacity, expected_qps=self._near_qps)
        for search in (near, find) if self._known else (find,):
            found = search(run, candidate, self._sla, tolerance=_TOLERANCE, judge=self._judge)
            self._known[candidate] = found
            if found.capacity_qps:
                break
        return self._known[candidate]

    def _climb(
        self, contender: Contender, seconds_left: SecondsLeft, tell: OnPoint[Candidate]
    ) -> SearchResult[Candidate]:
        """Batch sizes from the largest downwards until it gets worse, then thresholds upwards.

        All on all workers, and the thresholds, where there are some, with the best batch. A climb
        of DeepRecSched stops at the first setting that is worse; other policies are given a second
        chance, for simulated capacities are not smooth.
        """
        space = contender.space
        batches = tuple(sorted(space.batch_items_max))
        thresholds = tuple(size for size in space.offload_threshold_items if size is not None)
        first = thresholds[0] if None not in space.offload_threshold_items else None
        start = Candidate(
            policy=space.policies[0],
            batch_items_max=batches[-1],
            offload_threshold_items=first,
            num_workers=max(space.num_workers),
        )
        points: list[Point[Candidate]] = []

        def climb(
            at: Callable[[int], Candidate], ladder: tuple[int, ...], first: int
        ) -> SearchResult[int]:
            def on_rung(rung: Point[int]) -> None:
                point = Point(at(rung.value), rung.capacity)
                if point not in points:  # the second climb begins where the first one was
                    points.append(point)
                    tell(point)

            return hill_climb(
                lambda rung: self._evaluate(at(rung)),
                ladder,
                start=first,
                patience=1 if contender.climbs else 2,
                seconds_left=seconds_left,
                on_point=on_rung,
            )

        climbed = climb(lambda size: replace(start, batch_items_max=size), batches, batches[-1])
        if thresholds and climbed.best and not (climbed.interrupted or climbed.out_of_time):
            best = replace(start, batch_items_max=climbed.best.value)
            climbed = climb(
                lambda size: replace(best, offload_threshold_items=size), thresholds, thresholds[0]
            )
        return SearchResult(tuple(points), climbed.interrupted, climbed.out_of_time)

    def _num_points(self, contender: Contender) -> int:
        """Points that a search will have, about: only for telling progress."""
        count = len(contender.space.candidates())
        if contender.climbs or self._search == "hill-climb":
            return max(1, count // 2)
        if self._search == "optuna":
            return min(count, _NUM_TRIALS)
        if self._search == "grid" or count == 1:
            return count
        return sum(-(-count // 2**round_) for round_ in range(len(self._lengths)))
