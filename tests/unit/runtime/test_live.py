"""Live workers: on a hand-driven clock to the nanosecond, on the real one for what threads do."""

import gc
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tailrank.core.clock import ManualClock
from tailrank.core.errors import ConfigError, WorkerDied
from tailrank.core.query import Query
from tailrank.runtime import workers
from tailrank.runtime.live import LiveConfig, available_workers, cores_of, run_live
from tailrank.runtime.record import QueryOutcome
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

MS = 1_000_000
UNPINNED = LiveConfig(pin=False)
STATIC = PolicyConfig(policy="static", batch_items_max=10)
COALESCING = PolicyConfig(policy="coalescing", batch_items_max=10, delay_max_ns=2 * MS)


class SteppingParking:
    """Parking for one worker on a hand-driven clock: waiting moves the clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def park(self, slot: int, until_ns: int | None) -> None:
        assert until_ns is not None, "a lone worker always leads"
        self._clock.advance_to(max(until_ns, self._clock.now_ns()))

    def unpark(self, slot: int) -> None:
        """The lone worker is never asleep when somebody else could call this."""


def null_results(batch):
    return [None] * len(batch.parts)


def run_stepped(schedule, policy, service_ns):
    """A live run of one real thread whose time is a manual clock."""
    clock = ManualClock()

    def run_batch(batch):
        clock.advance_to(clock.now_ns() + service_ns(batch))
        return null_results(batch)

    return run_live(
        schedule,
        policy,
        num_workers=1,
        run_batch=run_batch,
        config=UNPINNED,
        clock=clock,
        parking=SteppingParking(clock),
    )


@pytest.mark.parametrize("policy", [STATIC, COALESCING], ids=lambda policy: policy.policy)
def test_one_live_worker_equals_the_simulation(policy):
    """Same loop, same scheduler: on the same clock the two ports give the same nanoseconds.

    A busy worker releases queries late, but latency counts from schedule, so nothing else changes.
    """
    config = WorkloadConfig(sizes="normal:8,5")
    schedule = draw_schedule(config, qps=700, num_queries=800)

    def service_ns(batch):
        return 100_000 * batch.num_items

    live = run_stepped(schedule, policy, service_ns)
    virtual = simulate(
        schedule, policy, num_workers=1, service_time_ns=lambda batch, busy: service_ns(batch)
    )
    np.testing.assert_array_equal(live.queries.done_ns, virtual.queries.done_ns)
    np.testing.assert_array_equal(live.batches.num_items, virtual.batches.num_items)
    assert (live.queries.released_ns > live.queries.scheduled_ns).any(), "some came while it worked"


def test_a_stalled_worker_shows_in_p99():
    """A worker hangs for 50 ms: queries due meanwhile are released late and charged in full."""
    schedule = draw_schedule(WorkloadConfig(sizes="fixed:1"), qps=1000, num_queries=2000)
    smooth = run_stepped(schedule, STATIC, lambda batch: MS // 10)
    stalled = run_stepped(
        schedule, STATIC, lambda batch: 50 * MS if batch.batch_id == 1000 else MS // 10
    )

    def p99_ns(result):
        return np.percentile(result.latency_ns, 99, method="inverted_cdf")

    assert p99_ns(smooth) < MS
    assert p99_ns(stalled) > 20 * MS
    # The late releases were the system's fault, not the generator's.
    assert stalled.wake_lateness_ns.max() == 0


def test_a_cut_off_run_says_so_and_counts_the_rest_as_unanswered():
    schedule = [Query(i, "", i * MS, None, 1, 0) for i in range(4)]
    clock = ManualClock()

    def run_batch(batch):
        clock.advance_to(clock.now_ns() + 6 * MS)
        return [None]

    result = run_live(
        schedule,
        STATIC,
        num_workers=1,
        run_batch=run_batch,
        config=LiveConfig(pin=False, drain_timeout_ns=10 * MS),
        clock=clock,
        parking=SteppingParking(clock),
    )
    # Ends at 6, 12 and 18 ms; the drain is over at 3 + 10 ms.
    assert not result.drained
    answered = [QueryOutcome.ANSWERED] * 3 + [QueryOutcome.UNANSWERED]
    np.testing.assert_array_equal(result.queries.outcome, answered)
    assert result.latency_ns[3] == np.inf


@pytest.mark.parametrize("policy", [STATIC, COALESCING], ids=lambda policy: policy.policy)
def test_several_threads_answer_everything_in_item_order(policy):
    schedule = draw_schedule(WorkloadConfig(sizes="normal:15,10"), qps=5000, num_queries=400)
    answers = {}

    def run_batch(batch):
        return [
            list(range(part.first_item, part.first_item + part.num_items)) for part in batch.parts
        ]

    def on_answer(query, results, latency_ns):
        answers[query.query_id] = [item for part in results for item in part]
        assert latency_ns >= 0

    result = run_live(
        schedule, policy, num_workers=4, run_batch=run_batch, on_answer=on_answer, config=UNPINNED
    )
    assert answers == {query.query_id: list(range(query.num_items)) for query in schedule}
    assert result.drained
    assert set(result.batches.slot) <= set(range(4))


def test_workers_overlap():
    """Two batches are on their way at once: each waits for the other to have begun."""
    both_began = threading.Barrier(2)

    def run_batch(batch):
        both_began.wait(timeout=30)
        return null_results(batch)

    schedule = [Query(0, "", 0, None, 20, 0)]
    result = run_live(schedule, STATIC, num_workers=2, run_batch=run_batch, config=UNPINNED)
    assert result.queries.outcome[0] == QueryOutcome.ANSWERED
    assert sorted(result.batches.slot) == [0, 1]


def test_a_worker_that_never_returns_is_reported_not_waited_for(monkeypatch):
    monkeypatch.setattr(workers, "_JOIN_GRACE_S", 0.05)
    released = threading.Event()

    def run_batch(batch):
        released.wait()
        return null_results(batch)

    try:
        result = run_live(
            [Query(0, "", 0, None, 1, 0)],
            STATIC,
            num_workers=1,
            run_batch=run_batch,
            config=LiveConfig(pin=False, drain_timeout_ns=1_000 * MS),
        )
    finally:
        released.set()
    assert not result.drained
    assert result.queries.outcome[0] == QueryOutcome.UNANSWERED
    assert isinstance(result.first_error, WorkerDied)


def test_the_thread_that_ctrl_c_interrupts_never_waits_at_the_workers_barrier():
    """An interrupt as it is given the barrier's lock would leave that lock taken, for ever."""
    waited = []

    def watch(frame, event, _):
        if event == "call" and frame.f_code is threading.Barrier.wait.__code__:
            waited.append(threading.current_thread().name)

    schedule = [Query(number, "m", 0, None, 1, 1) for number in range(3)]
    sys.setprofile(watch)
    try:
        result = run_live(schedule, STATIC, num_workers=1, run_batch=null_results, config=UNPINNED)
    finally:
        sys.setprofile(None)
    assert (result.queries.outcome == QueryOutcome.ANSWERED).all()
    assert waited == []


def test_a_failing_batch_costs_its_query_only():
    schedule = draw_schedule(WorkloadConfig(sizes="fixed:5"), qps=20_000, num_queries=100)

    def run_batch(batch):
        if batch.parts[0].query.query_id % 10 == 3:
            raise ValueError(f"query {batch.parts[0].query.query_id}")
        return null_results(batch)

    result = run_live(schedule, STATIC, num_workers=1, run_batch=run_batch, config=UNPINNED)
    failed = np.flatnonzero(result.queries.outcome == QueryOutcome.FAILED)
    np.testing.assert_array_equal(failed, np.arange(3, 100, 10))
    assert str(result.first_error) == "query 3"
    assert result.drained


def test_workers_are_pinned_and_initialised_on_their_own_threads():
    places = {}

    def initialise(slot):
        places[slot] = (threading.get_ident(), os.sched_getaffinity(0))

    before = os.sched_getaffinity(0)
    ran_on = {}

    def run_batch(batch):
        ran_on[batch.slot] = threading.get_ident()
        return null_results(batch)

    num_workers = available_workers()
    schedule = [Query(0, "", 0, None, 10 * num_workers, 0)]
    run_live(
        schedule, STATIC, num_workers=num_workers, run_batch=run_batch, initialise_worker=initialise
    )
    assert sorted(places) == list(range(num_workers))
    assert [len(cores) for _, cores in places.values()] == [1] * num_workers
    assert set().union(*(cores for _, cores in places.values())) == before
    assert all(ran_on[slot] == places[slot][0] for slot in ran_on)
    assert os.sched_getaffinity(0) == before


def test_the_interpreter_is_quiet_during_a_run_and_as_before_afterwards():
    before = (sys.getswitchinterval(), gc.isenabled())
    during = []

    def run_batch(batch):
        during.append((sys.getswitchinterval(), gc.isenabled()))
        return null_results(batch)

    config = LiveConfig(pin=False, switch_interval_s=2e-3)
    run_live(
        [Query(0, "", 0, None, 1, 0)], STATIC, num_workers=1, run_batch=run_batch, config=config
    )
    assert during == [(pytest.approx(2e-3), False)]
    assert (sys.getswitchinterval(), gc.isenabled()) == before


@pytest.mark.parametrize("where", ["initialise_worker", "on_answer"])
def test_a_fault_outside_a_batch_surfaces(where):
    def fault(*_):
        raise LookupError(where)

    schedule = draw_schedule(WorkloadConfig(sizes="fixed:1"), qps=10_000, num_queries=20)
    interval_s = sys.getswitchinterval()
    with pytest.raises(LookupError, match=where):
        run_live(
            schedule,
            STATIC,
            num_workers=2,
            run_batch=null_results,
            config=UNPINNED,
            **{where: fault},
        )
    assert sys.getswitchinterval() == interval_s


def test_threads_that_drive_another_device_take_no_workers_core():
    """The CPU's workers keep a core each; the others share what is left, or all if nothing is."""
    first, second, rest = frozenset({4}), frozenset({5}), frozenset({6, 7})
    assert cores_of(("cuda", "cpu", "cpu", "cuda"), [4, 5, 6, 7]) == [rest, first, second, rest]
    assert cores_of(("cpu", "cpu", "cuda"), [4, 5]) == [first, second, first | second]
    with pytest.raises(ConfigError, match="num_workers: got 3; allowed: at most 2"):
        cores_of(("cpu", "cpu", "cuda", "cpu"), [4, 5])


def test_refuses_more_pinned_workers_than_cores():
    with pytest.raises(ConfigError, match="num_workers"):
        run_live(
            [Query(0, "", 0, None, 1, 0)],
            STATIC,
            num_workers=available_workers() + 1,
            run_batch=null_results,
        )


@pytest.mark.parametrize(
    "changes", [{"switch_interval_s": 0.0}, {"switch_interval_s": 2.0}, {"drain_timeout_ns": 0}]
)
def test_config_refuses(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        LiveConfig(**changes)


@pytest.mark.skipif(not Path("/proc/self/timerslack_ns").exists(), reason="no timer slack here")
def test_workers_wake_when_they_are_due() -> None:
    slack: list[str] = []

    def note(slot: int) -> None:
        slack.append(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text().strip())

    run_live(
        draw_schedule(WorkloadConfig(sizes="fixed:1"), qps=1e6, num_queries=1),
        STATIC,
        num_workers=1,
        run_batch=null_results,
        initialise_worker=note,
        config=UNPINNED,
    )
    assert slack == ["1"]
