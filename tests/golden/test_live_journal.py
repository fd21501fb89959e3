"""A journal recorded from a live run on two threads: replayed, it gives the decisions of that day.

A change of policy that shows here is a change of behaviour. If it is meant, record a new one: a run
of 150 `production` queries with a failing batch, a queue small enough to reject and a delay limit
long enough for timers.
"""

from pathlib import Path

from tailrank.runtime.journal import load_journal, replay
from tailrank.scheduling.policies import build_scheduler

JOURNAL = Path(__file__).parent / "live_journal.jsonl"


def test_a_recorded_live_journal_replays_to_identical_decisions():
    policy, fleet, entries = load_journal(JOURNAL)
    events = [event for _, event, _, _ in entries]
    # The recording holds every kind of event and decision; otherwise it would prove little.
    assert {event[0] for event in events} == {"query", "done", "workers", "timer"}
    assert any(event[0] == "done" and event[2] == "failed" for event in events)
    assert any(rejected for *_, rejected in entries)
    assert any(len(parts) > 1 for _, _, started, _ in entries for _, _, parts in started)
    assert replay(entries, build_scheduler(policy, fleet)) == [[s, r] for _, _, s, r in entries]
