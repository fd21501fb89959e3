"""What all sets of ports promise: the same accounts of the same schedule, simulated or live."""

import mmap
import os
import signal
from contextlib import closing

import numpy as np
import pytest

from tailrank.core.errors import ConfigError, WorkerDied
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.runtime.forked import ForkedWorkers
from tailrank.runtime.journal import RingJournal, replay
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.record import QueryOutcome
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import PolicyConfig, build_scheduler
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

POLICIES = [
    PolicyConfig(policy="static", batch_items_max=16),
    PolicyConfig(policy="coalescing", batch_items_max=16, delay_max_ns=50_000),
]
SCHEDULE = draw_schedule(WorkloadConfig(sizes="normal:12,8"), qps=20_000, num_queries=300)


def run_simulated(schedule, policy, **options):
    return simulate(
        schedule,
        policy,
        service_time_ns=lambda batch, busy: 2_000 * batch.num_items,
        **options,
    )


def run_threads(schedule, policy, **options):
    return run_live(schedule, policy, config=LiveConfig(pin=False), **options)


def forked(run_batch, num_workers):
    """Processes that run a batch of what its parts say, and the way there."""

    def compute(arrays):
        parts = [
            BatchPart(Query(query_id, "", 0, None, size, 0), first_item, num_items)
            for query_id, size, first_item, num_items in arrays[0].tolist()
        ]
        return [np.array(run_batch(Batch(0, 0, tuple(parts))))]

    def run_there(batch):
        parts = [(query.query_id, query.num_items, *span) for query, *span in batch.parts]
        (results,) = workers.call([np.array(parts)])
        return [tuple(result) for result in results.tolist()]

    workers = ForkedWorkers(compute, num_workers)
    return workers, run_there


def run_processes(schedule, policy, *, run_batch, num_workers, **options):
    workers, run_there = forked(run_batch, num_workers)
    with closing(workers):
        return run_threads(
            schedule, policy, run_batch=run_there, num_workers=num_workers, **options
        )


@pytest.fixture(
    params=[run_simulated, run_threads, run_processes], ids=["virtual", "threads", "processes"]
)
def run(request):
    return request.param


@pytest.fixture(params=POLICIES, ids=lambda policy: policy.policy)
def policy(request):
    return request.param


def echo(batch):
    return [(part.first_item, part.num_items) for part in batch.parts]


def test_every_query_is_answered_once_in_item_order(run, policy):
    answers = {}

    def on_answer(query, results, latency_ns):
        assert query.query_id not in answers
        answers[query.query_id] = results
        assert latency_ns >= 0

    result = run(SCHEDULE, policy, num_workers=3, run_batch=echo, on_answer=on_answer)
    assert sorted(answers) == [query.query_id for query in SCHEDULE]
    for query in SCHEDULE:
        spans = answers[query.query_id]
        assert [first for first, _ in spans] == list(np.cumsum([0, *(n for _, n in spans[:-1])]))
        assert sum(num_items for _, num_items in spans) == query.num_items
    assert result.drained
    assert result.first_error is None


def test_times_of_a_query_are_in_order(run, policy):
    result = run(SCHEDULE, policy, num_workers=2, run_batch=echo)
    columns = result.queries
    assert (columns.scheduled_ns <= columns.released_ns).all()
    assert (columns.released_ns <= columns.started_ns).all()
    assert (columns.started_ns <= columns.done_ns).all()
    assert result.ended_ns >= columns.done_ns.max()
    assert result.open_query_ns == (columns.done_ns - columns.released_ns).sum()


def test_the_journal_replays_to_the_same_decisions(run, policy):
    ring = RingJournal(100_000)
    run(SCHEDULE, policy, num_workers=2, run_batch=echo, journal=ring)
    assert ring.num_dropped == 0
    times = [entry[0] for entry in ring.entries]
    assert times == sorted(times)
    decided = [entry[2:] for entry in ring.entries]
    assert replay(ring.entries, build_scheduler(policy)) == decided


def test_failures_and_rejections_are_infinite_latency(run):
    policy = PolicyConfig(policy="static", batch_items_max=16, queue_items_max=64)
    schedule = [Query(0, "", 0, None, 16, 0), Query(1, "", 0, None, 65, 0)]

    def fail(batch):
        raise OSError("gone")

    result = run(schedule, policy, num_workers=1, run_batch=fail)
    assert list(result.queries.outcome) == [QueryOutcome.FAILED, QueryOutcome.REJECTED]
    assert np.isinf(result.latency_ns).all()
    assert isinstance(result.first_error, OSError)
    assert result.drained


@pytest.mark.parametrize("forked_or_not", [run_threads, run_processes])
def test_what_raises_fails_only_its_queries(forked_or_not, policy):
    def fail_some(batch):
        if any(part.query.query_id % 100 == 7 for part in batch.parts):
            raise OSError("gone")
        return echo(batch)

    result = forked_or_not(SCHEDULE, policy, num_workers=2, run_batch=fail_some)
    outcomes = result.queries.outcome
    assert result.drained
    assert isinstance(result.first_error, OSError)
    assert (outcomes[7::100] == QueryOutcome.FAILED).all()
    if policy.policy == "static":  # a batch holds parts of one query
        assert (outcomes == QueryOutcome.FAILED).sum() == 3


def test_no_query_is_lost_with_killed_processes(policy):
    died = mmap.mmap(-1, len(SCHEDULE))  # shared with all processes

    def run_batch(batch):
        for part in batch.parts:
            query_id = part.query.query_id
            if query_id % 50 == 5 and not died[query_id]:
                died[query_id] = 1
                os.kill(os.getpid(), signal.SIGKILL)
            if query_id == 299:
                os.kill(os.getpid(), signal.SIGKILL)
        return echo(batch)

    answers = {}
    workers, run_there = forked(run_batch, 2)
    with closing(workers):
        result = run_threads(
            SCHEDULE,
            policy,
            run_batch=run_there,
            num_workers=2,
            on_answer=lambda query, results, latency_ns: answers.update({query.query_id: results}),
        )
        assert len(workers.pids) == 2
    assert result.drained
    assert workers.num_died >= 2 + sum(died[:])
    assert isinstance(result.first_error, WorkerDied)
    lost = set(range(300)) - set(answers)
    if policy.policy == "static":
        assert sum(died[:]) == 6
        assert lost == {299}
    for query_id, spans in answers.items():
        assert sum(num_items for _, num_items in spans) == SCHEDULE[query_id].num_items


def test_refuses_an_empty_schedule(run, policy):
    with pytest.raises(ConfigError, match="schedule"):
        run([], policy, num_workers=1, run_batch=echo)
