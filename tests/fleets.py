"""Fleets whose service times are lines, for tests."""

import numpy as np

from tailrank.core.fleet import Fleet
from tailrank.core.service_time import AXES, ServiceTimeTable

ITEMS = (1.0, 8.0, 1000.0)
PARTS = (1.0, 8.0)
BUSY = (1.0, 16.0)


def line_table(fixed_ns: float, item_ns: float, part_ns: float = 0.0) -> ServiceTimeTable:
    """Batches of 1 to 1000 items take `fixed_ns`, and `item_ns` and `part_ns` for each.

    Busy workers do not slow one another down.
    """
    parts, items = np.meshgrid(PARTS, ITEMS, indexing="ij")
    median_ns = fixed_ns + item_ns * items + part_ns * parts
    median_ns[items < parts] = np.nan
    axes = dict(zip(AXES, (PARTS, ITEMS, (0.0,), BUSY), strict=True))
    grid_ns = np.repeat(median_ns.reshape(2, 3, 1, 1), len(BUSY), axis=3)
    return ServiceTimeTable("", axes, grid_ns, np.array([1.0]))


def line_fleet(num_workers: int, fixed_ns: float, item_ns: float, part_ns: float = 0.0) -> Fleet:
    """Workers of one device; see `line_table`."""
    return Fleet.uniform(line_table(fixed_ns, item_ns, part_ns), num_workers)


def mixed_fleet(num_cores: int) -> Fleet:
    """Cores, and last an accelerator: dear to start, a tenth of the time for each item."""
    tables = {("", "cpu"): line_table(100.0, 100.0), ("", "cuda"): line_table(2000.0, 10.0)}
    return Fleet(("cpu",) * num_cores + ("cuda",), tables)
