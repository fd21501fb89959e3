"""Runs the candidates of one model: comparison, quality gate, rounds on one core and on two."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from inference_cases import Case, IdsFrom, formats
from inference_floor import MODULE as FLOOR
from inference_metrics import Floats, Measured, Model
from inference_workers import Candidate, Role, Worker
from tailrank.models.presets import load_preset

REFERENCE = "eager_modules_fp32"
# Largest difference of a score to the reference, by the coarsest format of the candidate.
TOLERANCES = {"int4": 0.2, "int8": 0.06, "bf16": 0.02, "fp32": 1e-5}
_GATE_ITEMS = 256
_HEAD_START_S = 0.02  # until streams begin together


@dataclass(slots=True)
class Running:
    """The processes of one model, and what is in them.

    Args:
        case: the model.
        workers: by role.
        scorers: what scores, by label.
        floors: bare gathers, by number format.
        missing: why a candidate is not there, by label.
        described: what our rankers chose, by label.
        busy_fractions: of each turn, the part of wall time that other work took.
    """

    case: Case
    workers: Mapping[Role, Worker]
    scorers: Mapping[str, Candidate]
    floors: Mapping[str, Candidate]
    missing: Mapping[str, str]
    described: Mapping[str, Mapping[str, object]]
    busy_fractions: list[float] = field(default_factory=list)

    def worker(self, label: str) -> Worker:
        """The process of a candidate."""
        candidate = self.scorers.get(label) or next(
            c for c in self.floors.values() if c.label == label
        )
        return self.workers[candidate.role]

    def fork(self) -> None:
        """Give every process a twin, once."""
        for worker in self.workers.values():
            worker.fork()


@contextmanager
def started(case: Case, candidates: Sequence[Candidate], core: int) -> Iterator[Running]:
    """Start a process for each role, one after the other: some choose what they run by timing."""
    roles = dict.fromkeys(candidate.role for candidate in candidates)
    workers = {
        role: Worker(case, role, [c for c in candidates if c.role == role], core) for role in roles
    }
    try:
        missing: dict[str, str] = {}
        described: dict[str, Mapping[str, object]] = {}
        for worker in workers.values():
            not_there, what = worker.call("build")
            missing |= not_there
            described |= what
        there = [candidate for candidate in candidates if candidate.label not in missing]
        yield Running(
            case=case,
            workers=workers,
            scorers={c.label: c for c in there if c.module != FLOOR},
            floors={c.precision: c for c in there if c.module == FLOOR},
            missing=missing,
            described=described,
        )
    finally:
        for worker in workers.values():
            worker.close()


def model_of(running: Running) -> Model:
    """What an item of the model asks for, and the fastest products of this host."""
    config = load_preset(running.case.preset)
    dim = config.spec.tables[0].embedding_dim
    widths = [
        (config.num_dense, *config.bottom_mlp),
        (config.top_input_width, *config.top_mlp),
    ]
    weights = sum(a * b for stack in widths for a, b in pairwise(stack))
    return Model(
        name=running.case.name,
        rows=int(config.spec.ids_per_row("item")),
        row_bytes={"fp32": 4 * dim, "bf16": 2 * dim, "int8": dim + 8, "int4": dim // 2 + 4},
        flops=2 * weights,
        peak_gflops=running.workers["ours"].call("peaks"),
    )


def compare(running: Running, batches: int) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of the same items from everyone.

    Returns:
        The largest difference of a score to the reference's, and the drop of the expected AUC
        relative to the reference's, both by label.

    Raises:
        AssertionError: a candidate is further away than its number formats explain.
    """
    arguments = ("uniform", _GATE_ITEMS, batches)
    outputs = {
        label: running.worker(label).call("scores", label, *arguments) for label in running.scorers
    }
    reference = outputs[REFERENCE].astype(np.float64)
    attainable = expected_auc(reference, reference)
    differences, drops = {}, {}
    for label, scores in outputs.items():
        of = formats(running.scorers[label].precision)
        limit = next(limit for name, limit in TOLERANCES.items() if name in of)
        differences[label] = float(np.abs(scores - reference).max())
        assert differences[label] <= limit, (
            f"{running.case.name} {label} differs by {differences[label]}, limit {limit}"
        )
        drops[label] = 1.0 - expected_auc(scores.astype(np.float64), reference) / attainable
    return differences, drops


def expected_auc(scores_B: Floats, probability_B: Floats) -> float:
    """The AUC of scores if each label is 1 with its probability: without the noise of drawn labels.

    Equal scores count half, of which bf16 gives many.
    """
    _, group_B = np.unique(scores_B, return_inverse=True)
    positive_G = np.bincount(group_B, probability_B)
    negative_G = np.bincount(group_B, 1.0 - probability_B)
    below_G = np.cumsum(negative_G) - negative_G / 2
    return float(positive_G @ below_G / (positive_G.sum() * negative_G.sum()))


def one_core(
    running: Running,
    model: Model,
    ids_from: IdsFrom,
    items: int,
    *,
    rounds: tuple[int, int],
    seconds: float,
) -> Measured:
    """Turns of everyone, the order moving on by one, until the time is over."""
    labels = [*running.scorers, *(c.label for c in running.floors.values())]
    calls, drawn = max(2, math.ceil(64 / items)), 0
    times: dict[str, list[float]] = {label: [] for label in labels}
    started_s = time.monotonic()
    for number in range(-1, rounds[1]):  # round -1 compiles and warms up
        if number == 0:
            started_s = time.monotonic()
        if number >= rounds[0] and time.monotonic() - started_s > seconds:
            break
        for label in labels[number % len(labels) :] + labels[: number % len(labels)]:
            turn = (label, ids_from, items, drawn, calls if number >= 0 else 1)
            us, busy_fraction = running.worker(label).call("turn", *turn)
            drawn += calls + 1
            if number >= 0:
                times[label].append(us)
                running.busy_fractions.append(busy_fraction)
    return _measured(running, model, "zipf" if ids_from == "zipf" else "", items, times)


def two_cores(
    running: Running,
    model: Model,
    items: int,
    cores: Sequence[int],
    *,
    rounds: int,
    seconds: float,
) -> Measured:
    """Two streams of everyone, each as the better of two threads and two processes.

    Times are microseconds of a batch of both cores together.
    """
    labels = tuple(running.scorers)
    threads, processes = _stream_rates(running, labels, items, cores, rounds, seconds)
    times: dict[str, Floats] = {}
    for label in labels:
        best = max(threads[label], processes[label], key=lambda rates: float(np.median(rates)))
        times[label] = 1e6 * items / best
    return _measured(running, model, "w2", items, times)


def thread_scaling(
    running: Running, label: str, items: int, cores: Sequence[int], *, rounds: int, seconds: float
) -> Floats:
    """Throughput of two threads over that of two processes, round by round."""
    threads, processes = _stream_rates(running, (label,), items, cores, rounds, seconds)
    return threads[label] / processes[label]


def _stream_rates(
    running: Running,
    labels: Sequence[str],
    items: int,
    cores: Sequence[int],
    rounds: int,
    seconds: float,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Items per second of two threads and of two processes, which take turns."""
    running.fork()
    rates = tuple({label: np.empty(rounds) for label in labels} for _ in range(2))
    for number in range(rounds):
        for label in labels:
            for way, run in enumerate((_two_threads, _two_processes)):
                worker = running.worker(label)
                rates[way][label][number] = run(worker, label, items, number, cores, seconds)
    return rates[0], rates[1]


def _two_threads(
    worker: Worker, label: str, items: int, number: int, cores: Sequence[int], seconds: float
) -> float:
    worker.call("stream", label, items, 1000 * number, cores, seconds)
    rate: float = worker.call("run", time.monotonic() + _HEAD_START_S)
    return rate


def _two_processes(
    worker: Worker, label: str, items: int, number: int, cores: Sequence[int], seconds: float
) -> float:
    for twin, core in enumerate(cores):
        first = 1000 * number + 500 * twin
        worker.send("stream", label, items, first, [core], seconds, twin=bool(twin))
    for twin in (False, True):
        worker.receive(twin=twin)
    start_s = time.monotonic() + _HEAD_START_S
    for twin in (False, True):
        worker.send("run", start_s, twin=twin)
    return sum(worker.receive(twin=twin) for twin in (False, True))


def _measured(
    running: Running, model: Model, setting: str, items: int, times: Mapping[str, Sequence[float]]
) -> Measured:
    floors = {rows: c.label for rows, c in running.floors.items() if c.label in times}
    return Measured(
        model=model,
        setting=setting,
        items=items,
        times={label: np.array(times[label]) for label in running.scorers},
        floors={rows: np.array(times[label]) for rows, label in floors.items()},
    )
