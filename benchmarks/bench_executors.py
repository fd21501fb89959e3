"""Where a server's workers compute: on their threads, or in a process each; and what a kill costs.

For a model that is mostly Python (NCF) and one that is mostly native code (DLRM-RMC1), in turns on
the same loaded tables: items per second of workers that are always busy, capacity inside an SLA in
an open loop, the cost of a call of 128 items. Then, under half of the processes' capacity, one
process after another is killed: queries lost, and the longest time until all were there again.

    python benchmarks/bench_executors.py [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from tailrank.characterization.load_test import LoadTestConfig, check_answers
from tailrank.characterization.target import Target, TargetConfig, initialise_worker, open_target
from tailrank.core.measurement import Measurement, Validity
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.core.sla import SLA
from tailrank.reporting.result import Result, to_json, write_result
from tailrank.runtime.forked import ForkedWorkers
from tailrank.runtime.live import run_live
from tailrank.runtime.measurement import to_measurement
from tailrank.runtime.record import QueryOutcome, RunResult
from tailrank.scheduling.policies import PolicyConfig
from tailrank.serving.executors import EXECUTORS, fork_rankers
from tailrank.tuning.capacity import Capacity, verify_capacity
from tailrank.workload.schedule import WorkloadConfig, draw_schedule
from worker_kills import killing

# By the name of its metrics: a preset, and the factor on its rows.
CASES = {"ncf": ("ncf", 1.0), "rmc1": ("dlrm-rmc1", 0.25)}
WORKERS = 2
SEED = 0
CALL_ITEMS = 128
POLICY = PolicyConfig(policy="static", batch_items_max=CALL_ITEMS)
SLA_FULL, SLA_QUICK = SLA.parse("p99=20ms"), SLA.parse("p95=20ms")
KILL_EVERY_S = 1.0
# Of DeepRecSys' production sizes: from where a search begins.
_MEAN_ITEMS = 239


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # before the fork: nothing here computes on more
    metrics: dict[str, float] = {}
    reasons: list[str] = []
    for case, (preset, scale) in CASES.items():
        bench = ExecutorBench(preset, scale, arguments.quick)
        with closing(bench.workers):
            found, invalid = bench.measure()
        metrics |= {f"{case}.{name}": value for name, value in found.items()}
        reasons += [f"{case}: {reason}" for reason in invalid]
    result = Result(
        command="bench_executors",
        config={
            "cases": CASES,
            "workers": WORKERS,
            "policy": POLICY,
            "sla": str(SLA_QUICK if arguments.quick else SLA_FULL),
            "sizes": "production",
            "quick": arguments.quick,
        },
        seed=SEED,
        metrics=metrics,
        validity=Validity(tuple(reasons)),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


class ExecutorBench:
    """One model under both executors, on the same tables.

    Args:
        preset: its name.
        scale: factor on its rows.
        quick: fewer rounds, shorter runs and a percentile that needs fewer queries.
    """

    def __init__(self, preset: str, scale: float, quick: bool) -> None:
        target = open_target(TargetConfig(target=f"preset:{preset}", scale=scale), print)
        (forked,) = fork_rankers([target.ranker], WORKERS)
        self.workers: ForkedWorkers = forked.workers
        self._targets = dict(zip(EXECUTORS, (target, replace(target, ranker=forked)), strict=True))
        self._quick = quick
        self._load = LoadTestConfig(
            workload=WorkloadConfig(
                sizes="production", ids_per_item=target.ids_per_item, model=target.name
            ),
            sla=SLA_QUICK if quick else SLA_FULL,
            num_workers=WORKERS,
            seconds=1.0 if quick else 10.0,
            queries=600 if quick else None,
        )

    def measure(self) -> tuple[dict[str, float], list[str]]:
        """All metrics, and why they should not be believed."""
        metrics = self._call_us()
        busy = self._items_per_s()
        metrics |= {f"items_per_s.{name}": rate for name, rate in busy.items()}
        reasons = []
        for name, target in self._targets.items():
            found = self._capacity(target, busy[name])
            metrics[f"capacity_qps.{name}"] = found.capacity_qps
            reasons += [f"{name}: {reason}" for reason in found.invalid_reasons]
        for name in ("items_per_s", "capacity_qps"):
            threads, processes = (metrics[f"{name}.{executor}"] for executor in EXECUTORS)
            if threads > 0:
                metrics[f"{name}.processes_over_threads"] = processes / threads
        return metrics | self._kill(0.5 * metrics["capacity_qps.processes"]), reasons

    def _call_us(self) -> dict[str, float]:
        """A call on one thread, in turns."""
        pool = self._targets["threads"].pool
        runners = {name: target.run_batch for name, target in self._targets.items()}
        times: dict[str, list[float]] = {name: [] for name in EXECUTORS}
        for number in range(50 if self._quick else 500):
            payload = pool.payload(number * CALL_ITEMS, CALL_ITEMS)
            query = Query(number, "", 0, None, CALL_ITEMS, 0, payload)
            batch = Batch(number, 0, (BatchPart(query, 0, CALL_ITEMS),))
            for name, run_batch in runners.items():
                started = time.perf_counter()
                run_batch(batch)
                times[name].append(time.perf_counter() - started)
        medians = {name: statistics.median(found) * 1e6 for name, found in times.items()}
        added = medians["processes"] - medians["threads"]
        return {f"call_us.{name}": value for name, value in medians.items()} | {
            "call_us.added": added
        }

    def _items_per_s(self) -> dict[str, float]:
        """All queries due at once, so that workers never wait; the best of rounds in turns."""
        best = dict.fromkeys(EXECUTORS, 0.0)
        workload = replace(self._load.workload, sizes=f"fixed:{CALL_ITEMS}")
        num_calls = 200
        for _ in range(3 if self._quick else 9):
            for name, target in self._targets.items():
                schedule = draw_schedule(
                    workload, qps=1e9, num_queries=num_calls, payload_for=target.pool.payload
                )
                rate = num_calls * CALL_ITEMS / serve(target, schedule).ended_ns * 1e9
                best[name] = max(best[name], rate)
        return best

    def _capacity(self, target: Target, items_per_s: float) -> Capacity:
        """The largest load inside the SLA, beginning at half of what is done without a pause."""

        def measure(policy: PolicyConfig, qps: float) -> Measurement:
            result = serve(target, self._schedule(target, qps, self._load.num_queries(qps)))
            return to_measurement(result, offered_qps=qps, sla=self._load.sla)

        end_s = time.monotonic() + (8.0 if self._quick else 240.0)
        return verify_capacity(
            measure,
            POLICY,
            self._load.sla,
            expected_qps=items_per_s / _MEAN_ITEMS / 2,
            step=1.25,
            tolerance=0.2 if self._quick else 0.03,
            seconds_left=lambda: end_s - time.monotonic(),
        )

    def _kill(self, qps: float) -> dict[str, float]:
        """One process after another, while queries come in an open loop."""
        if qps == 0.0:
            return {}
        seconds = 3.0 if self._quick else 20.0
        target = self._targets["processes"]
        schedule = self._schedule(target, qps, round(qps * seconds))
        with killing(lambda: self.workers.pids, WORKERS, KILL_EVERY_S) as recovery_s:
            result = serve(target, schedule, are_answered=False)
        return {
            "kills": len(recovery_s),
            "recovery_seconds_after_kill": max(recovery_s, default=math.inf),
            "lost_queries": int((result.queries.outcome != QueryOutcome.ANSWERED).sum()),
            "queries_under_kills": len(schedule),
        }

    def _schedule(self, target: Target, qps: float, num_queries: int) -> Sequence[Query]:
        return draw_schedule(
            self._load.workload,
            qps=qps,
            num_queries=num_queries,
            payload_for=target.pool.payload,
        )


def serve(target: Target, schedule: Sequence[Query], *, are_answered: bool = True) -> RunResult:
    """A live run; refuses one with failures unless they are counted."""
    result = run_live(
        schedule,
        POLICY,
        num_workers=WORKERS,
        run_batch=target.run_batch,
        initialise_worker=initialise_worker,
    )
    if are_answered:
        check_answers(result)
    return result


if __name__ == "__main__":
    main()
