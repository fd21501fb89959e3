"""The Kairos policy: queued queries are matched to workers of several devices, for the least cost.

Source: Li et al., "Kairos", HPDC 2023 (arXiv 2210.05889), its query distribution. Deviations: a
query larger than a batch is cut; only the oldest parts are matched; one that would be late any way
is taken first after three times its limit, where the paper leaves its wait without a bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from tailrank.core.fleet import Fleet
from tailrank.core.query import NOTHING, Batch, BatchPart, Decision, Outcome, Query, Rejection
from tailrank.core.sla import SLA
from tailrank.scheduling.prediction import predict
from tailrank.scheduling.scheduler import split_query

_WINDOW = 32  # oldest parts to match: a decision's time is bounded by it
_PATIENCE_FACTOR = 3
# Beyond all predicted times, yet not so large that they are rounded away beside it.
_LATE_COST_NS = 1e13


class KairosScheduler:
    """Before each start, matches the oldest parts that wait to all workers, free or busy.

    The cost of a pair is the time until that worker would have ranked that part, what it is running
    now included, times the worker's weight: how much faster the fastest device ranks a full batch.
    So a slow device's time is cheap, and a small query leaves the fast one to a large query. A pair
    that would miss the part's deadline costs more than any that would not. Only pairs with a free
    worker start; a part that is better off with a busy one waits for it.

    A decision takes O(w^2 p) for w workers and p parts, at most 32.

    Args:
        batch_items_max: most items of a batch.
        queue_items_max: most items that may wait.
        sla: its limit makes deadlines of queries without one of their own.
        fleet: predicts.
    """

    def __init__(
        self, *, batch_items_max: int, queue_items_max: int, sla: SLA, fleet: Fleet
    ) -> None:
        self._predictions = {
            device: predict(fleet, device, batch_items_max, 1) for device in set(fleet.devices)
        }
        self._items_max = min(it.items_max for it in self._predictions.values())
        self._devices = fleet.devices
        self._queue_items_max = queue_items_max
        self._limit_ns = sla.latency_ns
        self._queue: deque[BatchPart] = deque()
        self._num_items = 0
        self._num_batches = 0
        self._weights: dict[tuple[str, str], float] = {}  # by model and device
        self._free_slots: list[int] = []
        self._ready_ns: dict[int, int] = {}  # by busy slot: when its batch should end

    def on_query(self, query: Query, now_ns: int) -> Decision:
        """Queue the query and start whom the matching gives a free worker."""
        if self._num_items + query.num_items > self._queue_items_max:
            return Decision(reject=(Rejection(query, "queue_full"),))
        self._num_items += query.num_items
        self._queue.extend(split_query(query, self._items_max))
        return self._start(now_ns)

    def on_done(self, batch: Batch, outcome: Outcome, now_ns: int) -> Decision:
        """Match again, now that the slot is free."""
        if outcome is Outcome.FAILED:
            lost = {part.query.query_id for part in batch.parts}
            self._queue = deque(it for it in self._queue if it.query.query_id not in lost)
            self._num_items = sum(part.num_items for part in self._queue)
        del self._ready_ns[batch.slot]
        self._free_slots.append(batch.slot)
        return self._start(now_ns)

    def on_workers(self, free_slots: Sequence[int], now_ns: int) -> Decision:
        """Take the slots in."""
        self._free_slots.extend(free_slots)
        return self._start(now_ns)

    def on_timer(self, now_ns: int) -> Decision:
        """Nothing waits for time alone."""
        return NOTHING

    def next_deadline_ns(self) -> int | None:
        """None: who waits for a busy worker is told when that one is done."""
        return None

    def _start(self, now_ns: int) -> Decision:
        started: list[Batch] = []
        while self._queue and self._free_slots:
            pairs = self._match(now_ns)
            if not pairs:
                break
            for position, slot in sorted(pairs, reverse=True):
                part = self._queue[position]
                del self._queue[position]
                self._num_items -= part.num_items
                self._free_slots.remove(slot)
                self._ready_ns[slot] = now_ns + self._service_ns(part, slot)
                started.append(Batch(self._num_batches, slot, (part,)))
                self._num_batches += 1
        return Decision(tuple(started)) if started else NOTHING

    def _match(self, now_ns: int) -> list[tuple[int, int]]:
        """Pairs of a position in the queue and a free slot."""
        from scipy.optimize import linear_sum_assignment  # a fifth of a second, for this policy

        parts = [self._queue[i] for i in range(min(_WINDOW, len(self._queue)))]
        slots = self._free_slots + list(self._ready_ns)
        cost = np.array([[self._cost(part, slot, now_ns) for slot in slots] for part in parts])
        rows, columns = linear_sum_assignment(cost)
        num_free = len(self._free_slots)
        return [
            (int(row), slots[column])
            for row, column in zip(rows, columns, strict=True)
            if column < num_free
        ]

    def _cost(self, part: BatchPart, slot: int, now_ns: int) -> float:
        """What it costs to leave this part to this worker."""
        wait_ns = max(0, self._ready_ns.get(slot, now_ns) - now_ns)
        latency_ns = wait_ns + self._service_ns(part, slot)
        query = part.query
        deadline_ns = query.deadline_ns
        if deadline_ns is None:
            deadline_ns = query.scheduled_ns + self._limit_ns
        cost_ns = latency_ns * self._weight(query, slot)
        limit_ns = deadline_ns - query.scheduled_ns
        if now_ns - query.scheduled_ns > _PATIENCE_FACTOR * limit_ns:
            return cost_ns - _LATE_COST_NS
        return cost_ns if now_ns + latency_ns <= deadline_ns else cost_ns + _LATE_COST_NS

    def _service_ns(self, part: BatchPart, slot: int) -> int:
        return self._predictions[self._devices[slot]].of(part.query).part_ns(part.num_items)

    def _weight(self, query: Query, slot: int) -> float:
        """How long the fastest device takes for a full batch, over how long this one does."""
        key = query.model, self._devices[slot]
        if key not in self._weights:
            times_ns = {
                device: max(1, prediction.of(query).part_ns(self._items_max))
                for device, prediction in self._predictions.items()
            }
            self._weights[key] = min(times_ns.values()) / times_ns[self._devices[slot]]
        return self._weights[key]
