"""The slack policy: each dispatch looks at how long things will take and who can still be on time.

Ours. From others it takes predicted service times per dispatch (Clockwork, OSDI 2020; Kairos,
HPDC 2023) and, for choosing whom to give up, Moore's rule that leaves the fewest jobs late
(Management Science 15(1), 1968). It must not know what measured the times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from tailrank.core.errors import ConfigError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, BatchPart, Decision, Outcome, Query, Rejection
from tailrank.core.sla import SLA
from tailrank.scheduling.prediction import Prediction

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
# Entries that the heap of the largest may have beyond those that count, before it is cleared up.
_SPARE_ENTRIES = 1000


@dataclass(slots=True, eq=False)
class _Waiting:
    """A query with items that no worker has yet."""

    query: Query
    deadline_ns: int
    work_ns: float
    first_item: int = 0
    lost: bool = False
    gone: bool = False

    @property
    def items_left(self) -> int:
        return self.query.num_items - self.first_item

    @property
    def limit_ns(self) -> int:
        return max(1, self.deadline_ns - self.query.scheduled_ns)


_Heap = list[tuple[int, int, _Waiting]]


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
        self._prediction = Prediction(fleet, fleet.devices[0], batch_items_max, batch_parts_max)
        self._queue_items_max = queue_items_max
        self._sla = sla
        self._allowed_share = 1.0 - sla.percentile / 100.0
        self._reject_lost = reject_lost
        self._waiting: dict[int, _Waiting] = {}
        self._on_time: _Heap = []  # by deadline
        self._largest: _Heap = []  # those on time, by size, the largest first
        self._lost: _Heap = []  # by scheduled arrival
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
        _, work_ns = self._prediction.cheapest_cut(query, query.num_items)
        deadline_ns = query.deadline_ns
        if deadline_ns is None:
            deadline_ns = query.scheduled_ns + self._sla.latency_ns
        waiting = _Waiting(query, deadline_ns, work_ns)
        self._waiting[query.query_id] = waiting
        self._num_items += query.num_items
        if not self._num_on_time:
            self._last_deadline_ns = 0
            self._on_time.clear()
            self._largest.clear()
        self._num_on_time += 1
        self._work_ns += work_ns
        self._last_deadline_ns = max(self._last_deadline_ns, deadline_ns)
        heappush(self._on_time, (deadline_ns, query.query_id, waiting))
        if len(self._largest) > 2 * len(self._waiting) + _SPARE_ENTRIES:
            # Small ones lie below the others and would keep payloads until the queue empties.
            self._largest = [entry for entry in self._largest if _counts(entry[2], untouched=True)]
            heapify(self._largest)
        heappush(self._largest, (-query.num_items, query.query_id, waiting))
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
        running_ns = sum([max(0, ready_ns - now_ns) for ready_ns in self._ready_ns.values()])
        time_ns = num_workers * (self._last_deadline_ns - now_ns) - running_ns
        while self._work_ns > time_ns and self._given_up_share <= self._allowed_share:
            largest = _first(self._largest, untouched=True)
            if largest is None:
                break
            self._give_up(largest)

    def _give_up(self, waiting: _Waiting) -> None:
        """Move a query to the lost."""
        self._leave_on_time(waiting, waiting.work_ns)
        waiting.lost = True
        self._given_up_share += 1.0 / _ACCOUNT_QUERIES
        heappush(self._lost, (waiting.query.scheduled_ns, waiting.query.query_id, waiting))

    def _leave_on_time(self, waiting: _Waiting, work_ns: float) -> None:
        waiting.work_ns -= work_ns
        self._num_on_time -= 1
        self._work_ns = self._work_ns - work_ns if self._num_on_time else 0.0

    def _forget(self, waiting: _Waiting) -> None:
        """Take a query out of the queue."""
        del self._waiting[waiting.query.query_id]
        waiting.gone = True
        self._num_items -= waiting.items_left
        if not waiting.lost:
            self._leave_on_time(waiting, waiting.work_ns)

    def _start(self, now_ns: int) -> Decision:
        started: list[Batch] = []
        rejected: list[Rejection] = []
        while self._free_slots and self._waiting:
            waiting = self._next(now_ns)
            hopeless = waiting.first_item == 0 and self._is_hopeless(waiting, now_ns)
            if hopeless and self._reject_lost:
                self._forget(waiting)
                rejected.append(Rejection(waiting.query, "lost"))
            elif hopeless and not waiting.lost:
                self._give_up(waiting)
            else:
                started.append(self._start_batch(waiting, now_ns))
        return Decision(tuple(started), tuple(rejected))

    def _next(self, now_ns: int) -> _Waiting:
        """Whose turn it is: a lost query whose wait is up, one on time, any lost one."""
        first, lost = _first(self._on_time), _first(self._lost, lost=True)
        if first is None or lost is None:
            waiting = first or lost
            assert waiting is not None, "somebody waits"
            return waiting
        if first.query.scheduled_ns <= lost.query.scheduled_ns:
            return first  # the older one goes first in any case
        own_ns = self._spread(lost, now_ns, None)[0] - now_ns
        patience_ns = _PROMOTION_FACTOR * lost.limit_ns
        return lost if now_ns + own_ns >= lost.query.scheduled_ns + patience_ns else first

    def _is_hopeless(self, waiting: _Waiting, now_ns: int) -> bool:
        """Whether the query would miss its deadline even if it had all workers to itself."""
        grace_ns = _LATE_TOLERANCE * waiting.limit_ns
        return self._spread(waiting, now_ns, None)[0] > waiting.deadline_ns + grace_ns

    def _start_batch(self, waiting: _Waiting, now_ns: int) -> Batch:
        """Start as much of the query on a free slot as `_num_items_now` says, with company."""
        num_items = self._num_items_now(waiting, now_ns)
        parts = [self._take(waiting, num_items)]
        if waiting.gone and not waiting.lost and len(self._free_slots) == 1:
            self._pack(parts, waiting, now_ns)
        # The slot that was freed last: its worker is awake and its caches are warm.
        batch = Batch(self._num_batches, self._free_slots.pop(), tuple(parts))
        self._num_batches += 1
        predicted_ns = self._prediction.batch_ns(
            waiting.query, len(parts), batch.num_items, batch.num_ids
        )
        self._ready_ns[batch.slot] = now_ns + predicted_ns
        return batch

    def _take(self, waiting: _Waiting, num_items: int) -> BatchPart:
        """The query's next items as a part."""
        part = BatchPart(waiting.query, waiting.first_item, num_items)
        if num_items == waiting.items_left:
            self._forget(waiting)
        else:
            self._num_items -= num_items
            work_ns = waiting.work_ns * num_items / waiting.items_left
            waiting.work_ns -= work_ns
            if not waiting.lost:
                self._work_ns -= work_ns
        waiting.first_item += num_items
        return part

    def _num_items_now(self, waiting: _Waiting, now_ns: int) -> int:
        """How many of its items the next free worker gets."""
        query, left = waiting.query, waiting.items_left
        cut, work_ns = self._prediction.cheapest_cut(query, left)
        if self._num_on_time <= (not waiting.lost):
            for num_parts in range(min(len(self._free_slots), left), cut, -1):
                num_items = -(-left // num_parts)
                if num_items <= self._prediction.items_max:
                    cost_ns = num_parts * self._prediction.part_ns(query, num_items)
                    if cost_ns <= work_ns * (1.0 + _IDLE_CUT_OVERHEAD):
                        return num_items
        if waiting.lost or now_ns + work_ns <= waiting.deadline_ns:
            return -(-left // cut)
        return self._spread(waiting, now_ns, waiting.deadline_ns)[1]

    def _spread(self, waiting: _Waiting, now_ns: int, until_ns: int | None) -> tuple[float, int]:
        """When a query can be done by sharing it among workers, and the first one's share.

        Workers join in the order in which they become free, each with a share that lets all end
        together; service time is taken as a line through the whole rest and half of it.

        Args:
            waiting: the query.
            now_ns: a worker is free now.
            until_ns: no more workers join than end it by then, nor more than the overhead allows
                while others wait; None: as many as make it faster.
        """
        left, prediction = waiting.items_left, self._prediction
        large = min(left, prediction.items_max)
        small = (large + 1) // 2
        large_ns = prediction.part_ns(waiting.query, large)
        small_ns = prediction.part_ns(waiting.query, small)
        item_ns = max(1e-3, (large_ns - small_ns) / (large - small)) if large > small else large_ns
        fixed_ns = max(0.0, large_ns - item_ns * large)
        others = [now_ns] * (len(self._free_slots) - 1) + list(self._ready_ns.values())
        done_ns = now_ns + fixed_ns + item_ns * left
        ready_sum_ns = now_ns + fixed_ns
        spare_ns = math.inf
        if self._num_on_time > 1:
            spare_ns = fixed_ns + _PRESSED_CUT_OVERHEAD * (fixed_ns + item_ns * left)
        for number, ready_ns in enumerate(sorted(others), start=2):
            joins_ns = max(now_ns, ready_ns) + fixed_ns
            if joins_ns >= done_ns:
                break
            if until_ns is not None and (done_ns <= until_ns or number * fixed_ns > spare_ns):
                break
            ready_sum_ns += joins_ns
            done_ns = (item_ns * left + ready_sum_ns) / number
        share = int((done_ns - now_ns - fixed_ns) / item_ns)
        return done_ns, max(1, min(share, large))

    def _pack(self, parts: list[BatchPart], first: _Waiting, now_ns: int) -> None:
        """Let the queries that follow join a batch while that is less work and in time."""
        prediction = self._prediction
        num_items, num_ids = parts[0].num_items, parts[0].num_ids
        batch_ns = prediction.part_ns(parts[0].query, num_items)
        until_ns = first.query.scheduled_ns + round(_PACKING_SHARE * first.limit_ns)
        until_ns = min(until_ns, first.deadline_ns)
        while len(parts) < prediction.parts_max:
            joining = _first(self._on_time)
            if joining is None or joining.first_item or joining.query.model != first.query.model:
                return
            query = joining.query
            num_items, num_ids = num_items + query.num_items, num_ids + query.num_ids
            if num_items > prediction.items_max:
                return
            together_ns = prediction.batch_ns(query, len(parts) + 1, num_items, num_ids)
            apart_ns = batch_ns + prediction.part_ns(query, query.num_items)
            if together_ns >= apart_ns or now_ns + together_ns > until_ns:
                return
            batch_ns = together_ns
            parts.append(self._take(joining, query.num_items))


def _first(heap: _Heap, *, lost: bool = False, untouched: bool = False) -> _Waiting | None:
    """The first entry that still counts; those before it, which do not any more, are dropped.

    Args:
        heap: of queries on time, or of the lost.
        lost: which of the two.
        untouched: drop those of which a part has started too.
    """
    while heap:
        if _counts(heap[0][2], lost=lost, untouched=untouched):
            return heap[0][2]
        heappop(heap)
    return None


def _counts(waiting: _Waiting, *, lost: bool = False, untouched: bool = False) -> bool:
    """Whether an entry still belongs into a heap; see `_first`."""
    return not (waiting.gone or waiting.lost != lost or (untouched and waiting.first_item))
