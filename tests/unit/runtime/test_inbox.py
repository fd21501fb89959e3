"""Queries that come from outside: from any thread, at any time, until the inbox is closed."""

import contextlib
import dataclasses
import threading
import weakref

import numpy as np
import pytest

from tailrank.core.clock import ManualClock
from tailrank.core.errors import ConfigError, ServingError
from tailrank.core.query import Query
from tailrank.runtime.inbox import OpenInbox
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.record import QueryOutcome
from tailrank.scheduling.policies import PolicyConfig

UNPINNED = LiveConfig(pin=False)
STATIC = PolicyConfig(policy="static", batch_items_max=10)
COALESCING = PolicyConfig(policy="coalescing", batch_items_max=10, delay_max_ns=200_000)


def echo(batch):
    return [(part.query.query_id, part.first_item) for part in batch.parts]


def serve_while(fill, policy=STATIC, *, num_workers=2, run_batch=echo, **options):
    """A run of an inbox that `fill(inbox)` fills from another thread, and that is then closed."""
    inbox = OpenInbox()

    def generate():
        assert inbox.wait_until_open()
        try:
            fill(inbox)
        finally:
            inbox.close()

    generator = threading.Thread(target=generate)
    generator.start()
    result = run_live(
        inbox, policy, num_workers=num_workers, run_batch=run_batch, config=UNPINNED, **options
    )
    generator.join()
    return result


def submit(inbox, query_id, num_items=15):
    inbox.submit(Query(query_id, "", inbox.now_ns(), None, num_items, 0))


@pytest.mark.parametrize("policy", [STATIC, COALESCING], ids=lambda policy: policy.policy)
def test_queries_of_several_threads_are_all_answered(policy):
    answers = {}

    def fill(inbox):
        threads = [
            threading.Thread(
                target=lambda first: [submit(inbox, first + i) for i in range(100)],
                args=(100 * k,),
            )
            for k in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    result = serve_while(
        fill, policy, on_answer=lambda query, results, _: answers.update({query.query_id: results})
    )
    assert sorted(answers) == list(range(300))
    assert result.drained
    assert sorted(result.queries.query_id) == list(range(300))
    assert (np.diff(result.queries.scheduled_ns) >= 0).all(), "rows are in order of arrival"
    assert (result.queries.released_ns >= result.queries.scheduled_ns).all()
    assert (result.queries.outcome == QueryOutcome.ANSWERED).all()


def test_sleeping_workers_are_woken_and_the_run_outlives_a_pause():
    """Each query comes only after the last one was answered, so that all workers sleep between."""
    answered = threading.Semaphore(0)

    def fill(inbox):
        for query_id in range(20):
            submit(inbox, query_id, num_items=1)
            assert answered.acquire(timeout=30)

    result = serve_while(fill, on_answer=lambda *_: answered.release())
    assert len(result.queries.query_id) == 20
    assert result.drained


def test_close_lets_everything_that_came_be_answered():
    running, closed = threading.Event(), threading.Event()

    def run_batch(batch):
        running.set()
        assert closed.wait(timeout=30)
        return echo(batch)

    def fill(inbox):
        for query_id in range(5):
            submit(inbox, query_id)
        assert running.wait(timeout=30)
        inbox.close()
        with pytest.raises(ServingError, match="query 9 came to an inbox that is closed"):
            submit(inbox, 9)
        closed.set()

    result = serve_while(fill, num_workers=1, run_batch=run_batch)
    assert list(result.queries.query_id) == list(range(5))
    assert (result.queries.outcome == QueryOutcome.ANSWERED).all()
    assert result.drained


def test_a_run_without_a_query_ends():
    result = serve_while(lambda inbox: None)
    assert result.drained
    assert len(result.latency_ns) == 0


def test_takes_nothing_before_the_workers_are_ready():
    inbox = OpenInbox()
    with pytest.raises(ServingError, match="not ready"):
        submit(inbox, 0)
    with pytest.raises(ServingError, match="not open yet"):
        inbox.submit(Query(0, "", 0, None, 1, 0))


def test_nobody_waits_for_a_run_that_never_begins():
    inbox = OpenInbox()

    def fault(slot):
        raise LookupError("no such core")

    with pytest.raises(LookupError):
        run_live(
            inbox,
            STATIC,
            num_workers=1,
            run_batch=echo,
            initialise_worker=fault,
            config=UNPINNED,
        )
    assert not inbox.wait_until_open()
    with pytest.raises(ServingError):
        inbox.submit(Query(0, "", 0, None, 1, 0))


def test_after_the_run_everything_is_refused():
    """A fault ends the run while its inbox is open: nobody's query vanishes."""

    def fault(*_):
        raise LookupError("on_answer")

    late = []

    def fill(inbox):
        late.append(inbox)
        submit(inbox, 0)

    with pytest.raises(LookupError):
        serve_while(fill, on_answer=fault)
    with pytest.raises(ServingError, match="closed"):
        late[0].submit(Query(1, "", 0, None, 1, 0))


def test_times_are_those_of_the_run():
    inbox = OpenInbox()
    clock = ManualClock()
    inbox.open(clock, lambda: None)
    clock.advance_to(7)
    assert inbox.now_ns() == 7
    inbox.close()
    clock.advance_to(9)
    inbox.close()
    assert inbox.closed_ns == 7, "closing twice changes nothing"


def test_refuses_a_run_without_workers():
    with pytest.raises(ConfigError, match="num_workers"):
        run_live(OpenInbox(), STATIC, num_workers=0, run_batch=echo)


class Payload:
    """Something that a weak reference can watch."""


def test_a_run_that_hands_its_queries_over_forgets_them():
    """A server runs for ever: what a query brought is gone once it has ended."""
    payloads, ended, alive = [], threading.Semaphore(0), []

    def fill(inbox):
        for query_id in range(40):
            payload = Payload()
            payloads.append(weakref.ref(payload))
            inbox.submit(Query(query_id, "", inbox.now_ns(), None, 15, 0, payload))
            del payload
            assert ended.acquire(timeout=30)
        alive.append(sum(payload() is not None for payload in payloads))

    result = serve_while(fill, on_end=lambda record: ended.release())
    assert alive[0] <= 2, "at most what a worker had in its hands last"
    assert result.drained
    assert len(result.latency_ns) == len(result.service_time_ns) == 0
    assert len(result.wake_lateness_ns) == 0


def test_every_query_is_handed_over_once_whatever_became_of_it():
    records = {}
    refused = threading.Event()

    def run_batch(batch):
        query = batch.parts[0].query
        assert query.query_id == 2 or refused.wait(timeout=30)
        if query.query_id == 1:
            raise LookupError("no such row")
        return echo(batch)

    def on_end(record):
        assert record.query.query_id not in records
        records[record.query.query_id] = (
            record.outcome,
            record.results,
            record.reason,
            record.error,
        )
        if record.outcome is QueryOutcome.REJECTED:
            refused.set()

    def fill(inbox):
        for query_id, num_items in enumerate([20, 20, 95]):
            submit(inbox, query_id, num_items)

    policy = dataclasses.replace(STATIC, queue_items_max=90)
    serve_while(fill, policy, num_workers=1, run_batch=run_batch, on_end=on_end)
    assert records[0] == (QueryOutcome.ANSWERED, ((0, 0), (0, 10)), None, None)
    outcome, results, reason, error = records[1]
    assert (outcome, results, reason) == (QueryOutcome.FAILED, (), None)
    assert isinstance(error, LookupError)
    assert records[2] == (QueryOutcome.REJECTED, (), "queue_full", None)


def test_what_a_broken_run_leaves_is_handed_over_too():
    """Somebody waits for each query; no fault may let him wait for ever."""
    records = []

    def fill(inbox):
        with contextlib.suppress(ServingError):  # it may be over by then
            for query_id in range(3):
                submit(inbox, query_id)

    def stop(batch):
        raise KeyboardInterrupt  # passes through what makes a failed batch of an exception

    with pytest.raises(KeyboardInterrupt):
        serve_while(fill, num_workers=1, run_batch=stop, on_end=records.append)
    assert {record.outcome for record in records} == {QueryOutcome.UNANSWERED}
    ids = [record.query.query_id for record in records]
    assert ids == list(range(len(ids)))
