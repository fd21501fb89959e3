"""How long a batch takes on this host, as measured: the one thing a simulation believes.

The table is a grid over (num_parts, num_items, ids per item, busy_workers). Between grid points it
interpolates linearly; outside it raises `OutsideProfile`, because nobody measured there.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrank.core.errors import ConfigError, DataError, OutsideProfile
from tailrank.core.files import replace_text

AXES = ("num_parts", "num_items", "ids_per_item", "busy_workers")
_FORMAT_VERSION = 1
_KNOWN_MAX = 1 << 14  # batches to remember; a simulation asks for the same few hundred


@dataclass(frozen=True, slots=True, eq=False)
class ServiceTimeTable:
    """Median service time of a batch and its spread.

    Args:
        device: what ran the batches, such as `cpu`, and which model's.
        axes: the grid, one strictly increasing tuple per name in `AXES`. `ids_per_item` may hold
            one value (bags of fixed size): then only batches of that many ids per item are known,
            to within one id per item.
        median_ns: float64 of the grid's shape; NaN where a point cannot exist (fewer items than
            parts).
        spread: sorted ratios service time / median over all grid points, >= 1 entry; a simulation
            draws from it.
        wake_up: rising pairs (idle time in ns > 0, how much longer in ns the next batch takes): a
            worker that was idle wakes late, and its caches are cold. The grid knows nothing of it:
            its workers were never idle. Empty: not measured, counted as nothing.
    """

    device: str
    axes: dict[str, tuple[float, ...]]
    median_ns: NDArray[np.float64]
    spread: NDArray[np.float64]
    wake_up: tuple[tuple[float, float], ...] = ()
    _known: dict[tuple[int, int, int], BatchMedians] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        shape = tuple(len(self.axes[name]) for name in AXES)
        if self.median_ns.shape != shape:
            raise ConfigError("median_ns.shape", self.median_ns.shape, f"the axes' shape {shape}")
        if not len(self.spread) or not all(shape):
            raise ConfigError("spread and axes", "an empty one", "at least one entry each")
        for name in AXES:
            points = self.axes[name]
            if any(low >= high for low, high in pairwise(points)):
                raise ConfigError(f"axes.{name}", points, "strictly increasing numbers")
        idle = [0.0, *(idle_ns for idle_ns, _ in self.wake_up)]
        if any(low >= high for low, high in pairwise(idle)):
            raise ConfigError("wake_up", self.wake_up, "idle times above 0, strictly increasing")

    def lookup_ns(self, num_parts: int, num_items: int, num_ids: int, busy_workers: int) -> int:
        """Median service time of a batch in ns.

        Args:
            num_parts: parts in the batch, >= 1.
            num_items: items in the batch, >= num_parts.
            num_ids: sparse ids in the batch.
            busy_workers: workers busy while it runs, itself included.

        Raises:
            OutsideProfile: the point lies outside the measured grid.
        """
        return self.batch_medians(num_parts, num_items, num_ids)[busy_workers]

    def wake_up_ns(self, idle_ns: int) -> float:
        """How much longer a batch takes on a worker that was idle so long; see `wake_up`.

        A line from pair to pair, from nothing without idle time; beyond the last pair as there.
        """
        before_ns = before_extra_ns = 0.0
        for at_ns, extra_ns in self.wake_up:
            if idle_ns < at_ns:
                share = (idle_ns - before_ns) / (at_ns - before_ns)
                return before_extra_ns + share * (extra_ns - before_extra_ns)
            before_ns, before_extra_ns = at_ns, extra_ns
        return before_extra_ns

    def batch_medians(self, num_parts: int, num_items: int, num_ids: int) -> BatchMedians:
        """A batch's median service times by the number of busy workers; see `lookup_ns`."""
        key = num_parts, num_items, num_ids
        medians = self._known.get(key)
        if medians is None:
            if len(self._known) >= _KNOWN_MAX:  # two threads may both add the last one
                self._known.clear()
            medians = self._known[key] = BatchMedians(self, key)
        return medians

    def interpolate_ns(
        self, num_parts: int, num_items: int, num_ids: int, busy_workers: int
    ) -> int:
        """`lookup_ns`, from the grid each time."""
        ids_per_item = num_ids / num_items
        ids_axis = self.axes["ids_per_item"]
        if len(ids_axis) == 1 and abs(ids_per_item - ids_axis[0]) <= 1.0:
            ids_per_item = ids_axis[0]
        point = (float(num_parts), float(num_items), ids_per_item, float(busy_workers))
        parts, items, *rest = [
            self._bracket(name, value) for name, value in zip(AXES, point, strict=True)
        ]
        total = self._weigh([(p[0], n[0], p[1] * n[1]) for p, n in product(parts, items)], rest)
        if total != total and len(parts) == len(items) == 2 and parts[1][1] <= items[1][1]:
            # The corner of more parts than items cannot exist, but the triangle of the other three
            # holds this point: interpolate on the plane through them.
            (fewer, _), (more, part_share) = parts
            (small, _), (large, item_share) = items
            total = self._weigh(
                [
                    (fewer, small, 1.0 - item_share),
                    (fewer, large, item_share - part_share),
                    (more, large, part_share),
                ],
                rest,
            )
        if total != total:
            raise OutsideProfile(
                f"no service time was measured for {num_parts} parts with {num_items} items"
            )
        return round(total)

    def _weigh(
        self,
        corners: list[tuple[int, int, float]],
        rest: list[tuple[tuple[int, float], ...]],
    ) -> float:
        """Weighted sum over corners of the first two axes and brackets of the others."""
        total = 0.0
        for part, item, weight in corners:
            for (ids, ids_share), (busy, busy_share) in product(*rest):
                median_ns = float(self.median_ns[part, item, ids, busy])
                total += weight * ids_share * busy_share * median_ns
        return total

    def _bracket(self, name: str, value: float) -> tuple[tuple[int, float], ...]:
        """The one or two grid indices around `value` with their weights."""
        points = self.axes[name]
        if not points[0] <= value <= points[-1]:
            raise OutsideProfile(
                f"{name} = {value:g} is outside the profile, which measured "
                f"{points[0]:g} to {points[-1]:g}; profile this host with a wider grid"
            )
        upper = bisect_right(points, value)
        if points[upper - 1] == value:
            return ((upper - 1, 1.0),)
        share = (value - points[upper - 1]) / (points[upper] - points[upper - 1])
        return ((upper - 1, 1.0 - share), (upper, share))

    def to_record(self) -> dict[str, Any]:
        """The table as plain lists and dicts, for JSON (NaN as null)."""
        values = [None if np.isnan(value) else float(value) for value in self.median_ns.ravel()]
        return {
            "format_version": _FORMAT_VERSION,
            "device": self.device,
            "axes": {name: list(self.axes[name]) for name in AXES},
            "median_ns": values,
            "spread": [float(ratio) for ratio in self.spread],
            "wake_up": [list(pair) for pair in self.wake_up],
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ServiceTimeTable:
        """The table that `to_record` wrote down.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: it is none of this version.
        """
        if record["format_version"] != _FORMAT_VERSION:
            raise ValueError(
                f"format version {record['format_version']}; expected {_FORMAT_VERSION}"
            )
        axes = {name: tuple(map(float, record["axes"][name])) for name in AXES}
        values = [np.nan if value is None else value for value in record["median_ns"]]
        return cls(
            device=record["device"],
            axes=axes,
            median_ns=np.array(values, dtype=np.float64).reshape([*map(len, axes.values())]),
            spread=np.array(record["spread"], dtype=np.float64),
            # Tables of before it was measured have none.
            wake_up=tuple((float(idle), float(extra)) for idle, extra in record.get("wake_up", ())),
        )

    def with_busy_workers(self, count: int) -> ServiceTimeTable:
        """The table as if contention grew no further from its most busy workers up to `count`.

        Nobody measured that: whoever asks has to say so beside every figure.
        """
        busy = self.axes["busy_workers"]
        assert count > busy[-1], "what was measured is not assumed"
        at_most = self.median_ns[..., -1:]
        return replace(
            self,
            axes={**self.axes, "busy_workers": (*busy, float(count))},
            median_ns=np.concatenate([self.median_ns, at_most], axis=-1),
        )

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        replace_text(path, json.dumps(self.to_record()) + "\n")

    @classmethod
    def load(cls, path: Path) -> ServiceTimeTable:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing, not such a table, or of another version.
        """
        try:
            return cls.from_record(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataError(path, "no such file") from None
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise DataError(path, f"not a service-time table ({error})") from None


class BatchMedians(dict[int, int]):
    """Median service times in ns of one batch by busy workers, each looked up when first asked for.

    Raises:
        OutsideProfile: from `[]`; see `ServiceTimeTable.lookup_ns`.
    """

    def __init__(self, table: ServiceTimeTable, batch: tuple[int, int, int]) -> None:
        self._table, self._batch = table, batch

    def __missing__(self, busy_workers: int) -> int:
        found = self[busy_workers] = self._table.interpolate_ns(*self._batch, busy_workers)
        return found
