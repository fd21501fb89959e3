"""Live capacity of DLRM-RMC1 against what its service time allows, all features per item.

In one run: the loop's own cost with a null ranker; the machine's floor for one query (random rows
of the model's own table, fp32 matrix products); the service time t of 128 items, before and after;
the tuned capacity, simulated and live. The fixed bound is capacity >= 0.75 * workers / t.

    python benchmarks/bench_capacity.py [--quick] [--json PATH] [--precision rows=bf16]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from tailrank.characterization.bench import TargetBench
from tailrank.characterization.load_test import measure_overhead_ns
from tailrank.characterization.operating_point import OperatingPoint, OperatingPointConfig
from tailrank.characterization.operating_point_search import find_operating_point
from tailrank.characterization.service_time import ProfileConfig, measure_service_times
from tailrank.characterization.target import Target, TargetConfig, initialise_worker, open_target
from tailrank.core.sla import SLA
from tailrank.inference.cpu import CpuRanker
from tailrank.inference.precision import Precision
from tailrank.reporting import operating_point as reported
from tailrank.reporting.console import Console
from tailrank.reporting.result import Result, to_json, write_result

ITEMS = 128
WORKERS = 2
SIZES = "normal:128,16"
SLA_TEXT = "p95=100ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--scale", type=float, default=0.25)
    arguments = parser.parse_args()

    metrics = {"loop.overhead_us_per_batch": measure_overhead_ns() / 1e3}
    target_config = TargetConfig(
        target="preset:dlrm-rmc1",
        scale=arguments.scale,
        precision=Precision.parse(arguments.precision),
    )
    target = open_target(target_config, print)
    metrics |= floor_of_a_query(target, rounds=5 if arguments.quick else 25)
    before_ns = service_time_ns(target, arguments.quick)
    config = OperatingPointConfig(
        sla=SLA.parse(SLA_TEXT),
        sizes=SIZES,
        policies=("static",),
        num_workers=WORKERS,
        budget_s=30.0 if arguments.quick else 240.0,
    )
    with Console().progress("profile") as progress:
        point = find_operating_point(config, TargetBench(target), on_progress=progress.at)
    after_ns = service_time_ns(target, arguments.quick)
    metrics |= compare(point, (before_ns, after_ns))
    metrics["rmc1.service_time_over_floor"] = (
        metrics["rmc1.service_time_ms_items_128"] / metrics["floor.query_ms"]
    )
    result = Result(
        command="bench_capacity",
        config={
            "target": asdict(target_config),
            "operating_point": config,
            "ranker": target.describe(),
            "setting": "all features per item",
        },
        seed=0,
        metrics=metrics,
        intervals={f"rmc1.{name}": pair for name, pair in reported.intervals(point).items()},
        validity=reported.validity(point),
    )
    if arguments.json:
        write_result(arguments.json, result)
    print(to_json(result))


def service_time_ns(target: Target, quick: bool) -> float:
    """Median service time of 128 cold items on one worker, the other idle."""
    config = ProfileConfig(num_items=(ITEMS,), num_parts=(1,), budget_s=0.5 if quick else 2.0)
    table = measure_service_times(
        config,
        target.run_batch,
        target.pool.payload,
        device="cpu",
        ids_per_item=target.ids_per_item,
        initialise_worker=initialise_worker,
    )
    return float(table.median_ns[0, 0, 0, 0])


def floor_of_a_query(target: Target, rounds: int) -> dict[str, float]:
    """What this core needs at least for 128 items: its random rows, and its multiplications.

    The rows are read by torch's own lookup in one large bag per item, with ids at hand: nothing is
    checked, split or joined. The products run at the rate of one large matrix product.
    """
    assert isinstance(target.ranker, CpuRanker)
    weight_VD = target.ranker.arena.tensor
    num_ids = round(ITEMS * target.ids_per_item)
    offsets = torch.arange(0, num_ids + 1, num_ids // ITEMS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():

        def look_up() -> float:
            ids_L = torch.randint(0, weight_VD.shape[0], (num_ids,))
            return timed(
                lambda: torch.embedding_bag(weight_VD, ids_L, offsets, False, 0, False, None, True)
            )

        rows_s = statistics.median(look_up() for _ in range(rounds))
        square = torch.randn(1024, 1024)
        product_s = statistics.median(timed(lambda: square @ square) for _ in range(rounds))
    torch.set_num_threads(threads)
    flops_per_s = 2 * 1024**3 / product_s
    dense_s = ITEMS * flops_per_item(target) / flops_per_s
    return {
        "floor.lookup_ns_per_row": rows_s / num_ids * 1e9,
        "floor.lookup_gb_per_s": num_ids * weight_VD[0].nbytes / rows_s / 1e9,
        "floor.matmul_gflop_per_s": flops_per_s / 1e9,
        "floor.query_ms": (rows_s + dense_s) * 1e3,
        "floor.capacity_qps": WORKERS / (rows_s + dense_s),
    }


def flops_per_item(target: Target) -> int:
    """Multiplications and additions of the dense layers for one item."""
    assert isinstance(target.ranker, CpuRanker)
    return 2 * target.ranker.num_dense_weights


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(point: OperatingPoint, service_ns: tuple[float, float]) -> dict[str, float]:
    """The tuned capacity against its bound, and the simulation against it."""
    mean_s = statistics.fmean(service_ns) / 1e9
    ceiling_qps = WORKERS / mean_s
    found = {f"rmc1.{name}": value for name, value in reported.metrics(point).items()}
    live, simulated = found["rmc1.tuned.capacity_qps"], point.tuned.simulated.capacity_qps
    return found | {
        "rmc1.service_time_ms_items_128": mean_s * 1e3,
        "rmc1.service_time_drift_fraction": abs(service_ns[1] / service_ns[0] - 1.0),
        "rmc1.ceiling_qps": ceiling_qps,
        "rmc1.capacity_over_ceiling": live / ceiling_qps,
        "rmc1.simulated_over_live": simulated / live,
    }


if __name__ == "__main__":
    main()
