"""The door: which queries are taken, by the work that is open and the time they have.

A query that would be late is turned away while that costs nothing. Pure bookkeeping: knows no
clock, no lock and no model; whoever calls it holds a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tailrank.core.errors import Overloaded
from tailrank.core.sla import SLA

# How much of a batch's surprise goes into the correction: it follows a change within some ten
# batches, and no single pause of the host.
_LEARNING_RATE = 0.1
_CORRECTION = (0.25, 4.0)


Predict = Callable[[int], float]
"""Service time of a batch of so many items, in ns."""


# Of the SLA's limit: how much more is set aside after an answer that took longer than all that was,
# and how much it may become. A pause of the host makes many late at once.
_MARGIN_STEP, _MARGIN_MAX = 0.05, 0.75
# Of the answers that the SLA lets be late, the share that the door may misjudge: clients have the
# other half for themselves.
_MISJUDGED = 0.5


class Margin:
    """How much longer than predicted answers take, but for the few that may be late.

    A quantile that follows what it is told: a step up for each answer that took longer, so much
    less down for each that did not that both keep the balance where the right share takes longer.

    Args:
        sla: says how many that may be.

    Source: Robbins and Monro, A Stochastic Approximation Method (1951), with steps that stay.
    """

    def __init__(self, sla: SLA) -> None:
        longer = _MISJUDGED * (1.0 - sla.percentile / 100.0)
        self._up_ns = _MARGIN_STEP * sla.latency_ns
        self._down_ns = self._up_ns * longer / (1.0 - longer)
        self._most_ns = _MARGIN_MAX * sla.latency_ns
        self.ns = 0.0
        """What is to be set aside."""

    def learn(self, longer_ns: float) -> None:
        """Take in how much longer than predicted an answer took; below 0: less long."""
        if longer_ns > self.ns:
            self.ns = min(self.ns + self._up_ns, self._most_ns)
        else:
            self.ns = max(0.0, self.ns - self._down_ns)


@dataclass(slots=True, eq=False)
class OpenWork:
    """What an admitted query still costs.

    Args:
        num_items: its items, of all stages.
        work_ns: predicted work of what is not done.
        item_ns: of it, that of one item, in this stage and in those to come.
        later_ns: how long the stages after each of these take, at least.
        expected_ns: from its admission to its end, as predicted then.
        is_waiting: no part of it has been started.
    """

    num_items: int
    work_ns: float
    item_ns: list[float]
    later_ns: list[float]
    expected_ns: float
    is_waiting: bool = True


class Admission:
    """Counts open work in predicted nanoseconds of one worker.

    Args:
        predict_ns: of the model.
        batch_items_max: queries are cut into parts of at most so many items.
        num_workers: that share the work.
        items_max: most items that may be open at once.
        sla: of which answers; None: nothing is set aside for answers that take longer.
        filters_predict_ns: of models that choose candidates for it, in their order.
    """

    def __init__(
        self,
        predict_ns: Predict,
        *,
        batch_items_max: int,
        num_workers: int,
        items_max: int,
        sla: SLA | None = None,
        filters_predict_ns: Sequence[Predict] = (),
    ) -> None:
        self._predict_ns, self._batch_items_max = predict_ns, batch_items_max
        self._filters_predict_ns = filters_predict_ns
        self._num_workers, self._items_max = num_workers, items_max
        self._margin = None if sla is None else Margin(sla)
        self._correction = 1.0
        self._work_ns = 0.0
        self.num_queries = 0
        """Queries that are open."""
        self.num_waiting = 0
        """Those of them of which no part has been started."""
        self.num_items = 0
        """Items of all that are open."""

    def change_models(self, predict_ns: Predict, filters_predict_ns: Sequence[Predict]) -> None:
        """Predict by other models from now on, about which nothing has been learned yet."""
        self._predict_ns, self._filters_predict_ns = predict_ns, filters_predict_ns
        self._correction = 1.0

    def admit(
        self, num_items: int, limit_ns: int, filtered: Sequence[int] = (), waited_ns: int = 0
    ) -> OpenWork:
        """Take a query in.

        Args:
            num_items: its size, when it comes to the model.
            limit_ns: the time it has, from when it came, for all stages.
            filtered: its size when it comes to each of the filters, if it does.
            waited_ns: how long ago it came.

        Raises:
            Overloaded: it would not be done by then, or there is no room for it.
        """
        sizes = (*filtered, num_items)
        predictors = (*self._filters_predict_ns[: len(filtered)], self._predict_ns)
        own, work_ns = zip(*map(self._price, sizes, predictors), strict=True)
        own_ns, num_items = sum(own), sum(sizes)
        # What the way in has taken, the way back will take, too.
        limit_ns = max(0, limit_ns - 2 * waited_ns)
        if self.num_items + num_items > self._items_max:
            raise Overloaded(
                "queue_full",
                f"{self.num_items:,} items are open, of at most {self._items_max:,}",
                round(self._wait_ns),
            )
        if own_ns > limit_ns:
            raise Overloaded(
                "too_late",
                f"{sizes[0]:,} items alone take {own_ns / 1e6:.3g} ms of the "
                f"{limit_ns / 1e6:.3g} ms that there are",
            )
        # What a correction has wrongly learned must not turn everything away for ever: a query
        # that finds nobody before it waits for nobody.
        expected_ns = self._wait_ns + own_ns
        margin_ns = self._margin.ns if self._margin is not None and self.num_queries else 0.0
        late_ns = expected_ns + max(0.0, margin_ns - waited_ns) - limit_ns
        if late_ns > 0:
            raise Overloaded(
                "too_late",
                f"would be done in {(late_ns + limit_ns) / 1e6:.3g} ms, of the "
                f"{limit_ns / 1e6:.3g} ms that there are",
                round(late_ns),
            )
        work = OpenWork(
            num_items,
            sum(work_ns),
            item_ns=[ns / size for ns, size in zip(work_ns, sizes, strict=True)],
            later_ns=[own_ns - done_ns for done_ns in accumulate(own)],
            expected_ns=expected_ns,
        )
        self.num_queries += 1
        self.num_waiting += 1
        self.num_items += num_items
        self._work_ns += work.work_ns
        return work

    def _price(self, num_items: int, predict_ns: Predict) -> tuple[float, float]:
        """How long so many items take on all workers, and the work of them."""
        num_parts = -(-num_items // self._batch_items_max)
        part_ns = predict_ns(-(-num_items // num_parts))
        return -(-num_parts // self._num_workers) * part_ns, num_parts * part_ns

    @property
    def _wait_ns(self) -> float:
        """How long the work that is open will take."""
        return max(0.0, self._work_ns) * self._correction / self._num_workers

    def part_started(self, work: OpenWork) -> None:
        """Book a query as no longer waiting, if it is the first of its parts."""
        self.num_waiting -= work.is_waiting
        work.is_waiting = False

    def part_done(self, work: OpenWork, num_items: int) -> None:
        """Book so many items of a query as done, in the stage that it is in."""
        done_ns = min(work.work_ns, num_items * work.item_ns[0])
        work.work_ns -= done_ns
        self._work_ns -= done_ns

    def stage_done(self, work: OpenWork) -> None:
        """Book a query as having come to its next stage."""
        del work.item_ns[0], work.later_ns[0]

    def leave(self, work: OpenWork) -> None:
        """Book a query as ended, in whatever way."""
        self.part_started(work)
        self.num_queries -= 1
        self.num_items -= work.num_items
        self._work_ns = self._work_ns - work.work_ns if self.num_items else 0.0

    def learn_answer(self, longer_ns: float) -> None:
        """Take in how much longer than predicted an answer took until it was sent."""
        if self._margin is not None:
            self._margin.learn(longer_ns)

    def learn(self, num_items: int, took_ns: int, filtered_by: int | None = None) -> None:
        """Compare a batch with what was predicted for it.

        Args:
            num_items: of the batch.
            took_ns: how long it took.
            filtered_by: number of the filter that it was for; None: for the model.
        """
        filters = self._filters_predict_ns
        predict_ns = self._predict_ns if filtered_by is None else filters[filtered_by]
        surprise = took_ns / max(1.0, predict_ns(num_items))
        low, high = _CORRECTION
        surprise = min(max(surprise, low), high)
        self._correction += _LEARNING_RATE * (surprise - self._correction)
