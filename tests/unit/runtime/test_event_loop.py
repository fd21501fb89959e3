"""The loop books every query once, and stops a scheduler that breaks its promises."""

import pytest

from tailrank.core.clock import ManualClock
from tailrank.core.query import NOTHING, Batch, BatchPart, Decision, Outcome, Query, Rejection
from tailrank.runtime.events import BatchDone, QueryArrived, TimerFired, WorkersFree
from tailrank.runtime.journal import RingJournal
from tailrank.runtime.loop import Loop
from tailrank.runtime.record import QueryOutcome, Recorder
from tailrank.scheduling.policies import PolicyConfig, build_scheduler

QUERY = Query(7, "", 100, None, num_items=30, num_ids=0)


class ListExecutor:
    """Remembers what was submitted."""

    def __init__(self):
        self.batches = []

    def submit(self, batch):
        self.batches.append(batch)


class ScriptedScheduler:
    """Answers every call with the next decision of a script."""

    def __init__(self, *script):
        self._script = list(script)

    def _next(self, *_):
        return self._script.pop(0) if self._script else NOTHING

    on_query = on_done = on_workers = on_timer = _next

    def next_deadline_ns(self):
        return None


class Rig:
    """A loop with a hand-driven clock and executor."""

    def __init__(self, scheduler=None, *, batch_items_max=10, num_workers=2):
        self.clock = ManualClock()
        self.executor = ListExecutor()
        self.recorder = Recorder()
        self.journal = RingJournal(100)
        self.answers = []
        policy = PolicyConfig(policy="static", batch_items_max=batch_items_max)
        self.loop = Loop(
            scheduler=scheduler or build_scheduler(policy),
            executor=self.executor,
            clock=self.clock,
            num_workers=num_workers,
            batch_items_max=batch_items_max,
            recorder=self.recorder,
            journal=self.journal,
            on_answer=lambda *answer: self.answers.append(answer),
        )

    def step(self, now_ns, event):
        self.clock.advance_to(now_ns)
        self.loop.step(event)

    def finish(self, now_ns, position=0, outcome=Outcome.OK, **options):
        batch = self.executor.batches.pop(position)
        self.step(now_ns, BatchDone(batch, outcome, **options))


def test_latency_counts_from_scheduled_arrival_and_results_come_in_item_order():
    """DeepRecSys stamps an arrival after a blocking put (coordinated omission)."""
    rig = Rig()
    rig.step(0, WorkersFree((0, 1)))
    rig.step(150, QueryArrived(QUERY))  # 50 ns late
    assert [batch.num_items for batch in rig.executor.batches] == [10, 10]
    rig.finish(200, position=1, results=["items 10-19"])
    rig.finish(210, position=0, results=["items 0-9"])
    assert rig.answers == []
    rig.finish(300, results=["items 20-29"])
    assert rig.answers == [(QUERY, ("items 0-9", "items 10-19", "items 20-29"), 200)]
    record = rig.recorder.queries[7]
    assert (record.released_ns, record.started_ns, record.done_ns) == (150, 150, 300)
    assert (record.num_parts, record.outcome) == (3, QueryOutcome.ANSWERED)
    assert rig.loop.num_open == 0


def test_a_failed_part_fails_the_query_and_later_parts_do_not_revive_it():
    rig = Rig()
    rig.step(0, WorkersFree((0, 1)))
    rig.step(100, QueryArrived(QUERY))
    first_error, second_error = ValueError("first"), ValueError("second")
    rig.finish(110, outcome=Outcome.FAILED, error=first_error)
    assert rig.executor.batches[0].num_items == 10
    assert len(rig.executor.batches) == 1, "the waiting part was dropped"
    assert rig.loop.num_open == 0
    rig.finish(120, outcome=Outcome.FAILED, error=second_error)
    assert rig.recorder.queries[7].outcome is QueryOutcome.FAILED
    assert rig.recorder.first_error is first_error
    assert rig.answers == []


def test_a_part_that_ends_well_after_the_query_failed_is_ignored():
    rig = Rig()
    rig.step(0, WorkersFree((0, 1)))
    rig.step(100, QueryArrived(QUERY))
    rig.finish(110, outcome=Outcome.FAILED)
    rig.finish(120, results=["late"])
    assert rig.recorder.queries[7].outcome is QueryOutcome.FAILED
    assert rig.answers == []


def test_a_rejected_query_is_closed():
    rig = Rig(ScriptedScheduler(Decision(reject=(Rejection(QUERY, "queue_full"),))))
    rig.step(100, QueryArrived(QUERY))
    assert rig.recorder.queries[7].outcome is QueryOutcome.REJECTED
    assert rig.loop.num_open == 0


def test_open_queries_are_integrated_over_time():
    rig = Rig(batch_items_max=100)
    rig.step(0, WorkersFree((0,)))
    rig.step(100, QueryArrived(QUERY))
    rig.step(130, TimerFired())
    rig.finish(150)
    rig.step(900, TimerFired())
    assert rig.loop.open_query_ns == 50


def part(first_item, num_items):
    return BatchPart(QUERY, first_item, num_items)


@pytest.mark.parametrize(
    ("promise", "start"),
    [
        ("a slot runs one batch", (Batch(0, 0, (part(0, 5),)), Batch(1, 0, (part(5, 5),)))),
        ("keeps to its limit", (Batch(0, 0, (part(0, 11),)),)),
        ("started once", tuple(Batch(slot, slot, (part(0, 10),)) for slot in range(4))),
    ],
)
def test_broken_promises_are_caught_at_the_start(promise, start):
    rig = Rig(ScriptedScheduler(NOTHING, Decision(start=start)), num_workers=4)
    rig.step(0, WorkersFree((0, 1, 2, 3)))
    with pytest.raises(AssertionError, match=promise):
        rig.step(100, QueryArrived(QUERY))


def test_overlapping_parts_are_caught_at_the_end():
    start = tuple(Batch(slot, slot, (part(0, 10),)) for slot in range(3))
    rig = Rig(ScriptedScheduler(NOTHING, Decision(start=start)), num_workers=3)
    rig.step(0, WorkersFree((0, 1, 2)))
    rig.step(100, QueryArrived(QUERY))
    rig.finish(101)
    rig.finish(102)
    with pytest.raises(AssertionError, match="neither overlap nor leave gaps"):
        rig.finish(103)


def test_a_batch_ends_once_and_a_query_arrives_once():
    rig = Rig()
    rig.step(0, WorkersFree((0, 1)))
    rig.step(100, QueryArrived(QUERY))
    with pytest.raises(AssertionError, match="arrives once"):
        rig.step(101, QueryArrived(QUERY))
    rig = Rig()
    rig.step(0, WorkersFree((0, 1)))
    rig.step(100, QueryArrived(QUERY))
    stranger = Batch(99, 0, rig.executor.batches[0].parts)
    with pytest.raises(AssertionError, match="ends once"):
        rig.step(101, BatchDone(stranger, Outcome.OK))


def test_every_step_is_journalled_in_order():
    rig = Rig()
    rig.step(0, WorkersFree((0, 1)))
    rig.step(100, QueryArrived(QUERY))
    rig.finish(120)
    rig.step(130, TimerFired())
    assert [(entry[0], entry[1][0]) for entry in rig.journal.entries] == [
        (0, "workers"),
        (100, "query"),
        (120, "done"),
        (130, "timer"),
    ]
