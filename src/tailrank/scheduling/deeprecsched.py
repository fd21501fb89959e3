"""DeepRecSched as released: a static batch on the cores, whole large queries on the accelerator.

Source: Gupta et al., "DeepRecSys", ISCA 2020, section 4, and its released code. Batch size and
threshold are settings here; what finds them is in `tuning`. One deviation: the queues are bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tailrank.core.errors import ConfigError
from tailrank.core.fleet import CPU
from tailrank.core.query import NOTHING, Batch, BatchPart, Decision, Outcome, Query, Rejection


class DeepRecSchedScheduler:
    """Two queues, first in, first out: one for the cores, one for the accelerators.

    A query of `offload_threshold_items` or more goes to an accelerator as one batch, however large.
    A smaller one is cut into full parts of `batch_items_max` items and a rest, one per batch, for
    the cores. Neither device helps the other.

    Args:
        batch_items_max: most items of a batch on a core.
        queue_items_max: most items that may wait, both queues together.
        offload_threshold_items: size from which queries are offloaded; None: none are.
        devices: the device of each slot; None where all are cores.

    Raises:
        ConfigError: queries are to be offloaded and there is no accelerator, or smaller ones have
            no core.
    """

    def __init__(
        self,
        *,
        batch_items_max: int,
        queue_items_max: int,
        offload_threshold_items: int | None,
        devices: Sequence[str] | None,
    ) -> None:
        given = set(devices or (CPU,))
        if offload_threshold_items is not None and given == {CPU}:
            allowed = "None: no worker is an accelerator"
            raise ConfigError("offload_threshold_items", offload_threshold_items, allowed)
        if CPU not in given and offload_threshold_items != 1:
            allowed = "1: no worker is a core, so that every query has to be offloaded"
            raise ConfigError("offload_threshold_items", offload_threshold_items, allowed)
        self._batch_items_max = batch_items_max
        self._queue_items_max = queue_items_max
        self._threshold = offload_threshold_items
        self._devices = devices
        # By whether it is for accelerators.
        self._queues: dict[bool, deque[BatchPart]] = {False: deque(), True: deque()}
        self._free_slots: dict[bool, list[int]] = {False: [], True: []}
        self._num_items = 0
        self._num_batches = 0

    def on_query(self, query: Query, now_ns: int) -> Decision:
        """Queue the query for its device and start what fits."""
        if self._num_items + query.num_items > self._queue_items_max:
            return Decision(reject=(Rejection(query, "queue_full"),))
        self._num_items += query.num_items
        offloaded = self._threshold is not None and query.num_items >= self._threshold
        if offloaded:
            self._queues[True].append(BatchPart(query, 0, query.num_items))
        else:
            size = self._batch_items_max
            for first in range(0, query.num_items, size):
                part = BatchPart(query, first, min(size, query.num_items - first))
                self._queues[False].append(part)
        return self._start(offloaded)

    def on_done(self, batch: Batch, outcome: Outcome, now_ns: int) -> Decision:
        """Give the slot to the oldest part for its device."""
        accelerator = self._is_accelerator(batch.slot)
        if outcome is Outcome.FAILED:
            lost = {part.query.query_id for part in batch.parts}
            queue = self._queues[accelerator]
            self._num_items -= sum(it.num_items for it in queue if it.query.query_id in lost)
            self._queues[accelerator] = deque(it for it in queue if it.query.query_id not in lost)
        self._free_slots[accelerator].append(batch.slot)
        return self._start(accelerator)

    def on_workers(self, free_slots: Sequence[int], now_ns: int) -> Decision:
        """Take the slots in."""
        for slot in free_slots:
            self._free_slots[self._is_accelerator(slot)].append(slot)
        start = self._start(False).start + self._start(True).start
        return Decision(start) if start else NOTHING

    def on_timer(self, now_ns: int) -> Decision:
        """Nothing waits for time alone."""
        return NOTHING

    def next_deadline_ns(self) -> int | None:
        """None: nothing waits for time alone."""
        return None

    def _is_accelerator(self, slot: int) -> bool:
        return self._devices is not None and self._devices[slot] != CPU

    def _start(self, accelerator: bool) -> Decision:
        queue, free_slots = self._queues[accelerator], self._free_slots[accelerator]
        started = []
        while queue and free_slots:
            part = queue.popleft()
            self._num_items -= part.num_items
            started.append(Batch(self._num_batches, free_slots.pop(), (part,)))
            self._num_batches += 1
        return Decision(tuple(started)) if started else NOTHING
