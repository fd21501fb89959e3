"""Whatever the traffic, the policy and the number of workers: what every run must keep.

The loop's own assertions (slot free, batch within its limit, item started once) are armed in all of
these runs; here the results are held against the schedule.
"""

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.fleets import line_fleet, mixed_fleet

from tailrank.core.fleet import Fleet
from tailrank.core.query import Query
from tailrank.core.sla import SLA
from tailrank.runtime.journal import RingJournal, replay
from tailrank.runtime.live import LiveConfig, run_live
from tailrank.runtime.record import QueryOutcome, RunResult
from tailrank.runtime.virtual import simulate
from tailrank.scheduling.policies import PolicyConfig, build_scheduler
from tailrank.scheduling.slack import LOST_WAIT_FACTOR

PROFILE = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
# A live example starts and ends threads; fewer of them say the same.
LIVE_PROFILE = settings(PROFILE, max_examples=30)


# A worker never idles while a query waits, but for the delay that the policy was given; under
# `kairos` and offloading a query may wait for the right device.
EAGER_POLICIES = ["static", "coalescing", "slack"]


@st.composite
def policies(draw, names=(*EAGER_POLICIES, "deeprecsched", "kairos")) -> PolicyConfig:
    policy = draw(st.sampled_from(names))
    own = {}
    if policy == "coalescing":
        own["delay_max_ns"] = draw(st.integers(0, 400))
    if policy == "deeprecsched":
        own["offload_threshold_items"] = draw(st.sampled_from([None, 1, 20]))
    if policy in ("slack", "kairos"):
        own["sla"] = SLA(draw(st.sampled_from([50.0, 95.0])), draw(st.integers(1, 2000)))
    if policy == "slack":
        own["reject_lost"] = draw(st.booleans())
    return PolicyConfig(
        policy=policy,
        batch_items_max=draw(st.integers(1, 40)),
        batch_parts_max=draw(st.integers(1, 8)),
        queue_items_max=draw(st.sampled_from([1, 30, 100, 1_000_000])),
        **own,
    )


def fleet_for(policy: PolicyConfig, num_workers: int) -> Fleet:
    """Workers that the policy can use; what it predicts is not how long batches will take."""
    if policy.offload_threshold_items is None and policy.policy != "kairos":
        return line_fleet(num_workers, fixed_ns=20.0, item_ns=7.0, part_ns=3.0)
    assume(num_workers > 1)
    return mixed_fleet(num_workers - 1)


@st.composite
def schedules(draw) -> list[Query]:
    gaps_and_sizes = draw(
        st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), min_size=1, max_size=40)
    )
    queries, now_ns = [], 0
    for query_id, (gap_ns, num_items) in enumerate(gaps_and_sizes):
        now_ns += gap_ns
        queries.append(Query(query_id, "", now_ns, None, num_items, 0))
    return queries


class Scorer:
    """A ranker that scores items with their own number, and fails now and then."""

    def __init__(self, failing_batches: frozenset[int] = frozenset()) -> None:
        self._failing_batches = failing_batches
        self.answers: dict[int, list[int]] = {}

    def run_batch(self, batch):
        if batch.batch_id in self._failing_batches:
            raise RuntimeError("told to fail")
        return [
            list(range(part.first_item, part.first_item + part.num_items)) for part in batch.parts
        ]

    def on_answer(self, query, results, latency_ns):
        assert query.query_id not in self.answers, "one answer per query"
        self.answers[query.query_id] = [score for part in results for score in part]


def check_accounts(schedule: list[Query], scorer: Scorer, result: RunResult) -> None:
    """Answered queries have every item scored once, in order; all others are accounted for."""
    outcome = dict(zip(result.queries.query_id.tolist(), result.queries.outcome, strict=True))
    assert sorted(outcome) == [query.query_id for query in schedule]
    answered = {i for i, how in outcome.items() if how == QueryOutcome.ANSWERED}
    assert set(scorer.answers) == answered
    for query in schedule:
        if query.query_id in answered:
            assert scorer.answers[query.query_id] == list(range(query.num_items))
    assert (QueryOutcome.UNANSWERED not in outcome.values()) == result.drained
    finite = result.latency_ns[result.queries.outcome == QueryOutcome.ANSWERED]
    assert (finite >= 0).all()
    assert len(finite) == (result.latency_ns < float("inf")).sum()


def check_devices(result: RunResult, policy: PolicyConfig) -> None:
    """No worker runs two batches at once; no batch is over its limits."""
    batches = result.batches
    assert (batches.num_items <= policy.batch_items_bound).all()
    assert (batches.num_parts <= policy.batch_parts_max).all()
    for slot in range(result.num_workers):
        mine = batches.slot == slot
        assert (batches.started_ns[mine][1:] >= batches.done_ns[mine][:-1]).all()


@PROFILE
@given(
    schedule=schedules(),
    policy=policies(),
    num_workers=st.integers(1, 5),
    failing=st.frozensets(st.integers(0, 60), max_size=5),
    item_ns=st.integers(0, 30),
)
def test_a_simulated_run(schedule, policy, num_workers, failing, item_ns):
    scorer, steps = Scorer(failing), RingJournal(10_000)
    fleet = fleet_for(policy, num_workers)
    result = simulate(
        schedule,
        policy,
        fleet=fleet,
        journal=steps,
        num_workers=num_workers,
        service_time_ns=lambda batch, busy: 5 + item_ns * batch.num_items,
        run_batch=scorer.run_batch,
        on_answer=scorer.on_answer,
    )
    check_accounts(schedule, scorer, result)
    check_devices(result, policy)
    again = replay(steps.entries, build_scheduler(policy, fleet))
    assert again == [[started, rejected] for _, _, started, rejected in steps.entries]
    answered = result.queries.outcome == QueryOutcome.ANSWERED
    # Little's law, where nothing failed on the way
    if answered.all():
        in_system_ns = result.queries.done_ns - result.queries.released_ns
        assert result.open_query_ns == in_system_ns.sum()


@PROFILE
@given(schedule=schedules(), policy=policies(EAGER_POLICIES), num_workers=st.integers(1, 4))
def test_no_query_waits_past_the_delay_limit_while_a_worker_is_free(schedule, policy, num_workers):
    result = simulate(
        schedule,
        policy,
        num_workers=num_workers,
        service_time_ns=lambda batch, busy: 20 + 7 * batch.num_items,
        fleet=fleet_for(policy, num_workers),
    )
    queries, batches = result.queries, result.batches
    rows = zip(queries.scheduled_ns.tolist(), queries.started_ns.tolist(), strict=True)
    for due_ns, started_ns in rows:
        limit_ns = due_ns + policy.delay_max_ns
        if started_ns > limit_ns:
            # From its limit to its start, every worker was on a batch.
            assert result.busy_fraction(limit_ns, started_ns) == 1.0, (batches, due_ns)


@PROFILE
@given(
    schedule=schedules(),
    limit_ns=st.integers(1, 500),
    num_workers=st.integers(1, 4),
    item_ns=st.integers(0, 30),
)
def test_slack_lets_no_query_wait_for_later_ones_beyond_its_patience(
    schedule, limit_ns, num_workers, item_ns
):
    policy = PolicyConfig(policy="slack", batch_items_max=40, sla=SLA(95.0, limit_ns))
    steps = RingJournal(10_000)
    simulate(
        schedule,
        policy,
        num_workers=num_workers,
        service_time_ns=lambda batch, busy: 5 + item_ns * batch.num_items,
        fleet=line_fleet(num_workers, fixed_ns=20.0, item_ns=7.0),
        journal=steps,
    )
    unstarted: dict[int, int] = {}
    for now_ns, (kind, *fields), started, _ in steps.entries:
        if kind == "query":
            unstarted[fields[0]] = fields[4]
        for _, _, parts in started:
            impatient = [
                query_id
                for query_id in unstarted
                if now_ns - schedule[query_id].scheduled_ns > LOST_WAIT_FACTOR * limit_ns
            ]
            leader = schedule[parts[0][0]]
            assert all(leader.scheduled_ns <= schedule[it].scheduled_ns for it in impatient)
            for query_id, _, num_items in parts:
                unstarted[query_id] -= num_items
                if not unstarted[query_id]:
                    del unstarted[query_id]


@LIVE_PROFILE
@given(
    schedule=schedules(),
    policy=policies(),
    num_workers=st.integers(1, 4),
    failing=st.frozensets(st.integers(0, 60), max_size=3),
)
def test_a_live_run(schedule, policy, num_workers, failing):
    scorer = Scorer(failing)
    result = run_live(
        schedule,
        policy,
        num_workers=num_workers,
        fleet=fleet_for(policy, num_workers),
        run_batch=scorer.run_batch,
        on_answer=scorer.on_answer,
        config=LiveConfig(pin=False),
    )
    assert result.drained
    check_accounts(schedule, scorer, result)
    check_devices(result, policy)
    assert (result.queries.released_ns >= result.queries.scheduled_ns).all()
