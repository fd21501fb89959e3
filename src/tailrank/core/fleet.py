"""What a run is served by: the device of each worker slot, and how long each model takes there.

Policies predict with it and simulations draw from it. It must not know what a device is: a name
binds a slot to its tables, and `CPU` to a core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tailrank.core.errors import ConfigError
from tailrank.core.query import Batch
from tailrank.core.service_time import ServiceTimeTable

CPU = "cpu"  # the device whose slots are threads that compute themselves, a core for each


@dataclass(frozen=True, slots=True)
class Fleet:
    """Worker slots and service-time tables; equal where slots are alike and tables the very same.

    Args:
        devices: the device of each worker slot, such as `cpu` or `cuda`.
        tables: the service times of each (model, device).

    Raises:
        ConfigError: there is no slot or no model, or a model lacks the table of a slot's device.
    """

    devices: tuple[str, ...]
    tables: Mapping[tuple[str, str], ServiceTimeTable]

    def __post_init__(self) -> None:
        if not self.devices:
            raise ConfigError("fleet.devices", None, "a device for each worker slot")
        if not self.tables:
            raise ConfigError("fleet.tables", None, "a service-time table for each model")
        for model in {model for model, _ in self.tables}:
            for device in self.devices:
                if (model, device) not in self.tables:
                    known = ", ".join(repr(at) for of, at in self.tables if of == model)
                    raise ConfigError("fleet.devices", device, f"a device of {model!r}: {known}")

    def __hash__(self) -> int:
        return hash(self.devices)  # tables come in a mapping, which has none

    @classmethod
    def uniform(cls, table: ServiceTimeTable, num_workers: int, *, model: str = "") -> Fleet:
        """A fleet of one model on `num_workers` workers that are all alike."""
        return cls((CPU,) * num_workers, {(model, CPU): table})

    def table(self, model: str, slot: int) -> ServiceTimeTable:
        """The service times of a model on a slot's device.

        Raises:
            ConfigError: the fleet has no such model or slot.
        """
        if not 0 <= slot < len(self.devices):
            last = len(self.devices) - 1
            raise ConfigError("slot", slot, f"a worker slot of the fleet, 0 to {last}")
        try:
            return self.tables[model, self.devices[slot]]
        except KeyError:
            known = ", ".join(sorted({repr(name) for name, _ in self.tables}))
            raise ConfigError("model", model, f"a model of the fleet: {known}") from None

    def predict_ns(self, batch: Batch, busy_workers: int) -> int:
        """Median service time of a batch on its slot, in ns.

        Args:
            batch: all its parts are of one model.
            busy_workers: workers of that device busy while it runs, itself included.

        Raises:
            ConfigError: see `table`.
            OutsideProfile: nobody measured such a batch.
        """
        table = self.table(batch.parts[0].query.model, batch.slot)
        return table.lookup_ns(len(batch.parts), batch.num_items, batch.num_ids, busy_workers)

    def to_record(self) -> dict[str, Any]:
        """The fleet as plain lists and dicts, for JSON."""
        tables = [[*key, table.to_record()] for key, table in self.tables.items()]
        return {"devices": list(self.devices), "tables": tables}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Fleet:
        """The fleet that `to_record` wrote down.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: it is none.
        """
        tables = {
            (model, device): ServiceTimeTable.from_record(table)
            for model, device, table in record["tables"]
        }
        return cls(tuple(record["devices"]), tables)
