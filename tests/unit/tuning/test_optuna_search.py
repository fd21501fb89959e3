"""The search by Optuna: the same one for the same seed, each candidate once."""

import sys

import numpy as np
import pytest

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.core.latency import LatencySummary
from tailrank.core.measurement import Measurement, Validity
from tailrank.tuning.candidate import Candidate, SearchSpace
from tailrank.tuning.capacity import Capacity
from tailrank.tuning.optuna_search import optuna_search

SPACE = SearchSpace(
    policies=("static", "coalescing"),
    batch_items_max=(16, 32, 64, 128, 256, 512),
    num_workers=(1, 2, 4),
    num_threads=(1, 2),
    num_cores=4,
)
AT = Measurement(1, 1, 1, 0, 0, LatencySummary.of(np.ones(1)), Validity())


def evaluate(candidate: Candidate) -> Capacity:
    """Best at coalescing, 128 items, 4 workers of one thread."""
    octaves = abs(np.log2(candidate.batch_items_max / 128))
    qps = 1000.0 / (1.0 + octaves) * candidate.num_workers / candidate.num_threads**0.5
    qps *= 1.1 if candidate.policy == "coalescing" else 1.0
    return Capacity(qps, qps * 1.01, (), AT)


def test_finds_a_good_candidate_of_which_it_tried_each_once():
    pytest.importorskip("optuna", reason="needs tailrank[tune]")
    seen = []
    found = optuna_search(evaluate, SPACE, num_trials=40, seed=1, on_point=seen.append)
    tried = [point.value for point in found.points]
    assert len(tried) == len(set(tried)) <= 40
    assert set(tried) <= set(SPACE.candidates())
    assert seen == list(found.points)
    best_qps = max(evaluate(each).capacity_qps for each in SPACE.candidates())
    assert found.best.capacity.capacity_qps >= 0.9 * best_qps
    again = optuna_search(evaluate, SPACE, num_trials=40, seed=1)
    assert [point.value for point in again.points] == tried


def test_time_and_interrupts_keep_the_best_so_far():
    pytest.importorskip("optuna", reason="needs tailrank[tune]")
    left = iter([1.0, 1.0, 0.0])
    found = optuna_search(evaluate, SPACE, num_trials=40, seed=1, seconds_left=lambda: next(left))
    assert (len(found.points), found.out_of_time) == (3, True)


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BackendUnavailable, match=r"tailrank\[tune\]"):
        optuna_search(evaluate, SPACE, num_trials=1, seed=0)


def test_refuses_to_try_nothing():
    with pytest.raises(ConfigError, match="num_trials"):
        optuna_search(evaluate, SPACE, num_trials=0, seed=0)
