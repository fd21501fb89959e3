"""Candidates: what may be tried, each once."""

import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import POLICIES, PolicyConfig
from tailrank.tuning.candidate import Candidate, SearchSpace


def test_a_candidate_becomes_a_policy_with_the_settings_that_it_has():
    settings = {"delay_max_ns": 5, "sla": SLA.parse("p95=10ms")}
    static = Candidate(policy="static", batch_items_max=64)
    assert static.configure(**settings) == PolicyConfig(policy="static", batch_items_max=64)
    coalescing = Candidate(policy="coalescing", batch_items_max=64)
    assert coalescing.configure(**settings).delay_max_ns == 5


def test_the_space_holds_every_combination_that_the_cores_do():
    space = SearchSpace(
        policies=("static", "coalescing"),
        batch_items_max=(32, 64, 128),
        num_workers=(1, 2, 4),
        num_threads=(1, 2),
        num_cores=4,
    )
    candidates = space.candidates()
    dealt = {(each.num_workers, each.num_threads) for each in candidates}
    assert dealt == {(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)}
    assert len(candidates) == len(set(candidates)) == 2 * 3 * 5


def test_thresholds_are_for_policies_that_have_one():
    space = SearchSpace(
        policies=tuple(POLICIES), batch_items_max=(32,), offload_threshold_items=(None, 100, 200)
    )
    for policy, described in POLICIES.items():
        tried = [each for each in space.candidates() if each.policy == policy]
        has_threshold = "offload_threshold_items" in described.settings
        assert len(tried) == (3 if has_threshold else 1)


@pytest.mark.parametrize(
    "wrong",
    [{"policy": "statc"}, {"batch_items_max": 0}, {"num_workers": 0}, {"num_threads": -1}],
)
def test_a_candidate_refuses(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Candidate(**({"policy": "static", "batch_items_max": 8} | wrong))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"policies": ()}, "policy"),
        ({"policies": ("statc",)}, "static"),
        ({"num_workers": ()}, "num_workers"),
        ({"num_workers": (4,), "num_cores": 2}, "num_cores"),
    ],
)
def test_a_space_refuses(wrong, field):
    with pytest.raises(ConfigError, match=field):
        SearchSpace(**({"policies": ("static",)} | wrong))
