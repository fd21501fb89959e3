"""What the event loop costs: Python per batch with a null ranker, and simulated events.

Also the measurement behind the default switch interval: a NumPy-heavy ranker alone in its process
and beside a thread that computes in Python. Rounds are interleaved; each figure is the median over
rounds with the interval of order statistics that covers it at 95 % or more (six rounds and up).

    python benchmarks/bench_loop.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.stats import binom

from tailrank.characterization.service_time import NUM_ITEMS_GRID, NUM_PARTS_GRID
from tailrank.core.fleet import Fleet
from tailrank.core.latency import LatencySummary
from tailrank.core.query import Batch
from tailrank.core.service_time import AXES, ServiceTimeTable
from tailrank.core.sla import SLA
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.runtime.live import LiveConfig, available_workers, run_live
from tailrank.runtime.virtual import TableServiceTime, simulate
from tailrank.scheduling.policies import PolicyConfig
from tailrank.workload.schedule import WorkloadConfig, draw_schedule

SEED = 0
NULL_BATCHES = 5000
SIMULATED_QUERIES = 20_000
SWITCH_INTERVALS_S = {"5ms": 5e-3, "1ms": 1e-3, "100us": 1e-4, "50us": 5e-5}
# About 1 ms: native calls as a small DLRM makes them, and Python as for joining features.
BUSY_STEPS, BUSY_ELEMENTS, BUSY_ITERATIONS = 50, 12_000, 6_000
BESIDE_SECONDS = 0.1  # at 5 ms a batch takes a tenth of a second: few must do
ONE_BY_ONE = PolicyConfig(policy="static", batch_items_max=1)
IDS_PER_ITEM = 80
SIMULATED = {
    "static": PolicyConfig(policy="static", batch_items_max=256),
    "coalescing": PolicyConfig(policy="coalescing", batch_items_max=256, delay_max_ns=1_000_000),
    "slack": PolicyConfig(policy="slack", batch_items_max=256, sla=SLA.parse("p95=10ms")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = 6 if arguments.quick else 15
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        measure_null_ranker(seen)
        measure_simulation(seen)
        measure_switch_intervals(seen, seconds=0.5 if arguments.quick else 3.0)
    result = Result(
        command="bench_loop",
        config={
            "rounds": rounds,
            "null_batches": NULL_BATCHES,
            "simulated_queries": SIMULATED_QUERIES,
            "workers": available_workers(),
        },
        seed=SEED,
        metrics={name: float(np.median(values)) for name, values in seen.items()},
        intervals={name: median_interval(values) for name, values in seen.items()},
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def median_interval(values: list[float]) -> tuple[float, float]:
    """The narrowest symmetric pair of order statistics that covers the median at 95 %."""
    count = len(values)
    rank = int(binom.ppf(0.025, count, 0.5))  # 0-based; 0 where there are too few rounds
    ordered = sorted(values)
    return ordered[max(0, rank - 1)], ordered[min(count - 1, count - rank)]


def measure_null_ranker(seen: dict[str, list[float]]) -> None:
    """Everything is due at once, so the workers never wait and their time is the loop's."""
    schedule = draw_schedule(WorkloadConfig(sizes="fixed:1"), qps=1e9, num_queries=NULL_BATCHES)

    def run_nothing(batch: Batch) -> tuple[None, ...]:
        return (None,) * len(batch.parts)

    for num_workers in sorted({1, available_workers()}):
        result = run_live(schedule, ONE_BY_ONE, num_workers=num_workers, run_batch=run_nothing)
        done_ns = result.batches.done_ns
        overhead_us = (done_ns[-1] - done_ns[0]) / 1e3 / (len(done_ns) - 1)
        name = "loop.overhead_us_per_batch"
        seen[name if num_workers == 1 else f"{name}_{num_workers}_workers"].append(overhead_us)


def measure_simulation(seen: dict[str, list[float]]) -> None:
    """A busy queue of production sizes, drawn beforehand, as a search simulates it: from a table.

    An event is a step of the loop: an arrival, the end of a batch or a timer. The time is that of
    the processor, on which nothing else runs meanwhile; the plain metric is the slowest policy's.
    """
    table = make_table()
    fleet = Fleet.uniform(table, 2)  # one for all runs, as in a search
    schedule = draw_schedule(
        WorkloadConfig(sizes="production", ids_per_item=IDS_PER_ITEM),
        qps=500.0,
        num_queries=SIMULATED_QUERIES,
    )
    rates = []
    for name, policy in SIMULATED.items():
        steps = _StepCounter()

        def run(policy: PolicyConfig = policy, journal: _StepCounter | None = None) -> None:
            simulate(
                schedule,
                policy,
                num_workers=2,
                service_time_ns=TableServiceTime(table, SEED),
                journal=journal,
                fleet=fleet,
            )

        run(journal=steps)
        started = time.process_time()
        run()
        rates.append(steps.count / (time.process_time() - started))
        seen[f"simulated_events_per_s.{name}"].append(rates[-1])
    seen["simulated_events_per_s"].append(min(rates))


def make_table() -> ServiceTimeTable:
    """A small DLRM by formula: a fixed cost, a price per part and per item, some contention."""
    axes = (NUM_PARTS_GRID, NUM_ITEMS_GRID, (IDS_PER_ITEM,), (1, 2))
    parts, items, _, busy = np.meshgrid(*axes, indexing="ij")
    median_ns = (40_000.0 + 10_000.0 * parts + 9_000.0 * items) * (0.9 + 0.1 * busy)
    return ServiceTimeTable(
        device="cpu",
        axes={name: tuple(map(float, axis)) for name, axis in zip(AXES, axes, strict=True)},
        median_ns=np.where(items >= parts, median_ns, np.nan),
        spread=np.linspace(0.9, 1.4, 200),
    )


class _StepCounter:
    """A journal that only counts."""

    def __init__(self) -> None:
        self.count = 0

    def record(self, event: object, now_ns: int, decision: object) -> None:
        """One more step."""
        self.count += 1


def measure_switch_intervals(seen: dict[str, list[float]], seconds: float) -> None:
    """One worker at light load, alone in its process and beside a thread of pure Python."""
    run_batch, batch_ns = make_numpy_ranker()
    for beside, limit in (("alone", seconds), ("beside_python", BESIDE_SECONDS)):
        qps = 0.3e9 / batch_ns
        schedule = draw_schedule(
            WorkloadConfig(sizes="fixed:1"), qps=qps, num_queries=round(qps * limit)
        )
        for name, interval_s in SWITCH_INTERVALS_S.items():
            with python_thread(beside == "beside_python"):
                result = run_live(
                    schedule,
                    ONE_BY_ONE,
                    num_workers=1,
                    run_batch=run_batch,
                    config=LiveConfig(switch_interval_s=interval_s),
                )
            prefix = f"switch_interval_{name}.{beside}"
            seen[f"{prefix}.service_ms_mean"].append(result.service_time_ns.mean() / 1e6)
            median_ns = LatencySummary.of(result.latency_ns).percentile(50.0).value
            seen[f"{prefix}.latency_ms_p50"].append(median_ns / 1e6)


@contextmanager
def python_thread(wanted: bool) -> Iterator[None]:
    """A thread that never leaves the interpreter, as one that writes JSON or counts metrics."""
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            for _ in range(1000):
                pass

    thread = threading.Thread(target=count)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if wanted:
            thread.join()


def make_numpy_ranker() -> tuple[Callable[[Batch], list[None]], float]:
    """Batches of native calls that let go of the interpreter lock and of Python that does not."""
    rng = np.random.default_rng(SEED)
    source, target = rng.random(BUSY_ELEMENTS), np.empty(BUSY_ELEMENTS)

    def work() -> None:
        for _ in range(BUSY_STEPS):
            np.sqrt(source, out=target)
        for _ in range(BUSY_ITERATIONS):
            pass

    times_ns = []
    for _ in range(50):
        started = time.perf_counter_ns()
        work()
        times_ns.append(time.perf_counter_ns() - started)

    def run_batch(batch: Batch) -> list[None]:
        work()
        return [None] * len(batch.parts)

    return run_batch, float(np.median(times_ns))


if __name__ == "__main__":
    main()
