"""Divided workers: a model's queries go to its own workers, whatever waits elsewhere."""

import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.query import Outcome, Query
from tailrank.runtime.journal import FileJournal, load_journal, replay
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import Division, PolicyConfig, build_scheduler, divide_workers

SMALL = PolicyConfig(policy="static", batch_items_max=4)
PATIENT = PolicyConfig(policy="coalescing", batch_items_max=10, delay_max_ns=30)
TWO = divide_workers(Division(("a",), (0,), SMALL), Division(("b",), (1, 2), PATIENT))


def query(query_id: int, model: str, num_items: int, at_ns: int = 0) -> Query:
    return Query(query_id, model, at_ns, None, num_items, 0)


def test_each_model_has_its_own_workers_queue_and_batches() -> None:
    scheduler = build_scheduler(TWO)
    assert scheduler.on_workers((0, 1), 0).start == ()
    (first,) = scheduler.on_query(query(0, "a", 8), 0).start
    assert (first.slot, first.num_items) == (0, 4), "cut as its own policy does, one in the queue"
    assert scheduler.on_query(query(1, "b", 3, 5), 5).start == (), "the other waits for company"
    assert scheduler.next_deadline_ns() == 35
    (patient,) = scheduler.on_timer(35).start
    assert (patient.slot, patient.num_items) == (1, 3)
    assert scheduler.next_deadline_ns() is None
    assert scheduler.on_workers((2,), 36).start == (), "its worker does not help the other model"


def test_batch_ids_are_of_one_row_and_ends_find_their_own_scheduler() -> None:
    scheduler = build_scheduler(TWO)
    scheduler.on_workers((0, 1, 2), 0)
    (first,) = scheduler.on_query(query(0, "a", 8), 0).start
    (other,) = scheduler.on_query(query(1, "b", 10), 0).start
    assert [first.batch_id, other.batch_id] == [0, 1]
    (second,) = scheduler.on_done(first, Outcome.OK, 9).start
    assert (second.batch_id, second.slot) == (2, 0)
    assert scheduler.on_done(second, Outcome.FAILED, 10).start == ()
    (last,) = scheduler.on_query(query(2, "b", 10, 11), 11).start
    assert last.slot in (1, 2)


def test_a_divided_run_replays_from_its_file(tmp_path) -> None:
    schedule = [query(i, "ab"[i % 2], 3 + i % 7, 10 * i) for i in range(60)]
    path = tmp_path / "run.journal"
    with FileJournal(path, TWO) as journal:
        result = simulate(
            schedule,
            TWO,
            num_workers=3,
            service_time_ns=lambda batch, busy: 9 * batch.num_items,
            journal=journal,
        )
    assert (result.queries.done_ns > 0).all()
    policy, fleet, entries = load_journal(path)
    assert (policy, fleet) == (TWO, None)
    assert replay(entries, build_scheduler(policy)) == [entry[2:] for entry in entries]


@pytest.mark.parametrize(
    ("divisions", "complaint"),
    [
        ((), "divisions: missing; expected who has which workers"),
        ((Division((), (0,), SMALL),), "divisions.models: missing"),
        ((Division(("a",), (), SMALL),), "divisions.slots: missing"),
        (
            (Division(("a",), (0,), SMALL), Division(("a",), (1,), SMALL)),
            "divisions.models: got 'a'",
        ),
        ((Division(("a",), (0,), SMALL), Division(("b",), (0,), SMALL)), "divisions.slots: got 0"),
    ],
)
def test_refuses_what_does_not_divide(divisions, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build_scheduler(divide_workers(*divisions))


def test_refuses_models_and_workers_that_nobody_has() -> None:
    scheduler = build_scheduler(TWO)
    with pytest.raises(
        ConfigError, match="model: got 'c'; allowed: one that has workers: 'a', 'b'"
    ):
        scheduler.on_query(query(0, "c", 1), 0)
    with pytest.raises(ConfigError, match="slot: got 3"):
        scheduler.on_workers((3,), 0)
    with pytest.raises(ConfigError, match="`static` has no such setting"):
        PolicyConfig(policy="static", batch_items_max=1, divisions=TWO.divisions)
