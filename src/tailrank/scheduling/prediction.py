"""How long a part of a query will take, from the fleet's tables: what policies that look ahead ask.

Predictions are medians with every worker of the device busy, which is when a wrong one would hurt.
What is asked once is remembered: a policy asks at every step, mostly for queries of few sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tailrank.core.fleet import Fleet
from tailrank.core.query import Query

_CUTS_MAX = 16  # numbers of parts to compare; tables are flat long before a query is in as many
_KNOWN_MAX = 1 << 17  # answers to remember


class Prediction:
    """Predicted service times on workers of one device.

    Args:
        fleet: has the tables.
        device: of the workers.
        batch_items_max: most items of a batch.
        batch_parts_max: most parts of a batch.
    """

    def __init__(
        self, fleet: Fleet, device: str, batch_items_max: int, batch_parts_max: int
    ) -> None:
        self._tables = {model: it for (model, of), it in fleet.tables.items() if of == device}
        self._fleet, self._slot = fleet, fleet.devices.index(device)
        num_workers = fleet.devices.count(device)
        axes = [table.axes for table in self._tables.values()]
        self._busy = {
            model: min(num_workers, int(table.axes["busy_workers"][-1]))
            for model, table in self._tables.items()
        }
        # Nobody measured beyond the tables: a batch stays inside all of them.
        self.items_max = min(batch_items_max, *(int(it["num_items"][-1]) for it in axes))
        self.parts_max = min(batch_parts_max, *(int(it["num_parts"][-1]) for it in axes))
        self._known: dict[tuple[str, int, int], QueryPrediction] = {}
        self._num_known = 0

    def of(self, query: Query) -> QueryPrediction:
        """What is known of queries like this one."""
        key = query.model, query.num_items, query.num_ids
        found = self._known.get(key)
        if found is None:
            self.make_room()
            found = self._known[key] = QueryPrediction(self, query)
        return found

    def make_room(self) -> None:
        """Count an answer that will be remembered; where they are too many, forget them all."""
        self._num_known += 1
        if self._num_known > _KNOWN_MAX:
            self._known.clear()
            self._num_known = 1

    def batch_ns(self, model: str, num_parts: int, num_items: int, num_ids: int) -> int:
        """Service time of a batch of the model.

        Raises:
            ConfigError: the fleet does not know the model.
            OutsideProfile: nobody measured such a batch.
        """
        table = self._tables.get(model) or self._fleet.table(model, self._slot)
        return table.lookup_ns(num_parts, num_items, num_ids, self._busy[model])


@lru_cache(maxsize=16)
def predict(fleet: Fleet, device: str, batch_items_max: int, batch_parts_max: int) -> Prediction:
    """A `Prediction`, the same one for equal fleets: a search simulates them a thousand times."""
    return Prediction(fleet, device, batch_items_max, batch_parts_max)


class QueryPrediction:
    """Predicted service times of all queries of one model, size and number of ids.

    `whole` is the rest of one of which nothing has started.

    Args:
        prediction: of the device.
        query: one of them.
    """

    def __init__(self, prediction: Prediction, query: Query) -> None:
        self._prediction = prediction
        self._model, self._num_items, self._num_ids = query.model, query.num_items, query.num_ids
        self._parts_ns: dict[int, int] = {}
        self._rests: dict[int, Rest] = {}
        self.whole = self.rest(query.num_items)

    def part_ns(self, num_items: int) -> int:
        """Service time of so many items in a batch of their own; see `Prediction.batch_ns`."""
        found = self._parts_ns.get(num_items)
        if found is None:
            self._prediction.make_room()
            num_ids = self._num_ids * num_items // self._num_items
            found = self._prediction.batch_ns(self._model, 1, num_items, num_ids)
            self._parts_ns[num_items] = found
        return found

    def rest(self, num_items: int) -> Rest:
        """What it takes to rank the last so many items."""
        found = self._rests.get(num_items)
        if found is None:
            self._prediction.make_room()
            found = self._rests[num_items] = self._plan(num_items)
        return found

    def _plan(self, num_items: int) -> Rest:
        items_max = self._prediction.items_max
        least = -(-num_items // items_max)
        cuts = range(least, min(num_items, least + _CUTS_MAX - 1) + 1)
        work_ns, cut = min((k * self.part_ns(-(-num_items // k)), k) for k in cuts)
        large = min(num_items, items_max)
        small = (large + 1) // 2
        large_ns, small_ns = self.part_ns(large), self.part_ns(small)
        item_ns = max(1e-3, (large_ns - small_ns) / (large - small)) if large > small else large_ns
        fixed_ns = max(0.0, large_ns - item_ns * large)
        alone_ns = fixed_ns + item_ns * num_items
        return Rest(cut, -(-num_items // cut), work_ns, large, fixed_ns, item_ns, alone_ns)


@dataclass(frozen=True, slots=True)
class Rest:
    """What it takes to rank the last items of a query, on workers of one device.

    Args:
        num_parts: the number of parts that takes the least work. One part pays the fixed costs
            once, but some models are at their best on small batches.
        part_items: items of the largest of these parts.
        work_ns: time of one worker that they take.
        items_max: most items of one batch.
        fixed_ns: with `item_ns`, service time as a line through a part of `items_max` and half it.
        item_ns: > 0.
        alone_ns: all items on one worker, by that line.
    """

    num_parts: int
    part_items: int
    work_ns: int
    items_max: int
    fixed_ns: float
    item_ns: float
    alone_ns: float
