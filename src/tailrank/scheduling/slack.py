"""The slack policy: each dispatch looks at how long things will take and who can still be on time.

Ours. From others it takes predicted service times per dispatch (Clockwork, OSDI 2020; Kairos,
HPDC 2023) and, for choosing whom to give up, Moore's rule that leaves the fewest jobs late
(Management Science 15(1), 1968). It must not know what measured the times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush

from tailrank.core.errors import ConfigError
from tailrank.core.fleet import Fleet
from tailrank.core.query import NOTHING, Batch, BatchPart, Decision, Outcome, Query, Rejection
from tailrank.core.sla import SLA
from tailrank.scheduling.prediction import predict
from tailrank.scheduling.waiting import LargestFirst, Waiting, WaitingHeap

LOST_WAIT_FACTOR = 3.0
"""Multiple of its limit within which a lost query is to be answered."""

# A lost query goes first from here on; what is left to the factor above is for its own service and
# for other lost ones that are due with it. Best of 1 to 3 on the eight presets' tables, simulated.
_PROMOTION_FACTOR = 2.65
# A prediction is a median: half of all batches end before it. A query that would miss its deadline
# by less than this share of its limit is worth the try.
_LATE_TOLERANCE = 0.1
# Extra work that cutting may cost while workers would be idle, and while others wait: more of that
# under load grows the queue, which asks for more cuts; 8 workers then lost 10 % of their capacity.
_IDLE_CUT_OVERHEAD = 0.2
_PRESSED_CUT_OVERHEAD = 0.1
# Company may delay the first query of a batch up to this share of its limit after its arrival.
_PACKING_SHARE = 0.5
# Queries over which the share of those given up is counted.
_ACCOUNT_QUERIES = 1000


class SlackScheduler:
    """Earliest deadline first among queries that can be on time; the lost behind them, bounded.

    A query's deadline is its own, or its scheduled arrival plus the SLA's limit. A worker that is
    free takes the query of the earliest deadline: whole, or in the parts that cost least, if that
    is in time; else the share that lets it and the workers that are free soonest, as few as will
    do, end together in time. While other workers would be idle a query is cut for them too; while
    queries queue, those that follow join the batch if that is less work and nobody is late for it.

    When the queue's predicted work exceeds the time until its last deadline, somebody will be late:
    the largest query waiting is given up, as long as the share given up is inside what the SLA's
    percentile allows. A query that cannot be on time even by itself is lost as well. Lost queries
    are served, in order of arrival, when nobody else waits; and before all others once they could
    just be done by 2.65 times their limit, so that none ever waits for a later arrival beyond that:
    it waits at most for older ones and for what is running.

    A step takes O(log n) for n waiting queries, amortised, and O(w log w) for w workers.

    Args:
        batch_items_max: most items of a batch.
        batch_parts_max: most parts of a batch.
        queue_items_max: most items that may wait.
        sla: percentile and limit.
        fleet: predicts; all its workers are of one device.
        reject_lost: turn a query away, before any of it has started, once it cannot be on time.

    Raises:
        ConfigError: the fleet has several devices.
    """

    def __init__(
        self,
        *,
        batch_items_max: int,
        batch_parts_max: int,
        queue_items_max: int,
        sla: SLA,
        fleet: Fleet,
        reject_lost: bool = False,
    ) -> None:
        if len(set(fleet.devices)) > 1:
            allowed = "one device: `slack` cuts queries for workers that are alike; see `kairos`"
            raise ConfigError("fleet.devices", fleet.devices, allowed)
        self._prediction = predict(fleet, fleet.devices[0], batch_items_max, batch_parts_max)
        self._queue_items_max = queue_items_max
        self._sla = sla
        self._allowed_share = 1.0 - sla.percentile / 100.0
        self._reject_lost = reject_lost
        self._waiting: dict[int, Waiting] = {}
        self._on_time: WaitingHeap = []  # by deadline
        self._largest = LargestFirst()
        self._lost: WaitingHeap = []  # by scheduled arrival
        self._num_items = 0
        self._num_on_time = 0
        self._work_ns = 0.0  # of those on time
        self._last_deadline_ns = 0
        self._given_up_share = 0.0
        self._free_slots: list[int] = []
        self._ready_ns: dict[int, int] = {}  # by busy slot: when its batch should end
        self._num_batches = 0

    def on_query(self, query: Query, now_ns: int) -> Decision:
        """Queue the query, give up whom it makes late, and start what a free worker can take."""
        if self._num_items + query.num_items > self._queue_items_max:
            return Decision(reject=(Rejection(query, "queue_full"),))
        prediction = self._prediction.of(query)
        rest = prediction.whole
        deadline_ns = query.deadline_ns
        if deadline_ns is None:
            deadline_ns = query.scheduled_ns + self._sla.latency_ns
        waiting = Waiting(query, deadline_ns, prediction, rest, query.num_items, rest.work_ns)
        self._waiting[query.query_id] = waiting
        self._num_items += query.num_items
        if not self._num_on_time:
            self._last_deadline_ns = 0
            self._on_time.clear()
            self._largest.clear()
        self._num_on_time += 1
        self._work_ns += rest.work_ns
        if deadline_ns > self._last_deadline_ns:
            self._last_deadline_ns = deadline_ns
        heappush(self._on_time, (deadline_ns, query.query_id, waiting))
        self._largest.add(waiting)
        self._given_up_share *= 1.0 - 1.0 / _ACCOUNT_QUERIES
        self._relieve(now_ns)
        return self._start(now_ns)

    def on_done(self, batch: Batch, outcome: Outcome, now_ns: int) -> Decision:
        """Give the slot to whoever needs it most."""
        if outcome is Outcome.FAILED:
            for part in batch.parts:
                waiting = self._waiting.get(part.query.query_id)
                if waiting is not None:
                    self._forget(waiting)
        del self._ready_ns[batch.slot]
        self._free_slots.append(batch.slot)
        return self._start(now_ns)

    def on_workers(self, free_slots: Sequence[int], now_ns: int) -> Decision:
        """Take the slots in."""
        self._free_slots.extend(free_slots)
        return self._start(now_ns)

    def on_timer(self, now_ns: int) -> Decision:
        """Start what a free worker can take."""
        return self._start(now_ns)

    def next_deadline_ns(self) -> int | None:
        """None: no query waits while a worker is free, so time alone changes nothing."""
        return None

    def _relieve(self, now_ns: int) -> None:
        """Give up the largest queries until the last deadline can be kept, or the account is up."""
        num_workers = len(self._free_slots) + len(self._ready_ns)
        if not num_workers:
            return  # none has joined yet: how much they can do is not known
        time_ns = num_workers * (self._last_deadline_ns - now_ns)
        for ready_ns in self._ready_ns.values():
            if ready_ns > now_ns:
                time_ns -= ready_ns - now_ns
        while self._work_ns > time_ns and self._given_up_share <= self._allowed_share:
            largest = self._largest.first()
            if largest is None:
                break
            self._give_up(largest)

    def _give_up(self, waiting: Waiting) -> None:
        """Move a query to the lost."""
        self._leave_on_time(waiting)
        waiting.lost = True
        self._given_up_share += 1.0 / _ACCOUNT_QUERIES
        heappush(self._lost, (waiting.query.scheduled_ns, waiting.query.query_id, waiting))

    def _leave_on_time(self, waiting: Waiting) -> None:
        waiting.on_time = False
        self._num_on_time -= 1
        self._work_ns = self._work_ns - waiting.work_ns if self._num_on_time else 0.0
        waiting.work_ns = 0.0

    def _forget(self, waiting: Waiting) -> None:
        """Take a query out of the queue."""
        del self._waiting[waiting.query.query_id]
        self._num_items -= waiting.items_left
        waiting.items_left = 0
        if waiting.on_time:
            self._leave_on_time(waiting)

    def _start(self, now_ns: int) -> Decision:
        free_slots = self._free_slots
        if not (free_slots and self._waiting):
            return NOTHING
        started: list[Batch] = []
        rejected: list[Rejection] = []
        while free_slots and self._waiting:
            waiting = self._next(now_ns)
            # A lost one is not judged again, unless for being turned away.
            judged = not waiting.first_item and (waiting.on_time or self._reject_lost)
            if not judged or not self._is_hopeless(waiting, now_ns):
                started.append(self._start_batch(waiting, now_ns))
            elif self._reject_lost:
                self._forget(waiting)
                rejected.append(Rejection(waiting.query, "lost"))
            else:
                self._give_up(waiting)
        return Decision(tuple(started), tuple(rejected)) if rejected else Decision(tuple(started))

    def _next(self, now_ns: int) -> Waiting:
        """Whose turn it is: a lost query whose wait is up, one on time, any lost one."""
        first = self._first_on_time() if self._num_on_time else None
        lost = self._first_lost() if self._lost else None
        if first is None or lost is None:
            waiting = first or lost
            assert waiting is not None, "somebody waits"
            return waiting
        if first.query.scheduled_ns <= lost.query.scheduled_ns:
            return first  # the older one goes first in any case
        until_ns = lost.query.scheduled_ns + _PROMOTION_FACTOR * lost.limit_ns
        if now_ns + lost.rest.alone_ns < until_ns:
            return first
        return first if self._spread(lost, now_ns, None)[0] < until_ns else lost

    def _first_on_time(self) -> Waiting | None:
        """The earliest deadline; entries before it that do not count any more are dropped."""
        while self._on_time:
            waiting = self._on_time[0][2]
            if waiting.on_time:
                return waiting
            heappop(self._on_time)
        return None

    def _first_lost(self) -> Waiting | None:
        """The oldest of the lost; likewise."""
        while self._lost:
            waiting = self._lost[0][2]
            if waiting.items_left:
                return waiting
            heappop(self._lost)
        return None

    def _is_hopeless(self, waiting: Waiting, now_ns: int) -> bool:
        """Whether the query would miss its deadline even if it had all workers to itself."""
        if now_ns + waiting.rest.alone_ns <= waiting.deadline_ns:
            return False
        grace_ns = _LATE_TOLERANCE * waiting.limit_ns
        return self._spread(waiting, now_ns, None)[0] > waiting.deadline_ns + grace_ns

    def _start_batch(self, waiting: Waiting, now_ns: int) -> Batch:
        """Start as much of the query on a free slot as `_num_items_now` says, with company."""
        num_items = self._num_items_now(waiting, now_ns)
        parts = [self._take(waiting, num_items)]
        predicted_ns = waiting.prediction.part_ns(num_items)
        alone = waiting.items_left or waiting.lost or len(self._free_slots) > 1
        if self._num_on_time and not alone:
            predicted_ns = self._pack(parts, predicted_ns, waiting, now_ns)
        # The slot that was freed last: its worker is awake and its caches are warm.
        slot = self._free_slots.pop()
        self._ready_ns[slot] = now_ns + predicted_ns
        batch = Batch(self._num_batches, slot, tuple(parts))
        self._num_batches += 1
        return batch

    def _take(self, waiting: Waiting, num_items: int) -> BatchPart:
        """The query's next items as a part."""
        part = BatchPart(waiting.query, waiting.first_item, num_items)
        waiting.first_item += num_items
        if num_items == waiting.items_left:
            self._forget(waiting)
            return part
        self._num_items -= num_items
        work_ns = waiting.work_ns * num_items / waiting.items_left
        waiting.work_ns -= work_ns
        if waiting.on_time:
            self._work_ns -= work_ns
        waiting.items_left -= num_items
        waiting.rest = waiting.prediction.rest(waiting.items_left)
        return part

    def _num_items_now(self, waiting: Waiting, now_ns: int) -> int:
        """How many of its items the next free worker gets."""
        rest, left = waiting.rest, waiting.items_left
        if self._num_on_time <= waiting.on_time:
            for num_parts in range(min(len(self._free_slots), left), rest.num_parts, -1):
                num_items = -(-left // num_parts)
                if num_items <= self._prediction.items_max:
                    cost_ns = num_parts * waiting.prediction.part_ns(num_items)
                    if cost_ns <= rest.work_ns * (1.0 + _IDLE_CUT_OVERHEAD):
                        return num_items
        if waiting.lost or now_ns + rest.work_ns <= waiting.deadline_ns:
            return rest.part_items
        return self._spread(waiting, now_ns, waiting.deadline_ns)[1]

    def _spread(self, waiting: Waiting, now_ns: int, until_ns: int | None) -> tuple[float, int]:
        """When a query can be done by sharing it among workers, and the first one's share.

        Workers join in the order in which they become free, each with a share that lets all end
        together; service time is taken as a line, see `Rest`.

        Args:
            waiting: the query.
            now_ns: a worker is free now.
            until_ns: no more workers join than end it by then, nor more than the overhead allows
                while others wait; None: as many as make it faster.
        """
        fixed_ns, item_ns = waiting.rest.fixed_ns, waiting.rest.item_ns
        items_ns = item_ns * waiting.items_left
        others = [now_ns] * (len(self._free_slots) - 1) + list(self._ready_ns.values())
        ready_sum_ns = now_ns + fixed_ns
        done_ns = ready_sum_ns + items_ns
        spare_ns = math.inf
        if self._num_on_time > 1:
            spare_ns = fixed_ns + _PRESSED_CUT_OVERHEAD * (fixed_ns + items_ns)
        for number, ready_ns in enumerate(sorted(others), start=2):
            joins_ns = max(now_ns, ready_ns) + fixed_ns
            if joins_ns >= done_ns:
                break
            if until_ns is not None and (done_ns <= until_ns or number * fixed_ns > spare_ns):
                break
            ready_sum_ns += joins_ns
            done_ns = (items_ns + ready_sum_ns) / number
        share = int((done_ns - now_ns - fixed_ns) / item_ns)
        return done_ns, max(1, min(share, waiting.rest.items_max))

    def _pack(self, parts: list[BatchPart], batch_ns: int, first: Waiting, now_ns: int) -> int:
        """Let the queries that follow join a batch while that is less work and in time.

        Args:
            parts: of the batch, one so far; those that join are appended.
            batch_ns: predicted service time of the one.
            first: its query.
            now_ns: when the batch starts.

        Returns:
            The predicted service time of all.
        """
        prediction, model = self._prediction, first.query.model
        num_items, num_ids = parts[0].num_items, parts[0].num_ids
        until_ns = first.query.scheduled_ns + round(_PACKING_SHARE * first.limit_ns)
        until_ns = min(until_ns, first.deadline_ns)
        while len(parts) < prediction.parts_max:
            joining = self._first_on_time()
            if joining is None or joining.first_item or joining.query.model != model:
                break
            query = joining.query
            num_items, num_ids = num_items + query.num_items, num_ids + query.num_ids
            if num_items > prediction.items_max:
                break
            together_ns = prediction.batch_ns(model, len(parts) + 1, num_items, num_ids)
            apart_ns = batch_ns + joining.prediction.part_ns(query.num_items)
            if together_ns >= apart_ns or now_ns + together_ns > until_ns:
                break
            batch_ns = together_ns
            parts.append(self._take(joining, query.num_items))
        return batch_ns
