"""How long a part of a query will take, from the fleet's tables: what policies that look ahead ask.

Predictions are medians with every worker of the device busy, which is when a wrong one would hurt.
"""

from __future__ import annotations

from tailrank.core.fleet import Fleet
from tailrank.core.query import Query

_CUTS_MAX = 16  # numbers of parts to compare; tables are flat long before a query is in as many
_KNOWN_MAX = 1 << 16  # answers to remember


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
        self._cuts: dict[tuple[str, int, int, int], tuple[int, int]] = {}

    def batch_ns(self, query: Query, num_parts: int, num_items: int, num_ids: int) -> int:
        """Service time of a batch of this query's model.

        Raises:
            ConfigError: the fleet does not know the model.
            OutsideProfile: nobody measured such a batch.
        """
        table = self._tables.get(query.model) or self._fleet.table(query.model, self._slot)
        return table.lookup_ns(num_parts, num_items, num_ids, self._busy[query.model])

    def part_ns(self, query: Query, num_items: int) -> int:
        """Service time of so many of the query's items in a batch of their own; see `batch_ns`."""
        return self.batch_ns(query, 1, num_items, query.num_ids * num_items // query.num_items)

    def cheapest_cut(self, query: Query, num_items: int) -> tuple[int, int]:
        """The number of parts that takes the least work, and that work in ns of one worker.

        One part pays the fixed costs once, but some models are at their best on small batches.
        """
        key = (query.model, num_items, query.num_items, query.num_ids)
        found = self._cuts.get(key)
        if found is None:
            least = -(-num_items // self.items_max)
            cuts = range(least, min(num_items, least + _CUTS_MAX - 1) + 1)
            work_ns, cut = min((k * self.part_ns(query, -(-num_items // k)), k) for k in cuts)
            found = cut, work_ns
            if len(self._cuts) < _KNOWN_MAX:
                self._cuts[key] = found
        return found
