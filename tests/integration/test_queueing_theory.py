"""The simulation against queues with closed forms, and Little's law on every run.

Each case runs the real loop and the real static scheduler on Poisson arrivals. Tolerances are five
standard errors of the estimate as batch means give it, so they shrink with the run and a wrong
formula fails.
"""

import math

import numpy as np
import pytest

from tailrank.core.query import Batch
from tailrank.runtime.record import RunResult
from tailrank.runtime.virtual import ServiceTime, simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

SERVICE_NS = 1_000_000
NUM_QUERIES = 50_000
NUM_WARMUP = 5_000


def exponential(seed: int) -> ServiceTime:
    rng = np.random.default_rng(seed)
    draws = iter((rng.standard_exponential(NUM_QUERIES) * SERVICE_NS).astype(int).tolist())
    return lambda batch, busy_workers: next(draws)


def deterministic(batch: Batch, busy_workers: int) -> int:
    return SERVICE_NS


def run(load: float, num_workers: int, service_time_ns: ServiceTime, seed: int) -> RunResult:
    """A queue of single-item queries; `load` is per worker."""
    schedule = draw_schedule(
        WorkloadConfig(sizes="fixed:1", arrival_seed=seed),
        qps=load * num_workers * 1e9 / SERVICE_NS,
        num_queries=NUM_QUERIES,
    )
    result = simulate(
        schedule,
        PolicyConfig(policy="static", batch_items_max=1),
        num_workers=num_workers,
        service_time_ns=service_time_ns,
    )
    check_little(result)
    return result


def check_little(result: RunResult) -> None:
    """L = lambda W, to the nanosecond: the loop's own count against the sum of the columns."""
    in_system_ns = result.queries.done_ns - result.queries.released_ns
    assert result.open_query_ns == in_system_ns.sum()


def assert_mean(values: np.ndarray, expected: float) -> None:
    """The mean of a correlated series, within five standard errors by 30 batch means."""
    means = np.array([block.mean() for block in np.array_split(values[NUM_WARMUP:], 30)])
    standard_error = means.std(ddof=1) / math.sqrt(len(means))
    assert standard_error < 0.12 * expected, "the run is too short to tell"
    assert abs(means.mean() - expected) < 5 * standard_error


def erlang_c(load: float, num_workers: int) -> float:
    """Probability that an M/M/c arrival has to wait."""
    offered = load * num_workers
    last = offered**num_workers / math.factorial(num_workers) / (1 - load)
    return last / (sum(offered**k / math.factorial(k) for k in range(num_workers)) + last)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_mm1(load):
    """Sojourn times are exponential with rate mu - lambda: mean and all percentiles."""
    result = run(load, 1, exponential(1), seed=1)
    mean_ns = SERVICE_NS / (1 - load)
    assert_mean(result.latency_ns, mean_ns)
    assert_mean(result.queueing_delay_ns, load * mean_ns)
    for percentile in (50, 90, 95):
        limit_ns = -mean_ns * math.log(1 - percentile / 100)
        assert_mean((result.latency_ns > limit_ns).astype(float), 1 - percentile / 100)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_md1(load):
    """Pollaczek-Khinchine: the mean wait is half of M/M/1's."""
    result = run(load, 1, deterministic, seed=2)
    assert_mean(result.queueing_delay_ns, load / (2 * (1 - load)) * SERVICE_NS)
    assert (result.service_time_ns == SERVICE_NS).all()


@pytest.mark.parametrize(("load", "num_workers"), [(0.5, 2), (0.7, 4), (0.8, 8)])
def test_mmc(load, num_workers):
    """Erlang C: who waits, for how long on average, and the tail of the wait."""
    result = run(load, num_workers, exponential(3), seed=3)
    delay_ns = result.queueing_delay_ns
    waits = erlang_c(load, num_workers)
    drain_ns = SERVICE_NS / (num_workers * (1 - load))
    assert_mean((delay_ns > 0).astype(float), waits)
    assert_mean(delay_ns, waits * drain_ns)
    assert_mean((delay_ns > drain_ns).astype(float), waits * math.exp(-1))


def test_utilisation_is_the_offered_load():
    result = run(0.6, 2, exponential(4), seed=4)
    span_ns = int(result.queries.scheduled_ns[-1])
    # Standard error of a compound Poisson mean: sqrt(2 / n), here 0.6 %; five of them.
    assert result.busy_fraction(0, span_ns) == pytest.approx(
        0.6, rel=5 * math.sqrt(2 / NUM_QUERIES)
    )
