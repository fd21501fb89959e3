"""Service-time tables on disk whose times are known."""

from pathlib import Path

import numpy as np

from tailrank.core.service_time import ServiceTimeTable


def profile(path: Path, ns_per_item: float, *, ids_per_item: float = 3.0, busy: int = 2) -> Path:
    """A table of `ns_per_item` whatever the parts and the busy workers."""
    items = (1.0, 100.0)
    axes = {
        "num_parts": (1.0,),
        "num_items": items,
        "ids_per_item": (ids_per_item,),
        "busy_workers": tuple(map(float, range(1, busy + 1))),
    }
    median_ns = np.broadcast_to(
        ns_per_item * np.array(items)[None, :, None, None], (1, 2, 1, busy)
    ).copy()
    ServiceTimeTable("cpu m", axes, median_ns, np.ones(1)).save(path)
    return path
