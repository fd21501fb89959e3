"""What idle time costs is measured on the workers that were idle, and on nothing else."""

import threading
import time

import numpy as np

from tailrank.characterization.wake_up import measure_wake_up
from tailrank.core.query import Query
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.runtime.live import LiveConfig

BATCH_NS, COLD_NS, COLD_AFTER_NS = 400_000, 1_500_000, 3_000_000


def test_the_first_batches_after_idle_time_are_the_ones_that_wake() -> None:
    last_ns = threading.local()

    def run_batch(batch):
        """A core that is cold after 3 ms without work."""
        now_ns = time.monotonic_ns()
        cold = now_ns - getattr(last_ns, "ns", 0) > COLD_AFTER_NS
        while time.monotonic_ns() < now_ns + BATCH_NS + cold * COLD_NS:
            pass
        last_ns.ns = time.monotonic_ns()
        return [None] * len(batch.parts)

    axes = {"num_parts": (1.0,), "num_items": (1.0, 2.0, 8.0), "ids_per_item": (3.0,)}
    axes["busy_workers"] = (1.0,)
    table = ServiceTimeTable(
        "", {name: axes[name] for name in AXES}, np.full((1, 3, 1, 1), BATCH_NS), np.ones(1)
    )
    sizes: set[tuple[int, int]] = set()

    def make_query(index: int, num_items: int, due_ns: int) -> Query:
        sizes.add((num_items, 3 * num_items))
        return Query(index, "", due_ns, None, num_items, 3 * num_items)

    wake_up = measure_wake_up(
        table,
        run_batch,
        make_query,
        initialise_worker=lambda slot: None,
        live=LiveConfig(pin=False),
        num_workers=1,
        budget_s=0.2,
    )
    assert sizes == {(1, 3), (2, 6)}, "places in the grid of batch sizes"
    costs = {round(idle_ns / 1e6): extra_ns for idle_ns, extra_ns in wake_up}
    assert list(costs) == sorted(costs)
    cold = [extra_ns for idle_ms, extra_ns in costs.items() if idle_ms >= 5]
    assert len(cold) == 2
    assert min(cold) > 0.8 * COLD_NS
    warm = [extra_ns for idle_ms, extra_ns in costs.items() if idle_ms < 3]
    assert all(extra_ns < min(cold) for extra_ns in warm)
