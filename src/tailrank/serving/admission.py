"""The door: which queries are taken, by the work that is open and the time they have.

A query that would be late is turned away while that costs nothing. Pure bookkeeping: knows no
clock, no lock and no model; whoever calls it holds a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tailrank.core.errors import Overloaded

# How much of a batch's surprise goes into the correction: it follows a change within some ten
# batches, and no single pause of the host.
_LEARNING_RATE = 0.1
_CORRECTION = (0.25, 4.0)


@dataclass(slots=True, eq=False)
class OpenWork:
    """What an admitted query still costs.

    Args:
        num_items: its size.
        items_left: items that are not done.
        work_ns: predicted work of those.
        is_waiting: no part of it has been started.
    """

    num_items: int
    items_left: int
    work_ns: float
    is_waiting: bool = True


class Admission:
    """Counts open work in predicted nanoseconds of one worker.

    Args:
        predict_ns: service time of a batch of so many items.
        batch_items_max: queries are cut into parts of at most so many items.
        num_workers: that share the work.
        items_max: most items that may be open at once.
    """

    def __init__(
        self,
        predict_ns: Callable[[int], float],
        *,
        batch_items_max: int,
        num_workers: int,
        items_max: int,
    ) -> None:
        self._predict_ns, self._batch_items_max = predict_ns, batch_items_max
        self._num_workers, self._items_max = num_workers, items_max
        self._correction = 1.0
        self._work_ns = 0.0
        self.num_queries = 0
        """Queries that are open."""
        self.num_waiting = 0
        """Those of them of which no part has been started."""
        self.num_items = 0
        """Items of all that are open."""

    def admit(self, num_items: int, limit_ns: int) -> OpenWork:
        """Take a query in.

        Args:
            num_items: its size.
            limit_ns: the time it has, from now.

        Raises:
            Overloaded: it would not be done by then, or there is no room for it.
        """
        num_parts = -(-num_items // self._batch_items_max)
        part_ns = self._predict_ns(-(-num_items // num_parts))
        own_ns = -(-num_parts // self._num_workers) * part_ns
        if self.num_items + num_items > self._items_max:
            raise Overloaded(
                "queue_full",
                f"{self.num_items:,} items are open, of at most {self._items_max:,}",
                round(self._wait_ns),
            )
        if own_ns > limit_ns:
            raise Overloaded(
                "too_late",
                f"{num_items:,} items alone take {own_ns / 1e6:.3g} ms of the "
                f"{limit_ns / 1e6:.3g} ms that there are",
            )
        # What a correction has wrongly learned must not turn everything away for ever: a query
        # that finds nobody before it waits for nobody.
        late_ns = self._wait_ns + own_ns - limit_ns
        if late_ns > 0:
            raise Overloaded(
                "too_late",
                f"would be done in {(late_ns + limit_ns) / 1e6:.3g} ms, of the "
                f"{limit_ns / 1e6:.3g} ms that there are",
                round(late_ns),
            )
        work = OpenWork(num_items, num_items, num_parts * part_ns)
        self.num_queries += 1
        self.num_waiting += 1
        self.num_items += num_items
        self._work_ns += work.work_ns
        return work

    @property
    def _wait_ns(self) -> float:
        """How long the work that is open will take."""
        return max(0.0, self._work_ns) * self._correction / self._num_workers

    def part_started(self, work: OpenWork) -> None:
        """Book a query as no longer waiting, if it is the first of its parts."""
        self.num_waiting -= work.is_waiting
        work.is_waiting = False

    def part_done(self, work: OpenWork, num_items: int) -> None:
        """Book so many items of a query as done."""
        done_ns = work.work_ns * num_items / work.items_left
        work.items_left -= num_items
        work.work_ns -= done_ns
        self._work_ns -= done_ns

    def leave(self, work: OpenWork) -> None:
        """Book a query as ended, in whatever way."""
        self.part_started(work)
        self.num_queries -= 1
        self.num_items -= work.num_items
        self._work_ns = self._work_ns - work.work_ns if self.num_items else 0.0

    def learn(self, num_items: int, took_ns: int) -> None:
        """Compare a batch with what was predicted for it."""
        surprise = took_ns / max(1.0, self._predict_ns(num_items))
        low, high = _CORRECTION
        surprise = min(max(surprise, low), high)
        self._correction += _LEARNING_RATE * (surprise - self._correction)
