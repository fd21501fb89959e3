"""Journals: plain lists without payloads, bounded in memory, read back from files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tailrank.core.errors import DataError
from tailrank.core.fleet import Fleet
from tailrank.core.query import NOTHING
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.runtime.events import TimerFired
from tailrank.runtime.journal import FileJournal, RingJournal, load_journal, replay
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import PolicyConfig, build_scheduler
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

POLICY = PolicyConfig(
    policy="coalescing", batch_items_max=64, delay_max_ns=200_000, queue_items_max=600
)


def run(journal, num_queries=60):
    schedule = draw_schedule(
        WorkloadConfig(sizes="normal:50,30"),
        qps=3000,
        num_queries=num_queries,
        payload_for=lambda choice, num_items: "secret",
    )

    def fails_now_and_then(batch):
        if batch.batch_id % 7 == 3:
            raise RuntimeError("broken")
        return [None] * len(batch.parts)

    simulate(
        schedule,
        POLICY,
        num_workers=2,
        service_time_ns=lambda batch, busy: 20_000 * batch.num_items,
        run_batch=fails_now_and_then,
        journal=journal,
    )


def test_a_file_journal_reads_back_and_replays(tmp_path):
    ring = RingJournal(10_000)
    run(ring)
    path = tmp_path / "journal.jsonl"
    with FileJournal(path, POLICY) as journal:
        run(journal)
    policy, fleet, entries = load_journal(path)
    assert policy == POLICY
    assert fleet is None
    assert entries == list(ring.entries)
    kinds = {entry[1][0] for entry in entries}
    assert kinds == {"query", "done", "workers", "timer"}
    assert any(rejected for *_, rejected in entries)
    assert any(event[-1] == "failed" for _, event, *_ in entries)
    assert replay(entries, build_scheduler(policy, fleet)) == [entry[2:] for entry in entries]


def test_what_a_policy_predicts_with_is_in_the_header(tmp_path):
    axes = dict(zip(AXES, [(1.0,), (1.0, 9.0), (0.0,), (1.0,)], strict=True))
    table = ServiceTimeTable("", axes, np.array([0.1, 7.0]).reshape(1, 2, 1, 1), np.array([1.0]))
    path = tmp_path / "journal.jsonl"
    FileJournal(path, POLICY, Fleet(("cpu", "cpu"), {("m", "cpu"): table})).close()
    _, fleet, _ = load_journal(path)
    assert fleet.devices == ("cpu", "cpu")
    assert fleet.tables["m", "cpu"].median_ns.tolist() == table.median_ns.tolist()
    assert fleet.tables["m", "cpu"].axes == axes


def test_a_changed_policy_shows_in_the_replay():
    ring = RingJournal(10_000)
    run(ring, num_queries=3)
    hasty = build_scheduler(replace(POLICY, delay_max_ns=0))
    # Up to the first step it decides otherwise; then the journal ends a batch that it has not.
    assert replay(list(ring.entries)[:2], hasty) != [entry[2:] for entry in ring.entries][:2]


def test_payloads_are_not_kept(tmp_path):
    ring = RingJournal(10_000)
    run(ring)
    assert "secret" not in json.dumps(list(ring.entries))


def test_a_ring_is_bounded_and_counts_what_it_dropped():
    ring = RingJournal(3)
    for now_ns in range(5):
        ring.record(TimerFired(), now_ns, NOTHING)
    assert [entry[0] for entry in ring.entries] == [2, 3, 4]
    assert ring.num_dropped == 2


@pytest.mark.parametrize("damage", ["absent", "empty", "binary", "cut", "version", "foreign"])
def test_load_refuses_damage(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    with FileJournal(path, POLICY) as journal:
        run(journal)
    text = path.read_text()
    content = {
        "empty": b"",
        "binary": bytes(range(256)),
        "cut": text[:-9].encode(),
        "version": text.replace('"journal": 1', '"journal": 99', 1).encode(),
        "foreign": b'{"a": 1}\n',
    }
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    with pytest.raises(DataError, match=r"journal\.jsonl"):
        load_journal(path)
